"""Candidates: each is the trial of one point of a search, and has a score that schedulers and samplers compare.

The score is the mean agreement of the last students with the labels of Vi, or their accuracy there, over the chains of
the point (development tasks × search seeds × methods). While a last student trains, its validation reports give the
score so far; when it is done its predictions for Vi are read from the store, so a stage that an earlier run trained is
judged in the same way. Nothing here reads a test set.

Under population-based training a candidate trains level by level. Its checkpoint has the settings of each level: a
trial that replaces another one keeps them for the levels that are done, so these stages are shared, and varies the
rest.
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
from w2s_ray.data.splits import rows_of_split
from w2s_ray.scheduling.dispatcher.reports import TrialReport
from w2s_ray.scheduling.tune.trials import DispatcherTrainable
from w2s_ray.science.metrics import accuracy, share_equal
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import CandidateCompiler
from w2s_ray.spec.points import optimisation_keys
from w2s_ray.spec.search import Asha, Pbt, Point, SearchSpec, chosen
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher

SCORE, REPORT, COST = "score", "report", "cost"
"""Keys of a candidate's results: score, number of the report (time of ASHA and PBT), second objective."""
_CHECKPOINT = "candidate.json"
_PAUSE_SECONDS = 0.1


@dataclass
class CandidateJudge:
    """Compiles the points of a study's search, and scores them from the store."""

    study: Study
    resolution: Resolution
    store: ArtifactStore
    _prepared: dict[str, PreparedTask] = field(default_factory=dict)
    _compiler: CandidateCompiler | None = None

    @property
    def search(self) -> SearchSpec:
        assert self.study.search is not None
        return self.study.search

    def listed(self) -> tuple[Chain, ...]:
        """Return the chains of all points; empty if a sampler draws the points one by one."""
        points = self.search.points() if self.search.is_listed else ()
        return tuple(chain for point in points for chain in self.chains(point))

    def point(self, drawn: Mapping[str, Any]) -> Point:
        """Return the point that a sampler has drawn."""
        return Point.of(chosen(self.search.space, drawn))

    def chains(self, point: Point) -> tuple[Chain, ...]:
        """Return the point's chains; under ASHA their last students make validation reports."""
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
        """Return the mean accuracy of the chains' ceilings on their own validation examples; see `Candidate`."""
        searched = {judge for _, judge in optimisation_keys(self.study).values()}
        scores: dict[str, list[float]] = {}
        for chain in chains:
            for stage in chain.stages:
                if stage.arm == "ceiling":
                    score = self._judge(stage)
                    for key in {stage.level, *({f"{chain.method}/{stage.level}"} & searched)}:
                        scores.setdefault(key, []).append(score)
        return {key: fmean(scores[key]) for key in sorted(scores)}

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
        rows_N, name = rows_of_split(prepared, validation.split), f"predictions of {stage.spec.slug}"
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


class CandidateTrial(DispatcherTrainable):
    """The chains of one point, or under population-based training those of its levels so far."""

    _levels_done: int
    """Students of each chain that are done, from the weakest."""
    _last_report: int
    """Number of the newest report that Tune has."""

    def setup(
        self,
        config: dict[str, Any],
        judge: CandidateJudge | None = None,
        dispatcher: "ActorHandle[Dispatcher] | None" = None,
    ) -> None:
        """Start on the point that `config` describes."""
        assert judge is not None and dispatcher is not None
        self._judge, self._dispatcher = judge, dispatcher
        self._in_levels = isinstance(judge.search.scheduler, Pbt)
        self._start_point(config, levels_done=0)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Change to another point."""
        self.cleanup()
        self._start_point(new_config, levels_done=0)
        return True

    def step(self) -> dict[str, Any]:
        """Return the next result that has a score, or the last one, which has an error instead.

        Tune's samplers and schedulers accept no result without a score, so this waits.
        """
        while True:
            report = self.next_report()
            result: dict[str, Any] = {"status": report.status, "point": self._point.model_dump_json(), "done": False}
            match report.status:
                case "done":
                    return result | self._score_now()
                case "failed":
                    return result | {"error": report.error or "", "done": True}
                case "running":
                    so_far = self._score_so_far(report)
                    if so_far.get(REPORT, 0) > self._last_report:
                        self._last_report = so_far[REPORT]
                        return result | so_far
            time.sleep(_PAUSE_SECONDS)

    def _score_now(self) -> dict[str, Any]:
        """Return the score of the stages that are done and, after the last level, the ceilings and the cost."""
        self._has_requested = False
        self._levels_done = self._levels_done + 1 if self._in_levels else self._num_students
        level = self._path[self._levels_done] if self._in_levels else None
        result: dict[str, Any] = {SCORE: self._judge.score(self._chains_all, level)}
        if self._last_report or not isinstance(self._judge.search.scheduler, Asha):
            result[REPORT] = self._num_reports
        # Without earlier reports the student was found in the store. With a report number ASHA would compare it on its
        # highest rung, a finished score among those of students in the middle of their training.
        if self._levels_done < self._num_students:
            return result
        ceilings = json.dumps(self._judge.ceilings(self._chains_all))
        return result | {COST: self._judge.cost(self._chains_all), "ceilings": ceilings, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the settings, and how many levels were trained under them; the stages are in the store."""
        kept = {"drawn": self._drawn, "levels_done": self._levels_done}
        Path(checkpoint_dir, _CHECKPOINT).write_text(json.dumps(kept))

    def load_checkpoint(self, checkpoint: dict[str, Any] | str | None) -> None:
        """Continue where this trial, or the one that it replaces, was."""
        if not isinstance(checkpoint, str):
            return
        kept = json.loads(Path(checkpoint, _CHECKPOINT).read_text())
        done = self._path[: kept["levels_done"] + 1]
        kept_settings = {key: value for key, value in kept["drawn"].items() if self._judge.study.level_of(key) in done}
        self._start_point({**self._drawn, **kept_settings}, kept["levels_done"])

    def _start_point(self, drawn: Mapping[str, Any], levels_done: int) -> None:
        self._drawn = {key: drawn[key] for key in self._judge.search.space}
        self._point = self._judge.point(self._drawn)
        self._chains_all = self._judge.chains(self._point)
        self._levels_done, self._last_report, self._has_requested = levels_done, 0, False

    @property
    def _path(self) -> tuple[str, ...]:
        return self._chains_all[0].path

    @property
    def _num_students(self) -> int:
        return len(self._path) - 1

    @property
    def _num_reports(self) -> int:
        """The scheduler's time when the requested stages are done."""
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

    def _score_so_far(self, report: TrialReport) -> dict[str, Any]:
        """Return the mean of the last students' newest report that all of them have made; empty before the first."""
        reports = [report.validations.get(student_of(chain).identity, ()) for chain in self._chains_all]
        number = min(made[-1].report if made else 0 for made in reports)
        if not 0 < number < self._num_reports:  # the last one comes with the predictions, and ends the trial
            return {}
        name = f"validation_{'agreement' if self._judge.search.choose_by == 'agreement' else 'accuracy'}"
        newest = [[progress for progress in made if progress.report <= number][-1:] for made in reports]
        values = [progress.values[name] for kept in newest for progress in kept]
        return {SCORE: fmean(values), REPORT: number} if len(values) == len(reports) else {}


def _reporting(chain: Chain, num_reports: int) -> Chain:
    """Return the chain with validation reports of its last student."""
    last = student_of(chain)
    return chain.model_copy(
        update={
            "stages": tuple(
                stage.model_copy(update={"num_reports": num_reports}) if stage is last else stage
                for stage in chain.stages
            )
        }
    )
