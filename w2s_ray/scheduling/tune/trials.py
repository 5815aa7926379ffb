"""Ray Tune over the chains of a study: one trial per chain.

A trial computes nothing, imports no torch and takes no CPU. It requests its chain's stages from the dispatcher and
passes on reports. Stages are found by identity, so a trial that is restored, retried or reused for another chain simply
requests again, and what is done is found.
"""

import json
import logging
import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from w2s_ray.scheduling.dispatcher.reports import TrialReport
from w2s_ray.scheduling.ray_errors import how_it_ended, in_our_words
from w2s_ray.scheduling.study import ChainOutcome
from w2s_ray.spec.chain import Chain
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

MAX_TRIAL_FAILURES = 3
"""Times that Tune starts a trial again whose process died."""
_MAX_STARTS = 4
"""Times that Tune starts when its own processes are killed for memory."""
_TRIAL_BYTES = 50 * 2**20
"""Memory of a trial's process, by which Tune can schedule trials."""
_ANSWER_SECONDS = 120.0
_DIRNAME_CHARS = 100
_CHECKPOINT = "trial.json"
_ASKER = uuid.uuid4().hex
"""Identifies this process, which runs one trial at a time: Tune may run two processes for one trial."""


class DispatcherTrainable(tune.Trainable):
    """A trainable whose work is done by the dispatcher."""

    _dispatcher: "ActorHandle[Dispatcher]"
    _trial = ""
    """The trial for which this process requested stages last."""
    _has_requested = False
    """Whether the stages that are wanted now were requested."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Request memory only: a trial that holds CPUs could starve the workers that it waits for."""
        return PlacementGroupFactory([{"memory": _TRIAL_BYTES}])

    def wanted(self) -> tuple[str, Sequence[Chain]]:
        """Return the trial's name, and the chains whose stages it wants next."""
        raise NotImplementedError

    def next_report(self) -> TrialReport:
        """Return the next report on what is wanted, as soon as there is a new one.

        Stages are requested here and not in `setup`: Tune ends some processes before their first step, because it
        reuses an idle one for the trial, and their cleanup would withdraw the request of that one.
        """
        if not self._has_requested:
            self._trial, self._wanted_chains = self.wanted()
            self._seen, self._has_requested = -1, True
            self._request()
        report = self._ask()
        while report is None:  # the dispatcher forgot a trial that was silent for too long
            self._request()
            report = self._ask()
        self._seen = report.version
        return report

    def cleanup(self) -> None:
        """Withdraw the request."""
        ray.get(self._dispatcher.withdraw.remote(self._trial, _ASKER), timeout=_ANSWER_SECONDS)

    def _request(self) -> None:
        ray.get(self._dispatcher.request.remote(self._trial, self._wanted_chains, _ASKER), timeout=_ANSWER_SECONDS)

    def _ask(self) -> TrialReport | None:
        asked = self._dispatcher.trial_report.remote(self._trial, self._seen, _ASKER)
        report: TrialReport | None = ray.get(asked, timeout=_ANSWER_SECONDS)
        return report


