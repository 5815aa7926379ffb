"""A stage's own account: every step into metrics.jsonl, and now and then a point to the observer.

Only rank 0 keeps one that writes. After a resume the lines beyond the checkpoint's step are cut off, so the file reads
as if nothing had happened.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from w2s_ray.store.files import writing
from w2s_ray.store.json_lines import whole_lines
from w2s_ray.training.checkpoints import Progress
from w2s_ray.training.progress import Activity, Observer, StageProgress

_REPORT_EVERY_SECONDS = 0.5


class Journal:
    """Where the loop tells what happened and asks whether to stop."""

    def __init__(self, identity: str, path: Path, observer: Observer | None, num_steps: int) -> None:
        """`observer` is None on every rank but 0."""
        self._identity, self._path, self._observer, self._num_steps = identity, path, observer, num_steps
        self._last_report = 0.0
        self._began = time.monotonic()
        self._first_step: int | None = None
        self._saved_step = 0

    def should_stop(self) -> bool:
        """Ask the observer."""
        return self._observer is not None and self._observer.should_stop()

    def resume_at(self, step: int) -> None:
        """Forget what was written after `step`, where the last checkpoint is."""
        self._saved_step = step
        if self._observer is None or not self._path.exists():
            return
        with writing(self._path):
            self._cut_after(step)

    def _cut_after(self, step: int) -> None:
        kept = [line + "\n" for line in whole_lines(self._path) if json.loads(line)["step"] <= step]
        self._path.write_text("".join(kept))

    def saved(self, step: int) -> None:
        """A checkpoint is whole; the next point says so."""
        self._saved_step = step

    def step(self, progress: Progress, values: Mapping[str, float]) -> None:
        """Write one step's values; pass them on if the last report is old enough or this is the last step."""
        if self._observer is None:
            return
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": progress.step, **values}) + "\n")
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._began = progress.step, now
        if now - self._last_report < _REPORT_EVERY_SECONDS and progress.step < self._num_steps:
            return
        self._last_report = now
        speed = progress.train_tokens / progress.train_seconds if progress.train_seconds else 0.0
        done = progress.step - self._first_step
        left = (now - self._began) / done * (self._num_steps - progress.step) if done else None
        self._report("training", progress.step, {**values, "tokens_per_second": speed}, left)

    def judged(self, progress: Progress, report: int, values: Mapping[str, float]) -> None:
        """Pass on one of the reports that a scheduler waits for."""
        if self._observer is not None:
            self._report("training", progress.step, values, None, report)

    def activity(self, activity: Activity, step: int = 0) -> None:
        """Say what the stage is at, outside its steps."""
        if self._observer is not None:
            self._report(activity, step, {}, None)

    def _report(
        self, activity: Activity, step: int, values: Mapping[str, float], left: float | None, report: int = 0
    ) -> None:
        assert self._observer is not None
        about = (self._identity, activity, step, self._num_steps)
        self._observer.report(StageProgress(*about, dict(values), left, report, self._saved_step))
