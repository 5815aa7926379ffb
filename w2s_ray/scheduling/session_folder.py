"""The temporary folder of a Ray session of our own, which goes with the session, killed or not.

Ray keeps its sockets and logs there. A process that is killed leaves the folder behind; the next one sees by a lock
that nobody uses it any more, and removes it.
"""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "w2s-ray-"
"""Short, because the paths of sockets may have 107 characters only."""
_LOCK = "in-use"


@contextmanager
def session_folder() -> Iterator[Path]:
    """Make a folder and remove it at the end, with those that nobody uses any more."""
    place = Path(tempfile.gettempdir())
    for lock in place.glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError), _locked(lock):
            shutil.rmtree(lock.parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    try:
        with _locked(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process.

    Raises:
        BlockingIOError: when another process holds it.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
