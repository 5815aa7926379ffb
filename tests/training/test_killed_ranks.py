"""One process of a real group of two dies in each phase: the other ends at once, and the stage completes later.

What a run makes of these deaths, and its messages, is in tests/scheduling/test_faults.py.
"""

import errno
import functools
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.conftest import Onlooker, Tiny
from w2s_ray.errors import StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.collectives import is_lost_peer
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

pytestmark = pytest.mark.soak

PHASES = ("load", "step", "checkpoint", "save", "commit", "predict")
SECONDS = 120
"""For the start of two processes, and the end of the one that is left."""


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _at_call(owner: Any, name: str, number: int, fault: Callable[..., None], *, after: bool = False) -> None:
    """Let the call of that number of `owner.name` have a fault, before or after it does its work."""
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def called(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == number and not after:
            fault()
        result = original(*arguments, **named)
        if len(calls) == number and after:
            fault()
        return result

    setattr(owner, name, called)


def _install(phase: str) -> None:
    """Give this process the fault of a phase."""
    from w2s_ray.training import checkpoints, objectives, stage
    from w2s_ray.training.models import saving
    from w2s_ray.training.zero import Engine

    match phase:
        case "load":
            _at_call(stage, "load_network", 1, _die)
        case "step":
            _at_call(Engine, "step", 3, _die)
        case "checkpoint":
            _at_call(checkpoints.Checkpoints, "_sync", 2, _die)
        case "save":
            _at_call(saving, "_write_file", 1, _die)
        case "commit":
            _at_call(stage._StageRun, "_save_model", 1, _die, after=True)
        case "predict":
            _at_call(objectives, "class_outputs", 2, _die)  # the first is the validation
        case "disk":
            _at_call(saving, "sync_file", 2, _full)


def _work(rank: int, victim: int, phase: str, text: str, store: str, meeting: str, ends: Any) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    import torch
    import torch.distributed as dist

    from tests.training.conftest import freeze_libraries, sharding
    from w2s_ray.training.models import saving

    freeze_libraries()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    saving.FILE_BYTES = 8_000  # several files for each rank
    if rank == victim:
        _install(phase)
    try:
        with sharding("bare"):
            workers = Workers(rank, 2, torch.device("cpu"))
            run_stage(
                PlannedStage.model_validate_json(text), store=ArtifactStore(store), workers=workers, observer=Onlooker()
            )
        ends.put((rank, "", ""))
    except Exception as error:
        ends.put((rank, type(error).__name__, str(error)))
        ends.close()
        ends.join_thread()
        os._exit(1)  # the other's connections are gone


def ends_of(stage: PlannedStage, store: ArtifactStore, folder: Path, phase: str, victim: int) -> dict[int, Any]:
    """Run the stage on two processes, one of which has a fault; return class and text of the exceptions by rank."""
    context = multiprocessing.get_context("spawn")
    ends = context.Queue()
    arguments = (victim, phase, stage.model_dump_json(), str(store.root), str(folder / "meeting"), ends)
    ranks = [context.Process(target=_work, args=(rank, *arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = {}
    try:
        for _ in range(2 if phase == "disk" else 1):
            rank, name, message = ends.get(timeout=SECONDS)
            found[rank] = name, message
    except queue.Empty:
        pytest.fail(f"no rank ended within {SECONDS} s")
    finally:
        for process in ranks:
            process.join(30)
            process.kill()
    return found


def sharded_ceiling(tiny: Tiny) -> PlannedStage:
    chain = tiny.chain(workers=2, zero_stage=3, checkpoint_every_seconds=0.0)
    stage = chain.find("ceiling", "large")
    assert stage is not None
    return stage


def complete(tiny: Tiny, stage: PlannedStage, store: ArtifactStore, workers: Workers) -> np.ndarray:
    """Run the stage on one worker until it is done; return its test predictions."""
    alone = stage.model_copy(
        update={"execution": stage.execution.model_copy(update={"workers": 1, "checkpoint_every_seconds": None})}
    )
    run_stage(alone, store=store, workers=workers, observer=Onlooker())
    assert stage.test_prediction is not None
    return store.read_predictions(stage.test_prediction.identity).probs_NC


def store_beside(tiny: Tiny, folder: Path) -> ArtifactStore:
    store = ArtifactStore(folder / "undisturbed")
    store.root.mkdir()
    (store.root / "data").symlink_to(tiny.store.root / "data")
    return store


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_a_rank_that_is_killed_ends_the_other_and_the_stage_completes_later(
    tiny: Tiny, alone: Workers, tmp_path: Path, phase: str, victim: int
) -> None:
    stage = sharded_ceiling(tiny)
    ends = ends_of(stage, tiny.store, tmp_path, phase, victim)
    assert ends.keys() == {1 - victim}
    name, message = ends[1 - victim]
    assert name in ("RuntimeError", "DistBackendError", "DistNetworkError"), message
    assert is_lost_peer(RuntimeError(message))
    expected_NC = complete(tiny, stage, store_beside(tiny, tmp_path), alone)
    np.testing.assert_allclose(complete(tiny, stage, tiny.store, alone), expected_NC, atol=1e-5)
    trained_once = phase == "predict" or (phase, victim) == ("commit", 1)  # rank 0 commits alone
    assert tiny.store.num_attempts(stage.identity) == (1 if trained_once else 2)
    record = tiny.store.find(stage.identity)
    assert record is not None
    tiny.store.verify(record)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_in_the_middle_of_a_sharded_save_is_raised_on_every_rank(
    tiny: Tiny, alone: Workers, tmp_path: Path, victim: int
) -> None:
    stage = sharded_ceiling(tiny)
    ends = ends_of(stage, tiny.store, tmp_path, "disk", victim)
    assert {name for name, _ in ends.values()} == {StoreError.__name__}
    assert all("No space left" in message and "safetensors" in message for _, message in ends.values())
    assert tiny.store.find(stage.identity) is None
    complete(tiny, stage, tiny.store, alone)
