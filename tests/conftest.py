"""What the whole suite shares: a store, and how it ends."""

import os
import sys
from pathlib import Path

import pytest

from w2s_ray.store.artifacts import ArtifactStore

_STATUS = pytest.StashKey[int]()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    return store


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread of Ray's may write to its log when the logger is gone: end before the interpreter takes itself down."""
    if "ray" in sys.modules and _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])
