"""The study files that come with the project are read and compiled, each of them."""

from pathlib import Path

import pytest

from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedModel, ResolvedTask, distinct_stages
from w2s_ray.spec.compile import CandidateCompiler, compile_study
from w2s_ray.spec.load import load_study
from w2s_ray.spec.stage import ModelSource
from w2s_ray.spec.study import Study
from w2s_ray.tasks import nlp

FOLDER = Path(__file__).parents[2] / "tune_configs"
NUM_STAGES = {
    # S; the three untrained models; M chain and ceiling; L chain with two losses, direct, ceiling.
    "quickstart": 10,
    # Per seed: S; M chain and ceiling; L chain with three losses, direct, ceiling.
    "continuation": 5 * 8,
    "evidence": 2 * 5 * 8 + 5 * 3,
    "pretrain_ladder": 3,
    "pretrain_reviews": 3,
    "pretrain_chess": 3,
    "ladder_reviews": 3,
    "ladder_mixed": 3,
    # Per seed: six tasks of S, M chain and ceiling, L chain, direct and ceiling; M and L with a confidence loss on two.
    "results": 3 * (6 * 6 + 2 * 2),
    "sst2_local": 6,
    "sst2_gpt2": 7,
    # Per seed: S; M chain and ceiling; L chain by two ways and ceiling.
    "bootstrapping": 3 * 6,
    # By task and seed: S; M and L by each method, what they read first, controls, ceilings of each kind.
    "paper_nlp": 22 * 3 * 34,
    "paper_nlp_pythia": 22 * 3 * 12,
    "paper_chess": 3 * 11,
    "paper_reward_model": 3 * 18,
    "openai_repo": 4 * 3 * 32,
    "eleuther": 5 * 3 * 18,
}
NUM_CANDIDATES = {"sweep_random": 4, "sweep_asha": 6, "sweep_optuna": 5, "sweep_pbt": 4, "sweep_gpt2": 32}
"""Searches that choose: nothing is judged on the test set before they are through."""


def test_this_test_covers_every_published_study() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*NUM_STAGES, *NUM_CANDIDATES}


def stages_of(study: Study) -> dict[str, PlannedStage]:
    task = ResolvedTask(fingerprint="", num_classes=2, num_test=10, num_documents=10, num_held_out=10)
    resolution = Resolution(
        tasks={name: task.model_copy(update={"fingerprint": name}) for name in study.tasks},
        models={level: ResolvedModel(revision=level, num_parameters=1) for level in study.ladder},
    )
    return distinct_stages(compile_study(study, resolution))


@pytest.mark.parametrize("name", NUM_STAGES)
def test_a_published_study_compiles_to_its_stages(name: str) -> None:
    study = load_study(FOLDER / f"{name}.yaml")
    assert study.name == name
    assert len(stages_of(study)) == NUM_STAGES[name]


@pytest.mark.parametrize(("kind", "low", "high"), [("probe", 20, 100), ("lora", 10, 10)])
def test_trap_24_a_probe_and_lora_have_a_larger_rate_than_the_ceiling_of_all_weights(
    kind: str, low: float, high: float
) -> None:
    """At one rate for all ways of training `pgr_full` measures the rate."""
    seen = 0
    for name in NUM_STAGES:
        stages = stages_of(load_study(FOLDER / f"{name}.yaml"))
        for stage in stages.values():
            if stage.spec.trainable.kind == kind and stage.full_ceiling in stages:
                rates = [it.spec.optimisation.learning_rate for it in (stage, stages[stage.full_ceiling])]
                assert low <= round(rates[0] / rates[1], 6) <= high, name
                seen += 1
    assert seen


def test_naive_reward_models_do_not_stop_early() -> None:
    stages = stages_of(load_study(FOLDER / "paper_reward_model.yaml"))
    stopping = {stage.arm for stage in stages.values() if stage.spec.optimisation.early_stopping is not None}
    assert stopping == {"direct", "ceiling"}, "those of generative_oracle"
    assert not any(
        stage.spec.optimisation.early_stopping
        for stage in stages.values()
        if isinstance(stage.spec.starts_from, ModelSource)
    )


@pytest.mark.parametrize("name", NUM_CANDIDATES)
def test_a_published_search_compiles_its_candidates(name: str) -> None:
    study = load_study(FOLDER / f"{name}.yaml")
    assert study.name == name
    assert study.search is not None
    assert study.search.num_points == NUM_CANDIDATES[name]
    task = ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=10)
    models = {level: ResolvedModel(revision=level, num_parameters=1) for level in study.ladder}
    resolution = Resolution(tasks=dict.fromkeys(study.tasks, task), models=models)
    assert compile_study(study, resolution) == ()
    compiler = CandidateCompiler(study, resolution)
    points = study.search.points() if study.search.is_listed else ()
    stages = distinct_stages(chain for point in points for chain in compiler.chains(point))
    assert not any(prediction.split.is_test for stage in stages.values() for prediction in stage.predicts)
    assert len([stage for stage in stages.values() if stage.arm == "floor"]) == bool(points)


def test_the_demo_uses_each_zero_stage_and_enough_test_examples() -> None:
    study = load_study(FOLDER / "quickstart.yaml")
    assert {level: entry.execution.zero_stage for level, entry in study.ladder.items()} == {
        "small": 1,
        "medium": 2,
        "large": 3,
    }
    assert {entry.execution.group_shape.workers for entry in study.ladder.values()} == {2}
    assert all((task.test_examples or 0) >= 2000 for task in study.tasks.values())
    for name in ("continuation", "evidence"):
        assert all((task.test_examples or 0) >= 4000 for task in load_study(FOLDER / f"{name}.yaml").tasks.values())


def test_the_papers_language_study_has_its_22_tasks_and_their_references() -> None:
    for name in ("paper_nlp", "paper_nlp_pythia"):
        study = load_study(FOLDER / f"{name}.yaml")
        recipes = {recipe.name for recipe in nlp.RECIPES}
        assert set(study.tasks) == recipes - {"amazon_polarity"} and len(study.tasks) == 22
        assert {entry.builtin for entry in study.tasks.values()} == set(study.tasks)
        assert study.report.references and study.report.compare


def test_references_for_one_link_are_shown_beside_one_link() -> None:
    """Theirs are students of one supervisor, over a gap that the reference names."""
    beside = {
        "paper_nlp": {("direct", "large", ("small", "medium", "large"))},
        "paper_nlp_pythia": {("direct", "large", ("small", "medium", "large"))},
        "paper_reward_model": {("direct", "large", ("small", "medium", "large"))},
        "paper_chess": {("chain", "l", ("xs", "l")), ("chain", "s", ("xs", "s", "m", "l"))},
        "openai_repo": {("chain", "gpt2_xl", ("gpt2", "gpt2_xl"))},
    }
    for name, wanted in beside.items():
        study = load_study(FOLDER / f"{name}.yaml")
        contenders = [c for reference in study.report.references for c in reference.contenders.values()]
        paths = study.paths
        assert {(c.arm, c.level_among(paths), c.path_among(paths)) for c in contenders} == wanted, name
