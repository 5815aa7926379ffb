"""The protocol of a tracker, and what it has to know of a run.

A run is one stage, or the summary of one chain. Its id comes from its identity, so a stage that is resumed tomorrow, by
another process, goes on in its own run. A tracker never raises for what happens outside of it and never blocks for
long: training does not wait for a dashboard.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.identity import identity, short


class RunInfo(Spec):
    """Who a run is."""

    run_id: str
    """Deterministic: the same work has the same id in every process and at every time."""
    study: str
    name: str
    """For people."""
    job_type: str
    """The stage's arm, or `chain-summary`."""
    tags: tuple[str, ...] = ()
    """The chains that the stage serves."""
    config: str = "{}"
    """JSON object: what was asked for."""
    group: str = ""
    """Runs that belong together: the study."""

    @property
    def settings(self) -> dict[str, Any]:
        """`config`, read."""
        read = json.loads(self.config)
        assert isinstance(read, dict), "config holds a JSON object"
        return read


class Tracker(Protocol):
    """Takes the points of many runs at once."""

    def begin(self, run: RunInfo) -> None:
        """Open a run, or go on in it; a run that is open stays open."""
        ...

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Put down the values measured at `step`; points of a run that was never begun are dropped."""
        ...

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Close a run with its last words; one that was stopped or failed did not end well, and may have none."""
        ...

    def close(self) -> None:
        """Close every run that is open, and the tracker; safe to call twice."""
        ...


def stage_run(study: str, stage: PlannedStage, chains: Iterable[str]) -> RunInfo:
    """Return the run of a stage that serves `chains` (their names)."""
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
    about = {
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
        config=json.dumps(about, sort_keys=True),
        group=chain.study,
    )


def stage_run_id(stage_identity: str) -> str:
    """Return the run id of a stage."""
    return short(stage_identity)


def chain_run_id(chain: Chain) -> str:
    """Return the run id of a chain's summary."""
    return short(identity("chain", [chain.study, chain.name]))
