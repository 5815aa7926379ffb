"""A search: Tune draws candidates, compares them, and stops or varies them; the best are named when it is through.

Tune's state lies in the study's folder, so a search that was killed or interrupted is restored with its searcher and
scheduler: candidates that were judged stay judged, those under way walk their chains again and find what is done.
"""

import json
import os
import random
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from w2s_ray.errors import Interrupted
from w2s_ray.scheduling import tune_state
from w2s_ray.scheduling.candidates import COST, REPORT, SCORE, CandidateJudge, CandidateTrial
from w2s_ray.scheduling.study import RunSettings
from w2s_ray.scheduling.trials import Tuning
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.search import Asha, Candidate, Pbt, Point, Range, SearchResult, SearchSpec, best, distributions
from w2s_ray.store.files import write_file
from w2s_ray.store.search_result import search_digest, write_search_result

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial

    from w2s_ray.scheduling.dispatcher import Dispatcher

_TUNE_NAME = "search"
_RETRY_NAME = "search-again"
_MARKER_NAME = "search.digest"
"""Says of which search Tune's state is."""
_SNAPSHOT_SECONDS = 5
"""Between two snapshots of Tune's state; what is lost with one is asked again, and found in the store."""
_SEARCHES: dict[str, tuple[threading.Event, Path]] = {}
"""What ends the searches of this process, and where Tune's state of them lies, by their digests."""


class Search(Tuning):
    """One Tune trial per candidate."""

    def __init__(
        self,
        judge: CandidateJudge,
        before: SearchResult | None,
        dispatcher: "ActorHandle[Dispatcher]",
        settings: RunSettings,
        interrupt: threading.Event,
    ) -> None:
        """Nothing is started yet; of a search that is through (`before`), only what failed is judged again."""
        super().__init__()
        self._before = before.candidates if before is not None else ()
        self._judge, self._dispatcher, self._settings, self._interrupt = judge, dispatcher, settings, interrupt
        self._folder = judge.store.study_folder(judge.study.name)
        self._path = self._folder / (_RETRY_NAME if self._before else _TUNE_NAME)

    def found(self) -> SearchResult:
        """Return what the search came to, and put it down in the study's folder.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        results = self.results
        drawn = tune.ExperimentAnalysis(str(self._path)).get_all_configs()
        judged = tuple(self._candidate(result, drawn) for result in results)
        judged = (*(one for one in self._before if one.status != "failed"), *judged)
        found = SearchResult(candidates=judged, winners=best(judged, self._judge.search))
        write_search_result(found, self._judge.study, self._judge.store)
        return found

    def tuner(self) -> tune.Tuner:
        """Return the search as it was when it was left, or a new one."""
        os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(_SNAPSHOT_SECONDS))
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a candidate has no score before its first report
        random.seed(self._judge.search.seed)  # population-based training draws from the process's generator
        path, marker = self._path, self._folder / _MARKER_NAME
        digest = search_digest(self._judge.study)
        _SEARCHES[digest] = (self._interrupt, path)
        trainable = tune.with_parameters(CandidateTrial, judge=self._judge, dispatcher=self._dispatcher)
        known = not self._before and marker.is_file() and marker.read_text() == digest
        if known and tune_state.mend(path) and tune.Tuner.can_restore(str(path)):
            return tune.Tuner.restore(str(path), trainable, resume_unfinished=True, restart_errored=True)
        shutil.rmtree(path, ignore_errors=True)
        tune_state.forget(path)
        write_file(marker, digest.encode())
        return self._new_tuner(trainable, path, digest)

    def _new_tuner(self, trainable: Any, path: Path, digest: str) -> tune.Tuner:
        search, num_at_once = self._judge.search, self._judge.study.max_concurrent
        if isinstance(search.scheduler, Pbt):
            num_at_once = max(num_at_once, search.num_points)  # a population is compared as a whole
        listed = search.points() if search.is_listed else None
        if self._before:
            listed = tuple(one.point for one in self._before if one.status == "failed")
        return tune.Tuner(
            trainable,
            param_space=_domains(search) if listed is not None else {},
            tune_config=tune.TuneConfig(
                search_alg=_sampler(search) if listed is None else _listed(search, listed, num_at_once),
                scheduler=_scheduler(search) if not self._before else None,
                num_samples=search.num_points if listed is None else len(listed),
                max_concurrent_trials=num_at_once if listed is None else None,
                time_budget_s=search.time_budget_seconds,
                reuse_actors=True,
                trial_dirname_creator=_dirname,
            ),
            run_config=tune.RunConfig(
                name=path.name,
                storage_path=str(path.parent),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self._settings.max_trial_failures),
                callbacks=[_Leaving(digest)],
            ),
        )

    def _candidate(self, result: tune.Result, drawn: Mapping[str, Mapping[str, Any]]) -> Candidate:
        """Return what became of a trial; `drawn` has its settings, of which one that never spoke told nothing."""
        metrics = result.metrics or {}
        point = metrics.get("point")
        known = Point.model_validate_json(point) if point else self._judge.point(drawn[metrics["trial_id"]])
        if result.error is not None or metrics.get("status") == "failed":
            return Candidate(point=known, status="failed", error=str(result.error or metrics.get("error")))
        if metrics.get("status") != "done" or not metrics.get("done"):
            return Candidate(point=known, status="stopped", score=metrics.get(SCORE))
        return Candidate(
            point=known,
            status="done",
            score=metrics[SCORE],
            ceilings=json.loads(metrics["ceilings"]),
            cost=metrics.get(COST),
        )


def _domains(search: SearchSpec) -> dict[str, Any]:
    """The space as Tune's domains; every sample is given anyway, for our own sampler drew it."""
    return {
        key: tune.uniform(domain.low, domain.high)
        if isinstance(domain, Range)
        else tune.choice([canonical_json(value) for value in domain])
        for key, domain in search.space.items()
    }


