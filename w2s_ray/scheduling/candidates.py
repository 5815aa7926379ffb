"""A candidate: the trial of one point of a search. Its score is what schedulers and samplers compare.

The score is the last students' mean agreement with the labels of Vi, or their accuracy there, over the chains of the
point (development tasks × search seeds × methods). While a last student trains, its reports say how it comes along;
once it is done its predictions for Vi are read, so a stage that an earlier run made is judged like any other. Nothing
here looks at a test set.

Under population-based training a candidate goes level by level, and its checkpoint carries the settings under which
each level was trained: a trial that takes another one's place keeps them for the levels that are done, so the stages so
far are shared, and varies the rest.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from w2s_ray.data.labels import answers, join, join_answers, targets
from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import draw
from w2s_ray.scheduling.messages import TrialReport
from w2s_ray.scheduling.trial import Asking
from w2s_ray.science.metrics import accuracy, share_equal
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import CandidateCompiler
from w2s_ray.spec.search import Asha, Pbt, Point, SearchSpec, chosen
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher import Dispatcher
    from w2s_ray.training.progress import StageProgress

SCORE, REPORT, COST = "score", "report", "cost"
"""What a candidate's results call the score, its report's number (ASHA's and PBT's time), and the second objective."""
_CHECKPOINT = "candidate.json"
_PAUSE_SECONDS = 0.1


@dataclass
class CandidateJudge:
    """Compiles the points of a study's search, and judges them by what the store has."""

    study: Study
    resolution: Resolution
    store: ArtifactStore
    _prepared: dict[str, PreparedTask] = field(default_factory=dict)
    _compiler: CandidateCompiler | None = None

    @property
    def search(self) -> SearchSpec:
        """The study's search."""
        assert self.study.search is not None
        return self.study.search

    def listed(self) -> tuple[Chain, ...]:
        """Return the chains of all points, as far as they are known before anything is judged."""
        points = self.search.points() if self.search.is_listed else ()
        return tuple(chain for point in points for chain in self.chains(point))

    def point(self, drawn: Mapping[str, Any]) -> Point:
        """Return the point that a sampler has drawn."""
        return Point.of(chosen(self.search.space, drawn))

    def chains(self, point: Point) -> tuple[Chain, ...]:
        """Return the point's chains; with ASHA, their last students report."""
        self._compiler = self._compiler or CandidateCompiler(self.study, self.resolution)
        chains = self._compiler.chains(point)
        scheduler = self.search.scheduler
        return (
            tuple(_reporting(chain, scheduler.reports) for chain in chains) if isinstance(scheduler, Asha) else chains
        )

    def score(self, chains: tuple[Chain, ...], level: str | None = None) -> float:
        """Return the mean score of the chains' students on `level`, the last one where it is not given."""
        return fmean(self._judge(student_of(chain, level)) for chain in chains)

    def ceilings(self, chains: tuple[Chain, ...]) -> dict[str, float]:
        """Return the mean accuracy of the chains' ceilings on their own validation examples, by level."""
        levels = {stage.level for chain in chains for stage in chain.stages if stage.arm == "ceiling"}
        return {
            level: fmean(
                self._judge(stage)
                for chain in chains
                for stage in chain.stages
                if stage.arm == "ceiling" and stage.level == level
            )
            for level in sorted(levels)
        }

    def cost(self, chains: tuple[Chain, ...]) -> float | None:
        """Return the second objective, summed over the distinct stages of the chains; None where there is none."""
        name = self.search.minimise
        if name is None:
            return None
        records = [self.store.find(identity) for identity in distinct_stages(chains)]
        return sum(record.metrics[name] for record in records if record is not None)

    def _judge(self, stage: PlannedStage) -> float:
        """Return a finished stage's score on its validation examples."""
        validation = stage.spec.validation
        assert validation is not None
        prediction = next(each for each in stage.predicts if each.split == validation.split)
        prepared = self._task(validation.split.task)
        rows_N, name = draw(prepared, validation.split), f"predictions of {stage.spec.slug}"
        by_labels = self.search.choose_by == "agreement"
        if prepared.kind == "answers":
            written = join_answers(prepared.ids(rows_N), self.store.read_answers(prediction.identity), name)
            wanted = answers(self.store, prepared, validation)[1] if by_labels else prepared.others(rows_N)
            return share_equal(written.texts, wanted)
        num_classes = stage.spec.num_classes
        probs_NC = join(prepared.ids(rows_N), self.store.read_predictions(prediction.identity), num_classes, name)
        if by_labels:
            return accuracy(probs_NC, targets(self.store, prepared, validation, num_classes)[1].argmax(axis=1))
        return accuracy(probs_NC, prepared.labels(rows_N))

    def _task(self, fingerprint: str) -> PreparedTask:
        if fingerprint not in self._prepared:
            self._prepared[fingerprint] = load_prepared(self.store, fingerprint)
        return self._prepared[fingerprint]


def student_of(chain: Chain, level: str | None = None) -> PlannedStage:
    """Return the chain's student on `level`, the last one where it is not given."""
    student = chain.find("chain", level or chain.path[-1])
    assert student is not None, "a search that chooses has the chain arm"
    return student


