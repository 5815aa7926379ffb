"""A trial: Tune's handle on one chain. It asks the dispatcher for the chain's stages and reports how they come along.

It computes nothing, imports no torch and takes no CPU, only a little memory that Tune can schedule by. Because stages
are known by their identity, a trial that is restored, retried or given another chain simply asks again: what is done
is found.
"""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from w2s_ray.scheduling.messages import TrialReport
from w2s_ray.spec.chain import Chain

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher import Dispatcher

_MEMORY_BYTES = 50 * 2**20
_ANSWER_SECONDS = 120.0
_CHECKPOINT = "trial.json"
_ASKER = uuid.uuid4().hex
"""Tells this process, which runs one trial at a time, from others that Tune may start for the same trial."""


class Asking(tune.Trainable):
    """A trainable that has the dispatcher run chains, and hears how they stand."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """Ask for what schedules but does not compete with the crews."""
        return PlacementGroupFactory([{"memory": _MEMORY_BYTES}])

    _dispatcher: "ActorHandle[Dispatcher]"
    _name = ""
    """The trial for which was asked; none at first, and nothing to withdraw."""
    _asked = False
    """Whether the dispatcher was asked for what is wanted now."""

    def wanted(self) -> tuple[str, Sequence[Chain]]:
        """Return the trial's name, and the chains of which it wants every stage next."""
        raise NotImplementedError

    def hear(self) -> TrialReport:
        """Return the next report on what is wanted, as soon as there is news.

        It is asked for here and no sooner: of the processes that Tune starts, some are ended before their first step,
        because an idle one took the trial over. What they had asked for they would withdraw under its feet.
        """
        if not self._asked:
            self._name, self._chains = self.wanted()
            self._seen, self._asked = -1, True
            self._submit()
        report = self._next_report()
        while report is None:  # the dispatcher was restarted and does not know this trial
            self._submit()
            report = self._next_report()
        self._seen = report.version
        return report

    def cleanup(self) -> None:
        """Want nothing any more."""
        ray.get(self._dispatcher.withdraw.remote(self._name, _ASKER), timeout=_ANSWER_SECONDS)

    def _submit(self) -> None:
        ray.get(self._dispatcher.submit.remote(self._chains, self._name, _ASKER), timeout=_ANSWER_SECONDS)

    def _next_report(self) -> TrialReport | None:
        asked = self._dispatcher.trial_report.remote(self._name, self._seen, _ASKER)
        report: TrialReport | None = ray.get(asked, timeout=_ANSWER_SECONDS)
        return report


class ChainTrial(Asking):
    """One chain, from its first stage to its last."""

    def setup(
        self,
        config: dict[str, Any],
        chains: "dict[str, ray.ObjectRef[Chain]] | None" = None,
        dispatcher: "ActorHandle[Dispatcher] | None" = None,
    ) -> None:
        """Take up the chain that `config` names."""
        assert chains is not None and dispatcher is not None
        self._by_name, self._dispatcher = chains, dispatcher
        self._take_up(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave this chain for another one."""
        self.cleanup()
        self._take_up(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Return the chain's next report; `done` when none of its stages is left to run."""
        report = self.hear()
        return {
            **report.metrics,
            "status": report.status,
            "error": report.error or "",
            "stages_done": report.stages_done,
            "stages": report.stages,
            "done": report.ended,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Put down which stages the chain is made of; what is done of them the store knows."""
        stages = [stage.identity for stage in self._chain.stages]
        Path(checkpoint_dir, _CHECKPOINT).write_text(json.dumps({"chain": self._chain.name, "stages": stages}))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Nothing to load: the chain is asked for, and what is done of it is found."""

    def wanted(self) -> tuple[str, Sequence[Chain]]:
        """Return the whole chain."""
        return self._chain.name, (self._chain,)

    def _take_up(self, config: dict[str, Any]) -> None:
        self._chain: Chain = ray.get(self._by_name[config["chain"]])
        self._asked = False
