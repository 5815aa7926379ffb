"""Tune over the chains of a study, in a thread of its own."""

import logging
import shutil
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray
from ray import tune
from ray.exceptions import OutOfMemoryError

from w2s_ray.scheduling.study import ChainOutcome, RunSettings
from w2s_ray.scheduling.trial import ChainTrial
from w2s_ray.spec.chain import Chain
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial

    from w2s_ray.scheduling.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

_DIRNAME_CHARS = 100
_MAX_STARTS = 4
"""Times that Tune begins anew where its own processes were killed for memory: what is done is found in the store."""


def ended_for_memory(error: BaseException | None) -> bool:
    """Say whether Ray's memory monitor killed a process, and that is what `error` comes from.

    Tune takes the death of a trial's process for a failure of the trial, but for this one cause, which ends Tune itself
    with a RuntimeError (ray.air's actor manager knows RayActorError and RayTaskError alone).
    """
    while error is not None and not isinstance(error, OutOfMemoryError):
        error = error.__cause__
    return error is not None


class Tuning(ABC):
    """Tune at work."""

    def __init__(self) -> None:
        """Nothing is started yet."""
        self._thread = threading.Thread(target=self._run, name="w2s-tune", daemon=True)
        self._results: tune.ResultGrid | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start Tune."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the last trial, but no longer than `seconds`; say whether Tune is through."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def results(self) -> tuple[tune.Result, ...]:
        """What became of each trial.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        if self._error is not None:
            raise self._error
        return tuple(self._results or ())

    @abstractmethod
    def tuner(self) -> tune.Tuner:
        """Return what is to be run, new or restored."""

    def _run(self) -> None:
        for _ in range(_MAX_STARTS):
            try:
                self._results, self._error = self.tuner().fit(), None
            except BaseException as error:  # carried over to the run's thread
                self._error = error
            if self._error is None or not ended_for_memory(self._error):
                return
            logger.warning("Tune ends because one of its processes was killed for memory; it begins again")


class Trials(Tuning):
    """One Tune trial per chain."""

    def __init__(
        self,
        study: Study,
        chains: Sequence[Chain],
        dispatcher: "ActorHandle[Dispatcher]",
        store: ArtifactStore,
        settings: RunSettings,
    ) -> None:
        """Nothing is started yet."""
        super().__init__()
        self._study, self._chains, self._dispatcher, self._settings = study, chains, dispatcher, settings
        self._folder = store.study_folder(study.name)

    def outcomes(self) -> dict[str, ChainOutcome]:
        """Return what became of each chain, by name.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        outcomes = {}
        for result in self.results:
            metrics = result.metrics or {}
            name = str((result.config or {}).get("chain"))
            if result.error is not None:
                outcomes[name] = ChainOutcome("failed", f"its trial failed: {result.error}")
            else:
                outcomes[name] = ChainOutcome(str(metrics.get("status", "failed")), metrics.get("error") or None)
        lost = ChainOutcome("failed", "its trial ended before it could report; the study's log says why")
        return {chain.name: outcomes.get(chain.name, lost) for chain in self._chains}

    def tuner(self) -> tune.Tuner:
        """Return a new one: what a run before did, the artifacts know."""
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
                failure_config=tune.FailureConfig(max_failures=self._settings.max_trial_failures),
            ),
        )


def _chain_name(trial: "Trial") -> str:
    return str(trial.config["chain"])


def _dirname(trial: "Trial") -> str:
    return f"{_chain_name(trial)[:_DIRNAME_CHARS]}-{trial.trial_id}"