class CandidateTrial(Asking):
    """The chains of one point, or under population-based training those of its levels so far."""

    _levels_done: int
    """Students of each chain, counted from the weakest, whose stages are done."""
    _last_report: int
    """The number of the newest one that Tune has heard of."""

    def setup(
        self,
        config: dict[str, Any],
        judge: CandidateJudge | None = None,
        dispatcher: "ActorHandle[Dispatcher] | None" = None,
    ) -> None:
        """Take up the point that `config` stands for."""
        assert judge is not None and dispatcher is not None
        self._judge, self._dispatcher = judge, dispatcher
        self._in_levels = isinstance(judge.search.scheduler, Pbt)
        self._take_up(config, levels_done=0)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leave this point for another one."""
        self.cleanup()
        self._take_up(new_config, levels_done=0)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next result that has a score, or the last one, which says why there is none.

        Tune's samplers and schedulers take no result without one, so this waits. An interrupted run is waited for too:
        Tune is about to be ended, and as far as it knows this candidate goes on.
        """
        while True:
            report = self.hear()
            result: dict[str, Any] = {"status": report.status, "point": self._point.model_dump_json(), "done": False}
            match report.status:
                case "done":
                    return result | self._judged()
                case "failed":
                    return result | {"error": report.error or "", "done": True}
                case "running":
                    so_far = self._on_the_way(report)
                    if so_far.get(REPORT, 0) > self._last_report:
                        self._last_report = so_far[REPORT]
                        return result | so_far
            time.sleep(_PAUSE_SECONDS)

    def _judged(self) -> dict[str, Any]:
        """What was asked for is done: its score, and where nothing is to come, all else that is to be known."""
        self._asked = False
        self._levels_done = self._levels_done + 1 if self._in_levels else self._num_students
        level = self._path[self._levels_done] if self._in_levels else None
        result: dict[str, Any] = {SCORE: self._judge.score(self._chains_all, level)}
        if self._last_report or not isinstance(self._judge.search.scheduler, Asha):
            result[REPORT] = self._num_reports
        # Without reports on the way the student was found in the store. Told at what time its score is, ASHA would put
        # it on its highest rung, a finished score among those of students in the middle of their training.
        if self._levels_done < self._num_students:
            return result
        ceilings = json.dumps(self._judge.ceilings(self._chains_all))
        return result | {COST: self._judge.cost(self._chains_all), "ceilings": ceilings, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Put down the settings, and how many levels were trained under them; the stages are in the store."""
        kept = {"drawn": self._drawn, "levels_done": self._levels_done}
        Path(checkpoint_dir, _CHECKPOINT).write_text(json.dumps(kept))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Take up where this trial, or the one whose place it takes, was."""
        if not isinstance(checkpoint, str):
            return
        kept = json.loads(Path(checkpoint, _CHECKPOINT).read_text())
        done = self._path[: kept["levels_done"] + 1]
        theirs = {key: value for key, value in kept["drawn"].items() if self._judge.study.level_of(key) in done}
        self._take_up({**self._drawn, **theirs}, kept["levels_done"])

    def _take_up(self, drawn: Mapping[str, Any], levels_done: int) -> None:
        self._drawn = {key: drawn[key] for key in self._judge.search.space}
        self._point = self._judge.point(self._drawn)
        self._chains_all = self._judge.chains(self._point)
        self._levels_done, self._last_report, self._asked = levels_done, 0, False

    @property
    def _path(self) -> tuple[str, ...]:
        return self._chains_all[0].path

    @property
    def _num_students(self) -> int:
        return len(self._path) - 1

    @property
    def _num_reports(self) -> int:
        """The scheduler's time, now that what was asked for is done."""
        scheduler = self._judge.search.scheduler
        return scheduler.reports if isinstance(scheduler, Asha) else self._levels_done

    def wanted(self) -> tuple[str, Sequence[Chain]]:
        """Return all chains of the point, or under population-based training what they have up to the next level."""
        if not self._in_levels:
            return self.trial_id, self._chains_all
        levels = self._path[: self._levels_done + 2]
        return self.trial_id, tuple(
            chain.model_copy(update={"stages": tuple(stage for stage in chain.stages if stage.level in levels)})
            for chain in self._chains_all
        )

    def _on_the_way(self, report: TrialReport) -> dict[str, Any]:
        """The mean of the last students' newest common report; nothing before each has one."""
        told = [report.judged.get(student_of(chain).identity, ()) for chain in self._chains_all]
        number = min(points[-1].report if points else 0 for points in told)
        if not 0 < number < self._num_reports:  # the last one comes with the predictions, and ends the trial
            return {}
        name = f"validation_{'agreement' if self._judge.search.choose_by == 'agreement' else 'accuracy'}"
        newest = [max((one for one in points if one.report <= number), key=_number, default=None) for points in told]
        values = [point.values[name] for point in newest if point is not None]
        return {SCORE: fmean(values), REPORT: number} if len(values) == len(told) else {}


def _number(point: "StageProgress") -> int:
    return point.report


def _reporting(chain: Chain, num_reports: int) -> Chain:
    """Return the chain with its last student asked for reports."""
    last = student_of(chain)
    return chain.model_copy(
        update={
            "stages": tuple(
                stage.model_copy(update={"num_reports": num_reports}) if stage is last else stage
                for stage in chain.stages
            )
        }
    )