class ChainTrial(DispatcherTrainable):
    """One chain, from its first stage to its last."""

    def setup(
        self,
        config: dict[str, Any],
        chains: "dict[str, ray.ObjectRef[Chain]] | None" = None,
        dispatcher: "ActorHandle[Dispatcher] | None" = None,
    ) -> None:
        """Start on the chain that `config` names."""
        assert chains is not None and dispatcher is not None
        self._by_name, self._dispatcher = chains, dispatcher
        self._chain: Chain = ray.get(chains[config["chain"]])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Change to another chain."""
        self.cleanup()
        self._chain, self._has_requested = ray.get(self._by_name[new_config["chain"]]), False
        return True

    def step(self) -> dict[str, Any]:
        """Return the chain's next report; `done` when none of its stages is left to run."""
        report = self.next_report()
        return {
            **report.metrics,
            "status": report.status,
            "error": report.error or "",
            "stages_done": report.stages_done,
            "stages": report.stages,
            "done": report.ended,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the chain's stages; the store has what is done of them."""
        stages = [stage.identity for stage in self._chain.stages]
        Path(checkpoint_dir, _CHECKPOINT).write_text(json.dumps({"chain": self._chain.name, "stages": stages}))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Load nothing: the chain is requested again, and what is done is found."""

    def wanted(self) -> tuple[str, Sequence[Chain]]:
        return self._chain.name, (self._chain,)


_THREAD = threading.local()
"""`tuning`: the one that this thread runs."""


class Tuning(ABC):
    """Tune at work, in a thread of its own."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="w2s-tune", daemon=True)
        self._results: tune.ResultGrid | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Make Tune end at its next step, with its trials as they are; it has no results then."""
        self._stop.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for Tune to end; return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def results(self) -> tuple[tune.Result, ...]:
        """Each trial's last result.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        if self._error is not None:
            raise self._error
        return tuple(self._results or ())

    @abstractmethod
    def tuner(self) -> tune.Tuner:
        """Return the tuner to run, new or restored."""

    def before_step(self) -> None:
        """Called by Tune before each of its steps.

        Raises:
            TuneStopped: when it has to end.
        """
        if self._stop.is_set():
            raise TuneStopped

    def _run(self) -> None:
        """Run Tune; start it again where one of its processes was killed for memory.

        Tune treats the death of a trial's process as a failure of the trial, except for this cause, which ends Tune
        itself with a RuntimeError (ray.air's actor manager handles RayActorError and RayTaskError only).
        """
        _THREAD.tuning = self
        for _ in range(_MAX_STARTS):
            try:
                self._results, self._error = self.tuner().fit(), None
            except BaseException as error:  # raised again in the run's thread
                self._error = error
            if self._error is None or self._stop.is_set() or how_it_ended(self._error)[0] != "memory":
                return
            logger.warning("Tune ended because one of its processes was killed for memory; it is started again")


class TuneStopped(Exception):
    """Tune was stopped by `Tuning.stop`."""


class BeforeStep(tune.Callback):
    """Calls `before_step` of the tuning whose thread it is in; Tune saves it, and may restore it in another process."""

    def on_step_begin(self, iteration: int, trials: "list[Trial]", **info: Any) -> None:
        _THREAD.tuning.before_step()


class ChainTuning(Tuning):
    """One Tune trial per chain."""

    def __init__(
        self, study: Study, chains: Sequence[Chain], dispatcher: "ActorHandle[Dispatcher]", store: ArtifactStore
    ) -> None:
        self._study, self._chains, self._dispatcher = study, chains, dispatcher
        self._folder = store.study_folder(study.name)
        super().__init__()

    def outcomes(self) -> dict[str, ChainOutcome]:
        """Return how each chain ended, by name.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        outcomes = {}
        for result in self.results:
            metrics = result.metrics or {}
            name = str((result.config or {}).get("chain"))
            if result.error is not None:
                outcomes[name] = ChainOutcome("failed", f"its trial failed: {in_our_words(result.error).message}")
            elif metrics.get("status") == "done":
                outcomes[name] = ChainOutcome("done")
            else:
                outcomes[name] = ChainOutcome("failed", metrics.get("error") or None)
        lost = ChainOutcome("failed", "its trial ended before it could report; see the study's log")
        return {chain.name: replace(outcomes.get(chain.name, lost), label=chain.label) for chain in self._chains}

    def tuner(self) -> tune.Tuner:
        """Return a new tuner: what an earlier run did is found in the store."""
        name = "chains"
        shutil.rmtree(self._folder / name, ignore_errors=True)
        chains = {chain.name: ray.put(chain) for chain in self._chains}
        return tune.Tuner(
            tune.with_parameters(ChainTrial, chains=chains, dispatcher=self._dispatcher),
            param_space={"chain": tune.grid_search(list(chains))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self._study.max_concurrent,
                reuse_actors=True,
                trial_name_creator=_chain_name,
                trial_dirname_creator=_dirname,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self._folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
                callbacks=[BeforeStep()],
            ),
        )


def _chain_name(trial: "Trial") -> str:
    return str(trial.config["chain"])


def _dirname(trial: "Trial") -> str:
    return f"{_chain_name(trial)[:_DIRNAME_CHARS]}-{trial.trial_id}"
