"""Resume checkpoints: any workers and any ZeRO stage read them, and damaged ones are passed over."""

import json
import math
import resource
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

from tests.training.conftest import Onlooker, Tiny, freeze_libraries, sharding
from tests.training.processes import on_processes
from w2s_ray.errors import StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training import checkpoints, placement
from w2s_ray.training.checkpoints import Checkpoints, seconds_between
from w2s_ray.training.models import saving
from w2s_ray.training.progress import TrainState
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

STOP = 3


@dataclass(frozen=True)
class World:
    """Workers, and what they shard."""

    workers: int
    zero_stage: int
    offloads: bool = False

    def __str__(self) -> str:
        return f"{self.workers}x{self.zero_stage}{'-offloaded' if self.offloads else ''}"


FEW = [
    (World(2, 3), World(1, 0)),
    (World(2, 1), World(1, 3)),
    (World(1, 0), World(2, 3)),
    (World(1, 3), World(2, 2)),
]
MORE = [
    (World(2, 0), World(1, 2)),
    (World(1, 1), World(2, 0)),
    (World(1, 2), World(2, 3, offloads=True)),
    (World(2, 2, offloads=True), World(1, 1)),
    (World(2, 3, offloads=True), World(2, 1, offloads=True)),
    (World(3, 3), World(4, 3)),
    (World(4, 3), World(3, 2)),
    (World(3, 1), World(2, 3)),
    (World(4, 0), World(1, 3)),
    (World(1, 2), World(4, 1)),
    (World(2, 2), World(3, 0)),
    (World(4, 2), World(2, 1)),
]


def in_world(tiny: Tiny, world: World) -> PlannedStage:
    changes = {"workers": world.workers, "zero_stage": world.zero_stage, "offload_optimizer": world.offloads}
    return tiny.chain(**changes).stages[0].model_copy(update={"predicts": ()})


def sharing_data(tiny: Tiny, folder: Path) -> ArtifactStore:
    """Return another store with the same prepared examples."""
    store = ArtifactStore(folder)
    store.prepare()
    (folder / "data").rmdir()
    (folder / "data").symlink_to(tiny.store.root / "data")
    return store


def _train(rank: int, size: int, meeting: str, jobs: list[tuple[str, str]], stop_at: int | None) -> None:
    """Run stages, whose models the ranks save in several files."""
    import os

    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank)
    freeze_libraries()
    placement.device_has_own_memory = lambda: True  # offloads as for a GPU
    saving.FILE_BYTES = 20_000
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    workers = Workers(rank, size, torch.device("cpu"))
    for root, stage in jobs:
        with sharding("ahead"):
            planned = PlannedStage.model_validate_json(stage)
            run_stage(planned, store=ArtifactStore(root), workers=workers, observer=Onlooker(stop_at))
    dist.destroy_process_group()


def train(tiny: Tiny, alone: Workers, worlds: dict[Path, World], folder: Path, stop_at: int | None) -> None:
    """Run the stage in each store in its world, on real processes where there are several workers."""
    for size in sorted({world.workers for world in worlds.values()}):
        jobs = [(root, in_world(tiny, world)) for root, world in worlds.items() if world.workers == size]
        if size == 1:
            for root, stage in jobs:
                run_stage(stage, store=ArtifactStore(root), workers=alone, observer=Onlooker(stop_at))
            continue
        meeting = str(folder / f"meeting{size}-{stop_at}")
        texts = [(str(root), stage.model_dump_json()) for root, stage in jobs]
        on_processes(_train, size, meeting, texts, stop_at)


def losses(store: ArtifactStore, stage: PlannedStage) -> list[float]:
    record = store.find(stage.identity)
    assert record is not None
    lines = (store.verify(record) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def read_model(store: ArtifactStore, stage: PlannedStage) -> tuple[dict[str, torch.Tensor], int]:
    """Return the weights of a finished stage as transformers reads them, and the number of their files."""
    record = store.find(stage.identity)
    assert record is not None
    folder = store.verify(record) / "model"
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.state_dict(), len(list(folder.glob("*.safetensors")))


def check_worlds(tiny: Tiny, alone: Workers, folder: Path, pairs: list[tuple[World, World]]) -> None:
    whole = sharing_data(tiny, folder / "whole")
    stage = in_world(tiny, World(1, 0))
    run_stage(stage, store=whole, workers=alone, observer=Onlooker())
    expected = losses(whole, stage)
    stores = {pair: sharing_data(tiny, folder / f"{pair[0]}to{pair[1]}") for pair in pairs}
    train(tiny, alone, {store.root: first for (first, _), store in stores.items()}, folder, STOP)
    assert all(list(store.root.glob("artifacts/*/checkpoints/step3/rank0.json")) for store in stores.values())
    train(tiny, alone, {store.root: second for (_, second), store in stores.items()}, folder, None)
    for (first, second), store in stores.items():
        assert store.num_attempts(stage.identity) == 2
        resumed = losses(store, stage)
        np.testing.assert_allclose(resumed, expected, rtol=1e-5, err_msg=f"{first} to {second}")
        weights, num_files = read_model(store, stage)
        assert num_files == (1 if second.workers == 1 else 3)
        for name, tensor in read_model(whole, stage)[0].items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-4)


