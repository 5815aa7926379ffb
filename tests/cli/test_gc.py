"""What `w2s gc` removes, and what it keeps although no study file names it."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from tests.scheduling.judged import judged_study, resolved
from w2s_ray.cli.gc import collect
from w2s_ray.cli.terminal import terminal
from w2s_ray.planning.versions import former_versions
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.compile import CandidateCompiler, compile_study
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import clear_run_status, write_run_status
from w2s_ray.store.search_result import write_search_result

RATE = "ladder.l.optimisation.learning_rate"


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Text printed to the error console."""
    text = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=text))
    return text


def commit(store: ArtifactStore, *chains: Chain) -> set[str]:
    """Finish every stage of the chains."""

    def train(stage: PlannedStage) -> None:
        spec = stage.spec
        if store.find(spec.identity) is None:
            store.begin("stage", spec.slug, spec.identity)
            store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=(), metrics={})

    stages = distinct_stages(chains)
    for stage in stages.values():
        train(stage)
    return set(stages)


def kept(store: ArtifactStore) -> set[str]:
    return {record.identity for record in store.records()}


@pytest.mark.parametrize(
    "search",
    [
        {"sampler": "tpe", "num_samples": 4, "choose_by": "agreement"},
        {"sampler": "nsga2", "num_samples": 4, "choose_by": "agreement", "minimise": "train_tokens"},
        {"sampler": "random", "num_samples": 4, "choose_by": "oracle", "scheduler": {"kind": "pbt"}},
    ],
)
def test_the_work_of_an_unfinished_search_is_kept(
    store: ArtifactStore, tmp_path: Path, search: dict[str, object], errors: io.StringIO
) -> None:
    study = judged_study(tmp_path, search={"space": {RATE: {"low": 1e-4, "high": 1e-2, "log": True}}, **search})
    resolution = resolved(study, store)
    compiler = CandidateCompiler(study, resolution)
    point, never = Point.of({RATE: 1e-3}), Point.of({RATE: 2e-3})
    drawn = commit(store, *compiler.chains(point))
    collect(store.root, yes=True)
    assert kept(store) == drawn
    assert "search has not finished" in errors.getvalue()

    others = commit(store, *compiler.chains(never)) - drawn
    found = SearchResult(candidates=(Candidate(point=point, status="done", score=0.5),), winners=(point,))
    write_search_result(found, study, store)
    collect(store.root, yes=True)
    assert kept(store) == drawn and others, "a candidate that the result does not list is not needed"


def test_finished_artifacts_are_kept_while_a_run_is_in_progress(
    store: ArtifactStore, tmp_path: Path, errors: io.StringIO
) -> None:
    first, last = judged_study(tmp_path, seeds=[0]), judged_study(tmp_path, seeds=[1])
    of_first = commit(store, *compile_study(first, resolved(first, store)))
    of_last = commit(store, *compile_study(last, resolved(last, store)))
    write_run_status((), {}, first, store)
    collect(store.root, yes=True)
    assert kept(store) == of_first | of_last, "the run may be one of the first study, whose file was replaced"
    assert "run of it is in progress" in errors.getvalue()
    clear_run_status(first, store)
    collect(store.root, yes=True)
    assert kept(store) == of_first | of_last, "a former version"
    collect(store.root, yes=True, former=True)
    assert kept(store) == of_last and former_versions("judged", store) == []


def test_artifacts_that_a_run_claims_while_gc_asks_are_kept(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = judged_study(tmp_path, seeds=[0]), judged_study(tmp_path, seeds=[1])
    of_first = commit(store, *compile_study(first, resolved(first, store)))
    shutil.rmtree(store.study_folder("judged"))
    resolved(last, store)

    def yes() -> str:
        resolved(first, store)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    collect(store.root, yes=False)
    assert kept(store) == of_first


def test_unfinished_work_is_kept_as_long_as_a_study_needs_it(store: ArtifactStore, tmp_path: Path) -> None:
    study = judged_study(tmp_path, seeds=[0])
    resolution = resolved(study, store)
    (stage, *_) = distinct_stages(compile_study(study, resolution)).values()
    folder = store.begin("stage", stage.spec.slug, stage.identity)
    (folder / "checkpoints").mkdir()
    collect(store.root, yes=True)
    assert (folder / "checkpoints").is_dir()
    shutil.rmtree(store.study_folder("judged"))
    collect(store.root, yes=True)
    assert not folder.exists()


def test_two_studies_of_one_name_keep_their_stages(store: ArtifactStore, tmp_path: Path) -> None:
    seeds = ([0], [1], [0], [2])
    studies = [judged_study(tmp_path, seeds=values) for values in seeds]
    stages = [commit(store, *compile_study(study, resolved(study, store))) for study in studies]
    collect(store.root, yes=True)
    assert kept(store) == set().union(*stages)
    assert len(former_versions("judged", store)) == 2, "that of seed 1, and that of seed 0 once"
