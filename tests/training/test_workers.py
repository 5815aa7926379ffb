"""Collectives of workers, in real processes."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from w2s_ray.errors import StoreError
from w2s_ray.training.collectives import is_lost_peer
from w2s_ray.training.workers import Workers

Outcome = tuple[int, object]


def _join(
    rank: int, size: int, meeting: str, outcomes: "multiprocessing.Queue[Outcome]", work: Callable[[Workers], object]
) -> None:
    """Send what `work` returns in a group whose collectives fail after a second."""
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank % 2)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    workers = Workers(rank, size, torch.device("cpu"))
    workers.barrier()
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)
    outcomes.put((rank, work(workers)))
    dist.destroy_process_group()


def on_ranks(size: int, folder: Path, work: Callable[[Workers], object], answers: int) -> dict[int, object]:
    """Return the first `answers` results of `work` by rank."""
    context = multiprocessing.get_context("spawn")
    outcomes: multiprocessing.Queue[Outcome] = context.Queue()
    meeting = str(folder / "meeting")
    ranks = [context.Process(target=_join, args=(rank, size, meeting, outcomes, work)) for rank in range(size)]
    for process in ranks:
        process.start()
    results = dict(outcomes.get(timeout=120) for _ in range(answers))
    for process in ranks:
        process.join(60)
    return results


def _refused(workers: Workers) -> object:
    began: list[int] = []
    workers.on_rank_0(lambda: began.append(workers.rank))

    def refuse() -> None:
        raise StoreError("the disk is full", "free some space")

    try:
        workers.on_rank_0(refuse)
    except StoreError as error:
        (total,) = workers.sum(torch.ones(1)).tolist()  # the ranks still match collectives
        return error.message, began, total


def _slow(workers: Workers) -> object:
    def sleep() -> int:
        time.sleep(2.5)
        return workers.rank

    on_each_node: list[int] = []
    workers.on_each_node(lambda: on_each_node.append(workers.rank))
    return workers.on_rank_0(sleep), workers.on_every_rank(lambda: workers.rank), on_each_node


def _one_fails(workers: Workers) -> object:
    def work() -> None:
        if workers.rank == 1:
            raise StoreError("the disk is full", "free some space")

    try:
        workers.on_every_rank(work)
    except StoreError as error:
        return error.message


CASES = (_refused, _slow, _one_fails)


def _all_cases(workers: Workers) -> object:
    return {case.__name__: case(workers) for case in CASES}


@pytest.fixture(scope="module")
def of_three(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each case returned on three ranks; ranks 0 and 1 are on one machine, rank 2 on another."""
    results: Any = on_ranks(3, tmp_path_factory.mktemp("ranks"), _all_cases, 3)
    return {case.__name__: [results[rank][case.__name__] for rank in range(3)] for case in CASES}


def test_an_error_of_rank_0_is_raised_on_every_rank(of_three: dict[str, list[Any]]) -> None:
    assert of_three["_refused"] == [("the disk is full", began, 3.0) for began in ([0], [], [])]


def test_ranks_wait_for_slow_work_longer_than_for_a_collective(of_three: dict[str, list[Any]]) -> None:
    assert of_three["_slow"] == [(0, [0, 1, 2], on_each_node) for on_each_node in ([0], [], [2])]


def test_an_error_of_any_rank_is_raised_on_every_rank(of_three: dict[str, list[Any]]) -> None:
    assert of_three["_one_fails"] == ["the disk is full"] * 3


def _lost(workers: Workers) -> object:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        workers.on_rank_0(die)
    except RuntimeError as error:
        return is_lost_peer(error)


def test_a_rank_that_dies_ends_the_wait_of_the_others(tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, _lost, answers=1) == {1: True}


def test_an_assertion_on_rank_0_stays_an_assertion() -> None:
    def broken() -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        Workers(0, 1, torch.device("cpu")).on_rank_0(broken)
