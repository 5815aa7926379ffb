"""Weights & Biases: a run per stage, a summary run per chain; the only module that imports wandb.

Runs are opened at their first metrics, several at once, each under its own deterministic id with `resume="allow"`, so a
resumed stage continues its own run. The network never stops the study: every wait has a time limit, and when the server
does not respond in time, runs continue offline in `<folder>/wandb`, from where `wandb sync` uploads them.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb.sdk.lib.wbauth import read_netrc_auth

from w2s_ray.errors import first_line
from w2s_ray.spec.study import TrackingSpec
from w2s_ray.tracking.tracker import RunInfo

Mode = Literal["online", "offline", "disabled"]
MAX_TAG_CHARS = 64
"""W&B refuses longer tags."""


class WandbTracker:
    """Metrics as W&B runs: online until the server fails, then offline."""

    def __init__(
        self,
        spec: TrackingSpec,
        folder: Path,
        *,
        init_timeout_seconds: float = 10.0,
        finish_timeout_seconds: float = 15.0,
        say: Callable[[str], None],
    ) -> None:
        """Run folders are made in `folder`/wandb; `say` prints the one line about the fallback to offline."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # the client's own telemetry
        os.environ.setdefault("WANDB_SILENT", "true")
        self._spec, self._folder, self._say = spec, folder, say
        self._timeouts = {"init_timeout": init_timeout_seconds, "finish_timeout": finish_timeout_seconds}
        self._mode = choose_mode(spec)
        if self._mode == "online" and not has_key():
            self._mode = "offline"
            self._say(f"W&B: no API key found, runs are kept offline; {self._how_to_sync()}")
        self._begun: dict[str, RunInfo] = {}
        self._open: dict[str, wandb.Run] = {}

    def begin(self, run: RunInfo) -> None:
        """Remember the run; it is opened at its first metrics."""
        self._begun.setdefault(run.run_id, run)

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values with `step` as a metric: W&B's own counter does not survive a resume."""
        if run_id in self._begun:
            self._with_offline_fallback(lambda: self._run(run_id).log({**values, "step": step}))

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Close the run with its summary; a run without metrics and summary leaves nothing behind."""
        if run_id in self._begun and (summary or run_id in self._open):
            self._end(run_id, summary, exit_code=0 if ended_well else 1)
        self._begun.pop(run_id, None)

    def close(self) -> None:
        """Close every open run as unfinished."""
        for run_id in list(self._open):
            self._end(run_id, {}, exit_code=1)
        self._begun.clear()

    def _end(self, run_id: str, summary: Mapping[str, float], exit_code: int) -> None:
        def end() -> None:
            if not summary and run_id not in self._open:
                return  # the run was closed with the server, and there is nothing to add
            run = self._run(run_id)
            run.summary.update(dict(summary))
            run.finish(exit_code=exit_code)

        self._with_offline_fallback(end)
        self._open.pop(run_id, None)

    def _run(self, run_id: str) -> wandb.Run:
        if run_id not in self._open:
            self._open[run_id] = self._init(self._begun[run_id])
        return self._open[run_id]

    def _init(self, info: RunInfo) -> wandb.Run:
        self._folder.mkdir(parents=True, exist_ok=True)
        assert self._mode != "disabled"
        run = wandb.init(
            entity=self._spec.entity,
            project=self._spec.project,
            dir=str(self._folder),
            id=info.run_id,
            name=info.name,
            group=info.group or info.study,
            job_type=info.job_type,
            tags=[fit_tag(tag) for tag in info.tags],
            config={**info.settings, "study": info.study, "chains": list(info.tags)},
            allow_val_change=True,
            mode=self._mode,
            reinit="create_new",
            resume="allow",
            settings=self._settings(),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run

    def _settings(self) -> wandb.Settings:
        """Send metrics only (no console, code, machine statistics or package list), with a time limit on each wait."""
        settings: dict[str, Any] = {
            **self._timeouts,
            "finish_timeout_raises": True,
            "login_timeout": 1,
            "console": "off",
            "silent": True,
            "disable_git": True,
            "disable_code": True,
            "x_disable_stats": True,
            "x_disable_meta": True,
            "x_save_requirements": False,
            "x_transaction_log_flush_interval": 5.0,
        }
        return wandb.Settings(**settings)

    def _with_offline_fallback(self, call: Callable[[], None]) -> None:
        """Do `call`; on an error of the server switch to offline mode and repeat it."""
        if self._mode == "disabled":
            return
        try:
            call()
        except Exception as error:
            if self._mode == "offline":
                raise
            self._go_offline(error)
            self._with_offline_fallback(call)

    def _go_offline(self, error: Exception) -> None:
        """Stop using the server; open runs continue in offline folders under their own ids."""
        reason = first_line(error)
        self._say(f"W&B did not respond ({reason}), runs are kept offline from now on; {self._how_to_sync()}")
        self._mode = "offline"
        self._open.clear()
        with contextlib.suppress(Exception):
            wandb.teardown()  # stops the service process, which blocks the ids of the failed runs

    def _how_to_sync(self) -> str:
        return f"`wandb sync --include-online` in {self._folder} uploads them later"


def choose_mode(spec: TrackingSpec) -> Mode:
    """Return the mode: the study's, or for `auto` that of WANDB_MODE, else online if there is an API key."""
    if spec.wandb != "auto":
        return spec.wandb
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "online"):
        return mode  # type: ignore[return-value]
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Return whether W&B finds credentials without a prompt."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = wandb.setup(wandb.Settings(silent=True)).settings.base_url
    try:
        return read_netrc_auth(host=host) is not None
    except Exception:  # an API key in the wrong format
        return False


def fit_tag(tag: str) -> str:
    """Return `tag` with at most 64 characters; a shortened tag ends in a digest and stays unique."""
    if len(tag) <= MAX_TAG_CHARS:
        return tag
    digest = hashlib.sha256(tag.encode()).hexdigest()[:8]
    return f"{tag[: MAX_TAG_CHARS - len(digest) - 1]}~{digest}"
