"""Metrics as JSON lines: one file per run, each line an object with `kind` run, point (one step) or summary.

Reading them needs no service and no package. Lines are only appended, so a resumed run continues its file.
"""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from w2s_ray.store.json_lines import open_for_appending
from w2s_ray.tracking.tracker import RunInfo


class JsonLinesTracker:
    """Writes `<folder>/<run id>.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def begin(self, run: RunInfo) -> None:
        if run.run_id in self._files:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files[run.run_id] = open_for_appending(self._folder / f"{run.run_id}.jsonl")
        fields = run.model_dump(mode="json", exclude={"config"})
        self._write(run.run_id, {"kind": "run", **fields, "config": run.settings})

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        self._write(run_id, {"kind": "point", "step": step, "values": _plain(values)})

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Append the summary and close the file; a stopped run has no summary yet."""
        if ended_well or summary:
            self._write(run_id, {"kind": "summary", "values": _plain(summary)})
        file = self._files.pop(run_id, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        for run_id in list(self._files):
            self._files.pop(run_id).close()

    def _write(self, run_id: str, line: Mapping[str, object]) -> None:
        file = self._files.get(run_id)
        if file is None:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        file.write(json.dumps({**line, "at": at}, allow_nan=False).encode() + b"\n")
        file.flush()


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace values that are not finite, which JSON does not have, by null."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
