"""Specs and stores for the tests of the store."""

from collections.abc import Callable

import pytest

from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import ModelSource, PredictionSpec, StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record

SPLIT = SplitSpec(task="f" * 64, name="S", num_examples=4, num_levels=3, split_seed=0)


@pytest.fixture
def stage() -> StageSpec:
    return StageSpec(
        starts_from=ModelSource(name="w2s:small", revision="1"),
        train=(LabelledSplit(split=SPLIT, labels=GroundTruth()),),
        init_seed=1,
        order_seed=2,
    )


@pytest.fixture
def prediction(stage: StageSpec) -> PredictionSpec:
    return PredictionSpec(stage=stage.identity, split=SPLIT, context_tokens=16)


@pytest.fixture
def commit_stage(store: ArtifactStore) -> Callable[..., Record]:
    """Write and commit a stage's artifact."""

    def commit(spec: StageSpec, parents: tuple[str, ...] = ()) -> Record:
        folder = store.begin("stage", spec.slug, spec.identity)
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_bytes(b"weights" * 1000)
        (folder / "metrics.jsonl").write_text('{"loss": 1.0}\n')
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "latest").write_text("5")
        return store.commit(
            kind="stage",
            slug=spec.slug,
            spec=spec,
            identity=spec.identity,
            parents=parents,
            metrics={"loss": 1.0},
        )

    return commit
