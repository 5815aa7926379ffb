"""Points as JSON lines: one file per run, each line a JSON object with `kind` run, point or summary.

This is the account that needs no service and no package to read. Lines are only ever appended, so a run that is
resumed goes on below what it had.
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
        """`folder` is made when the first run begins."""
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def begin(self, run: RunInfo) -> None:
        """Open the run's file and say who it is."""
        if run.run_id in self._files:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{run.run_id}.jsonl"
        self._files[run.run_id] = open_for_appending(path)
        about = run.model_dump(mode="json", exclude={"config"})
        self._write(run.run_id, {"kind": "run", **about, "config": run.settings})

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Append one point."""
        self._write(run_id, {"kind": "point", "step": step, "values": _plain(values)})

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Append the summary and close the file; a run that was stopped has no summary yet."""
        if ended_well or summary:
            self._write(run_id, {"kind": "summary", "values": _plain(summary)})
        file = self._files.pop(run_id, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Close every file."""
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
    """Values that JSON can hold; what is not finite becomes null."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