def test_a_stage_resumes_on_other_workers_and_zero_stages(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    check_worlds(tiny, alone, tmp_path, FEW)


def _train_on_a_slow_disk(rank: int, size: int, meeting: str, jobs: list[tuple[str, str]], stop_at: int | None) -> None:
    """Run stages where the files of rank 1 are on the disk later than those of rank 0."""
    sync_file = checkpoints.sync_file

    def sync_late(path: Path) -> None:
        time.sleep(0.2)
        sync_file(path)

    if rank == 1:
        checkpoints.sync_file = sync_late  # type: ignore[assignment]
    _train(rank, size, meeting, jobs, stop_at)


def test_a_checkpoint_is_kept_until_its_slowest_rank_has_completed_it(tiny: Tiny, tmp_path: Path) -> None:
    stage = tiny.chain(workers=2, zero_stage=3, checkpoint_every_seconds=0).stages[0]
    stage = stage.model_copy(update={"predicts": ()})
    on_processes(
        _train_on_a_slow_disk, 2, str(tmp_path / "meeting"), [(str(tiny.store.root), stage.model_dump_json())], 6
    )
    folder = tiny.store.folder(stage.spec.slug, stage.identity) / "checkpoints"
    assert sorted(path.parent.name for path in folder.glob("*/rank1.json")) == ["step5", "step6"]


@pytest.mark.soak
def test_a_stage_resumes_on_three_and_four_workers(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    check_worlds(tiny, alone, tmp_path, MORE)


def stopped_after(tiny: Tiny, alone: Workers, stop_at: int) -> tuple[PlannedStage, Path]:
    """Stop a stage that writes a checkpoint after every step; return it and the folder of its checkpoints."""
    stage = tiny.chain(zero_stage=1, checkpoint_every_seconds=0).stages[0]
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at))
    return stage, tiny.store.folder(stage.spec.slug, stage.identity) / "checkpoints"


def first_step(tiny: Tiny, alone: Workers, stage: PlannedStage) -> int:
    onlooker = Onlooker()
    run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    return min(point.step for point in onlooker.points if point.activity == "training")


def test_two_checkpoints_are_kept(tiny: Tiny, alone: Workers) -> None:
    _, folder = stopped_after(tiny, alone, 5)
    assert sorted(path.name for path in folder.iterdir()) == ["step4", "step5"]


@pytest.mark.parametrize("damage", ["flipped byte", "missing file", "torn", "no space for its end"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tiny: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    stage, folder = stopped_after(tiny, alone, 4)
    shard = folder / "step4" / "rank0-0.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    if damage == "torn":
        (folder / "step4" / "rank0.json").unlink()
    elif damage == "missing file":
        shard.unlink()
    else:
        shard.write_bytes(content if damage == "flipped byte" else content[:-100])
    assert first_step(tiny, alone, stage) == 4
    output = capsys.readouterr().out
    assert "step4" in output and "the stage continues from step 3" in output


def test_a_stage_without_a_usable_checkpoint_starts_anew(tiny: Tiny, alone: Workers) -> None:
    stage, folder = stopped_after(tiny, alone, 4)
    for marker in folder.glob("*/rank0.json"):
        marker.write_text("{}")
    assert first_step(tiny, alone, stage) == 1


def test_a_full_disk_stops_the_stage_and_leaves_the_checkpoint_before(tiny: Tiny, alone: Workers) -> None:
    stage, _ = stopped_after(tiny, alone, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # files end there as on a full disk
    try:
        with pytest.raises(StoreError, match="step3"):
            run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert first_step(tiny, alone, stage) == 3


def test_syncing_does_not_hold_up_the_training(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    may_end, sync_file = threading.Event(), checkpoints.sync_file
    monkeypatch.setattr(checkpoints, "sync_file", lambda path: may_end.wait(60) and sync_file(path))
    kept: list[Checkpoints] = []
    steps: list[int] = []
    save = Checkpoints.save

    def save_and_go_on(self: Checkpoints, engine: Engine, state: TrainState) -> None:
        save(self, engine, state)
        kept.append(self)

    class Watcher(Onlooker):
        def should_stop(self) -> bool:
            if kept:
                steps.append(kept[0].last_step)
                if len(steps) == 2:
                    may_end.set()
            return False

    monkeypatch.setattr(Checkpoints, "save", save_and_go_on)
    monkeypatch.setattr(checkpoints, "_FIRST_SECONDS", 0.0)
    stage = tiny.chain(zero_stage=1).stages[0]
    run_stage(stage, store=tiny.store, workers=alone, observer=Watcher())
    assert steps[:2] == [0, 0], "two steps were taken while the first checkpoint was not on the disk"
    assert kept[0].last_step == 1


def test_a_failed_sync_is_raised_at_the_next_checkpoint(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints, "sync_file", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        stopped_after(tiny, alone, 3)


def test_weights_that_are_not_trained_are_not_written(tiny: Tiny, alone: Workers) -> None:
    methods = {"lora": {"arms": ["ceiling"], "trainable": {"large": {"kind": "lora", "rank": 2}}}}
    study = type(tiny.study).model_validate(tiny.study.model_dump() | {"methods": methods})
    stage = Tiny(tiny.store, study, tiny.prepared).chain("lora").find("ceiling", "large")
    assert stage is not None
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(1))
    names = set()
    for path in tiny.store.folder(stage.spec.slug, stage.identity).glob("checkpoints/step1/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= {key.split("/", 2)[2] for key in file.keys()}  # noqa: SIM118
    assert names and all("lora" in name or "score" in name for name in names)


@pytest.mark.parametrize("cost", [0.01, 1.0, 30.0, 600.0])
def test_checkpoints_take_at_most_a_fiftieth_of_the_time(cost: float) -> None:
    assert cost / seconds_between(cost) <= 0.02
    assert seconds_between(cost) >= math.sqrt(2 * cost * 6 * 3600)
    assert seconds_between(None) == 60
