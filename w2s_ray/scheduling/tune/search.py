"""Ray Tune over the candidates of a search: it draws them, compares them, and stops or varies them.

Tune's state is in the study's folder, so a search that was killed or interrupted is restored with its sampler and
scheduler: candidates that were judged stay judged, and those under way request their stages again.

Tune copies its state into that folder file by file. A run that is killed meanwhile leaves torn files, and Tune, which
cannot read them, would start anew without the search's settings. So the state is also kept in one archive that is
replaced atomically, and restored from there when the folder's own state is torn.
"""

import io
import json
import os
import random
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import cloudpickle, tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from w2s_ray.scheduling.ray_errors import in_our_words
from w2s_ray.scheduling.tune.candidates import COST, REPORT, SCORE, CandidateJudge, CandidateTrial
from w2s_ray.scheduling.tune.trials import MAX_TRIAL_FAILURES, BeforeStep, Tuning
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.search import Asha, Candidate, Pbt, Point, Range, SearchResult, SearchSpec, best, distributions
from w2s_ray.store.files import write_file
from w2s_ray.store.search_result import search_digest, write_search_result

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.tune.experiment import Trial

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher

_TUNE_NAME = "search"
_RETRY_NAME = "search-again"
_DIGEST_NAME = "search.digest"
"""File with the digest of the search to which Tune's state belongs."""
_SAVE_SECONDS = 5
"""Between two copies of Tune's state; what is lost with one is requested again, and found in the store."""
_STATE = "experiment_state-*.json"
_SETTINGS = "tuner.pkl"
_PICKLED = ("search_gen_state-*.json", "searcher-state-*.pkl", "basic-variant-state-*.json", _SETTINGS)


class Search(Tuning):
    """One Tune trial per candidate."""

    def __init__(
        self, judge: CandidateJudge, before: SearchResult | None, dispatcher: "ActorHandle[Dispatcher]"
    ) -> None:
        """`before` is the result of a search that has ended, of which only failed candidates are judged again."""
        super().__init__()
        self._digest = search_digest(judge.study)
        self._before = before.candidates if before is not None else ()
        self._judge, self._dispatcher = judge, dispatcher
        self._folder = judge.store.study_folder(judge.study.name)
        self._path = self._folder / (_RETRY_NAME if self._before else _TUNE_NAME)
        self._saved_at = 0.0

    def result(self) -> SearchResult:
        """Return the search's result and write it into the study's folder.

        Raises:
            BaseException: what ended Tune itself, if anything did.
        """
        results = self.results
        drawn = tune.ExperimentAnalysis(str(self._path)).get_all_configs()
        judged = tuple(self._candidate(result, drawn) for result in results)
        judged = (*(candidate for candidate in self._before if candidate.status != "failed"), *judged)
        search_result = SearchResult(candidates=judged, winners=best(judged, self._judge.search))
        write_search_result(search_result, self._judge.study, self._judge.store)
        return search_result

    def tuner(self) -> tune.Tuner:
        """Return the search restored, or a new one."""
        os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", str(_SAVE_SECONDS))
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a candidate has no score before its first report
        random.seed(self._judge.search.seed)  # population-based training draws from the process's generator
        marker = self._folder / _DIGEST_NAME
        trainable = tune.with_parameters(CandidateTrial, judge=self._judge, dispatcher=self._dispatcher)
        is_same = not self._before and marker.is_file() and marker.read_text() == self._digest
        if is_same and repair_state(self._path) and tune.Tuner.can_restore(str(self._path)):
            return tune.Tuner.restore(str(self._path), trainable, resume_unfinished=True, restart_errored=True)
        shutil.rmtree(self._path, ignore_errors=True)
        _archive(self._path).unlink(missing_ok=True)
        write_file(marker, self._digest.encode())
        return self._new_tuner(trainable)

    def before_step(self) -> None:
        """Keep a whole copy of Tune's state, now and then."""
        super().before_step()
        if time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self._saved_at = time.monotonic()
            save_state(self._path)

    def _new_tuner(self, trainable: Any) -> tune.Tuner:
        search, num_at_once = self._judge.search, self._judge.study.max_concurrent
        if isinstance(search.scheduler, Pbt):
            num_at_once = max(num_at_once, search.num_points)  # a population is compared as a whole
        listed = search.points() if search.is_listed else None
        if self._before:
            listed = tuple(candidate.point for candidate in self._before if candidate.status == "failed")
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
                name=self._path.name,
                storage_path=str(self._path.parent),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_TRIAL_FAILURES),
                callbacks=[BeforeStep()],
            ),
        )

    def _candidate(self, result: tune.Result, drawn: Mapping[str, Mapping[str, Any]]) -> Candidate:
        """Return a trial's candidate; `drawn` has the settings of trials that never reported."""
        metrics = result.metrics or {}
        point = metrics.get("point")
        known = Point.model_validate_json(point) if point else self._judge.point(drawn[metrics["trial_id"]])
        if result.error is not None:
            return Candidate(point=known, status="failed", error=in_our_words(result.error).message)
        if metrics.get("status") == "failed":
            return Candidate(point=known, status="failed", error=str(metrics.get("error")))
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
    """Return the space as Tune's domains; the samples come from our own sampler."""
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


def save_state(folder: Path) -> None:
    """Copy Tune's state in `folder` into its archive, if it is whole at this moment."""
    files = _read_state(folder)
    if not _is_whole(files):
        return
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stream:
        for name, content in files.items():
            stream.writestr(name, content)
    write_file(_archive(folder), archive.getvalue())


def repair_state(folder: Path) -> bool:
    """Restore a torn state from its archive; return whether `folder` has a whole state now."""
    if _is_whole(_read_state(folder)):
        return True
    if not _archive(folder).is_file():
        return False
    for name in _read_state(folder):
        (folder / name).unlink()
    with zipfile.ZipFile(_archive(folder)) as stream:
        stream.extractall(folder)
    return _is_whole(_read_state(folder))


def _archive(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-state.zip")


def _read_state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in (_STATE, *_PICKLED) for path in folder.glob(pattern)}


def _is_whole(files: dict[str, bytes]) -> bool:
    states = {name for name in files if Path(name).match(_STATE)}
    if not states or _SETTINGS not in files:
        return False
    try:
        for name, content in files.items():
            (json.loads if name in states else cloudpickle.loads)(content)
    except Exception:  # a torn pickle, or one of another version, can raise anything
        return False
    return True
