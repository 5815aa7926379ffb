"""Collectives of workers, in real processes."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from w2s_ray.errors import StoreError
from w2s_ray.training.workers import Workers


def _one_rank(rank: int, meeting: str, met: "multiprocessing.Queue[tuple[int, str, int]]") -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    workers = Workers(rank, 2, torch.device("cpu"))
    began: list[int] = []
    workers.on_rank_0(lambda: began.append(rank))
    real, timeouts = dist.new_group, []
    dist.new_group = lambda timeout, backend: (timeouts.append(timeout), real(timeout=timeout, backend=backend))[1]
    long = workers.on_rank_0(lambda: "long work", seconds=1200)
    assert long == "long work" and [timeout.total_seconds() for timeout in timeouts] == [1200]

    def refuse() -> None:
        raise StoreError("the disk is full", "free some space")

    try:
        workers.on_rank_0(refuse)
    except StoreError as error:
        (total,) = workers.sum(torch.ones(1)).tolist()  # both ranks still match collectives
        met.put((rank, f"{error.message} {began}", int(total)))
    dist.destroy_process_group()


def test_an_error_of_rank_0_is_raised_on_every_rank(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    met = context.Queue()
    ranks = [context.Process(target=_one_rank, args=(rank, str(tmp_path / "meeting"), met)) for rank in range(2)]
    for process in ranks:
        process.start()
    outcomes = sorted(met.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(60)
    assert outcomes == [(0, "the disk is full [0]", 2), (1, "the disk is full []", 2)]


def test_an_assertion_on_rank_0_stays_an_assertion() -> None:
    def broken() -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        Workers(0, 1, torch.device("cpu")).on_rank_0(broken)
