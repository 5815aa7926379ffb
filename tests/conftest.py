"""What the whole suite shares: a store, a process group of one, and how it ends."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from w2s_ray.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

_STATUS = pytest.StashKey[int]()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    return store


@pytest.fixture(scope="session")
def alone() -> "Iterator[Workers]":
    """A process group of one, in this process."""
    import torch
    import torch.distributed as dist

    from w2s_ray.training.workers import Workers

    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"w2s-group-{os.getpid()}"
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    torch.set_num_threads(1)
    yield Workers(0, 1, torch.device("cpu"))
    dist.destroy_process_group()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread of Ray's may write to its log when the logger is gone: end before the interpreter takes itself down."""
    if "ray" in sys.modules and _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
