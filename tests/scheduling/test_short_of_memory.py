"""A machine that really runs short of memory in the middle of the large stage; a soak, since it fills the machine."""

import mmap
import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

from tests.scheduling.test_run import Watching, is_at
from w2s_ray.api import run_study
from w2s_ray.scheduling.status import RunningStage
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.memory.usage import host_memory, reserve_bytes

pytestmark = pytest.mark.soak

_LEFT_AT_FIRST = 4 * 2**30
_BELOW_THE_RESERVE = 150 * 2**20
_PIECE = 64 * 2**20


class Hog:
    """A process that holds most of the machine's memory, and then nearly all of it until it is told to go."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._more, self._enough = context.Event(), context.Event()
        self._process = context.Process(target=_hold, args=(self._more, self._enough), daemon=True)
        self._process.start()

    def fill(self) -> None:
        """Leave less than what workers keep free; returns when that is so."""
        self._more.set()
        assert self._enough.wait(60)

    def end(self) -> None:
        """Give all of it back."""
        self._process.kill()
        self._process.join()


def _hold(more: Event, enough: Event) -> None:
    pieces: list[mmap.mmap] = []
    _take_until(_LEFT_AT_FIRST, pieces)
    more.wait()
    _take_until(reserve_bytes(host_memory().total) - _BELOW_THE_RESERVE, pieces)
    enough.set()
    time.sleep(600)


def _take_until(left: int, pieces: list[mmap.mmap]) -> None:
    while host_memory().available > left:
        piece = mmap.mmap(-1, _PIECE)
        piece.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(piece, dtype=np.uint8)[:] = 1
        pieces.append(piece)


def study() -> Study:
    return parse_study(
        {
            "name": "short",
            "tasks": {"continuation": {"builtin": "code_continuation", "test_examples": 200}},
            "splits": {"train_examples": 800, "validation_examples": 32},
            "optimisation": {"examples_per_step": 16},
            "execution": {"workers": 2, "checkpoint_every_seconds": 1.0},
            "ladder": {"small": "w2s:small", "large": {"model": "w2s:large", "execution": {"zero_stage": 3}}},
            "methods": {"naive": {"arms": ["chain"]}},
        }
    )


def predictions(store: Path, outcome_of: Study) -> list[np.ndarray]:
    found = ArtifactStore(store)
    records = [record for record in found.records() if record.kind == "predictions"]
    return [found.read_predictions(one.identity).probs_NC for one in sorted(records, key=lambda one: one.identity)]


def test_a_machine_short_of_memory_costs_one_attempt_and_changes_no_result(tmp_path: Path) -> None:
    undisturbed = run_study(study(), tmp_path / "undisturbed")
    assert undisturbed.failed == {}
    hog, attempts = Hog(), []

    def fill(_: RunningStage) -> None:
        hog.fill()
        time.sleep(2.0)
        hog.end()
        attempts.append(time.monotonic())

    try:
        outcome = run_study(study(), tmp_path / "short", view=Watching().when(is_at("chain", 3), fill))
    finally:
        hog.end()
    assert attempts, "the large stage was under way when memory ran short"
    assert outcome.failed == {}
    store = ArtifactStore(tmp_path / "short")
    (student,) = (record for record in store.records() if record.kind == "stage" and "weak" in record.slug)
    assert store.num_attempts(student.identity) == 2
    whole, short = (predictions(tmp_path / name, study()) for name in ("undisturbed", "short"))
    assert len(whole) == len(short) > 0
    for one, other in zip(whole, short, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
