"""The protocol of a tracker, and the description of a run.

A run is one stage, or the summary of one chain. Its id comes from its identity, so a stage that another process resumes
continues its own run. A tracker does not raise for external failures and does not block for long: training never waits
for a dashboard.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.identity import identity, short


class RunInfo(Spec):
    """The description of a run."""

    run_id: str
    """Deterministic: the same work always has the same id."""
    study: str
    name: str
    """For display."""
    job_type: str
    """The stage's arm, or `chain-summary`."""
    tags: tuple[str, ...] = ()
    """The chains that use the stage."""
    config: str = "{}"
    """JSON object: the stage or chain as planned."""
    group: str = ""
    """The study; W&B shows its runs together."""

    @property
    def settings(self) -> dict[str, Any]:
        """`config`, parsed."""
        settings = json.loads(self.config)
        assert isinstance(settings, dict), "config is a JSON object"
        return settings


class Tracker(Protocol):
    """Receives the metrics of many runs at once."""

    def begin(self, run: RunInfo) -> None:
        """Open a run, or continue it; does nothing if it is open."""
        ...

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Record the values measured at `step`; dropped if the run was not begun."""
        ...

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Close a run with its summary, which may be empty if it was stopped or failed (`ended_well` is False)."""
        ...

    def close(self) -> None:
        """Close all open runs and the tracker; may be called twice."""
        ...


def stage_run(study: str, stage: PlannedStage, chains: Iterable[str]) -> RunInfo:
    """Return the run of a stage that the chains with these names use."""
    return RunInfo(
        run_id=stage_run_id(stage.identity),
        study=study,
        name=f"{stage.task} {stage.level} {stage.arm} {stage.spec.description} {short(stage.identity)}",
        job_type=stage.arm,
        tags=tuple(dict.fromkeys(chains)),
        config=json.dumps(stage.model_dump(mode="json"), sort_keys=True),
        group=study,
    )


def chain_run(chain: Chain) -> RunInfo:
    """Return the summary run of a chain."""
    config = {
        "task": chain.task,
        "path": list(chain.path),
        "method": chain.method,
        "seed": chain.seed,
        "search": chain.point.values if chain.point is not None else {},
        "stages": {f"{stage.arm}/{stage.level}": stage.identity for stage in chain.stages},
    }
    return RunInfo(
        run_id=chain_run_id(chain),
        study=chain.study,
        name=chain.name,
        job_type="chain-summary",
        tags=(chain.name,),
        config=json.dumps(config, sort_keys=True),
        group=chain.study,
    )


def stage_run_id(stage_identity: str) -> str:
    """Return the run id of a stage."""
    return short(stage_identity)


def chain_run_id(chain: Chain) -> str:
    """Return the run id of a chain's summary."""
    return short(identity("chain", [chain.study, chain.name]))
