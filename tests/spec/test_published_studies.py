"""The study files that come with the project are read and compiled, each of them."""

from pathlib import Path

import pytest

from w2s_ray.spec.chain import Resolution, ResolvedModel, ResolvedTask, compile_study, distinct_stages
from w2s_ray.spec.load import load_study

FOLDER = Path(__file__).parents[2] / "tune_configs"
NUM_STAGES = {
    # S, then per seed: M chain and ceiling; L chain with three losses, direct, ceiling.
    "quickstart": 8,
    "continuation": 5 * 8,
    "pretrain_ladder": 3,
    "sst2_local": 6,
    "sst2_gpt2": 7,
}


def test_every_published_study_is_known_to_this_test() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(NUM_STAGES)


@pytest.mark.parametrize("name", NUM_STAGES)
def test_a_published_study_compiles_to_its_stages(name: str) -> None:
    study = load_study(FOLDER / f"{name}.yaml")
    task = ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=10, num_documents=10, num_held_out=10)
    resolution = Resolution(
        tasks=dict.fromkeys(study.tasks, task),
        models={level: ResolvedModel(revision=level, num_parameters=1) for level in study.ladder},
    )
    assert study.name == name
    assert len(distinct_stages(compile_study(study, resolution))) == NUM_STAGES[name]


def test_the_demo_asks_for_what_it_is_to_prove() -> None:
    study = load_study(FOLDER / "quickstart.yaml")
    assert {level: entry.execution.zero_stage for level, entry in study.ladder.items()} == {
        "small": 1,
        "medium": 2,
        "large": 3,
    }
    assert {entry.execution.crew_shape.workers for entry in study.ladder.values()} == {2}
    assert all((task.test_examples or 0) >= 2000 for task in study.tasks.values())
    assert (load_study(FOLDER / "continuation.yaml").tasks["continuation"].test_examples or 0) >= 4000