def _listed(search: SearchSpec, points: Sequence[Point], num_at_once: int) -> BasicVariantGenerator:
    drawn = [_drawn(search, point) for point in points]
    return BasicVariantGenerator(points_to_evaluate=drawn, max_concurrent=num_at_once)


def _sampler(search: SearchSpec) -> OptunaSearch:
    import optuna

    samplers = {"tpe": optuna.samplers.TPESampler, "nsga2": optuna.samplers.NSGAIISampler}
    two = search.minimise is not None
    return OptunaSearch(
        space=distributions(search.space),
        metric=[SCORE, COST] if two else SCORE,
        mode=["max", "min"] if two else "max",
        sampler=samplers[search.sampler](seed=search.seed),
    )


def _drawn(search: SearchSpec, point: Point) -> dict[str, Any]:
    """Return a point as a sampler would draw it: listed values as JSON."""
    values = point.values
    return {
        key: values[key] if isinstance(domain, Range) else canonical_json(values[key])
        for key, domain in search.space.items()
    }


def _scheduler(search: SearchSpec) -> TrialScheduler | None:
    match search.scheduler:
        case Asha() as asha:
            return ASHAScheduler(
                time_attr=REPORT,
                metric=SCORE,
                mode="max",
                max_t=asha.reports,
                grace_period=asha.grace_reports,
                reduction_factor=asha.reduction_factor,
            )
        case Pbt() as pbt:
            return PopulationBasedTraining(
                time_attr=REPORT,
                metric=SCORE,
                mode="max",
                perturbation_interval=1,
                hyperparam_mutations={key: _mutations(domain) for key, domain in search.space.items()},
                quantile_fraction=pbt.quantile_fraction,
                resample_probability=pbt.resample_probability,
                synch=True,
                require_attrs=False,
            )
    return None


def _mutations(domain: Any) -> Any:
    if not isinstance(domain, Range):
        return [canonical_json(value) for value in domain]
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _dirname(trial: "Trial") -> str:
    return f"candidate-{trial.trial_id}"


class _Leaving(tune.Callback):
    """Ends Tune where the run is interrupted, with its trials as they are: a restored search goes on with them.

    Meanwhile it puts Tune's state aside. It may come out of a snapshot that was made under another path, so it knows
    its search by the digest alone.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._kept_at = 0.0

    def on_step_begin(self, iteration: int, trials: "list[Trial]", **info: Any) -> None:
        """Look at the event of this process."""
        interrupt, path = _SEARCHES[self._digest]
        if interrupt.is_set():
            raise Interrupted("the search was stopped on request", "it keeps its state", "run the study again")
        if time.time() - self._kept_at > _SNAPSHOT_SECONDS:
            self._kept_at = time.time()
            tune_state.keep(path)
