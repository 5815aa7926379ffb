"""The published examples of the embedded tasks: `manifest.json` has their digests and the packages' versions.

With the packages that `constraints.txt` pins, every installation makes the same examples, hence the same test set. If
the versions match and a digest does not, an installed source file was changed, and the task is refused. Other versions
make a different task with another fingerprint, which is logged. After a change of recipe or pins, rewrite the manifest:

    python -m w2s_ray.tasks.embedded
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from pathlib import Path

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Spec
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.task import Kind, TaskData

MANIFEST = Path(__file__).with_name("manifest.json")
_logger = logging.getLogger(__name__)


class EmbeddedTask(ABC):
    """A task made from the source of the installed packages, whose examples are published."""

    name: str
    kind: Kind
    class_names: tuple[str, ...]
    recipe: int
    """Version of its examples."""

    def fingerprint(self) -> str:
        """Return the digest of the recipe and the packages' versions.

        Raises:
            DataError: when a package is not installed.
        """
        return corpus.task_fingerprint(self.name, self.recipe)

    def read(self) -> TaskData:
        """Return the examples.

        Raises:
            DataError: when a package is not installed, or its source was changed.
        """
        table = self.examples()
        check_published(self.name, table, corpus.versions())
        return TaskData(table, self.class_names)

    @abstractmethod
    def examples(self) -> pa.Table:
        """Return the examples without comparing them with the manifest.

        Raises:
            DataError: when a package is not installed.
        """


class PublishedTask(Spec):
    """One task in the manifest."""

    num_examples: int
    digest: str


class Manifest(Spec):
    """The content of `manifest.json`."""

    versions: dict[str, str]
    tasks: dict[str, PublishedTask]


def digest_of(table: pa.Table) -> PublishedTask:
    """Return the digest over id, group, bundle and label of every example, independent of their order."""
    columns = (table[name].to_pylist() for name in ("id", "group", "bundle", "label"))
    lines = sorted("\t".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return PublishedTask(num_examples=len(lines), digest=hashlib.sha256("".join(lines).encode()).hexdigest())


def check_published(name: str, table: pa.Table, versions: dict[str, str], path: Path = MANIFEST) -> None:
    """Compare `table` with the published task.

    Raises:
        DataError: when it differs although the packages have the published versions.
    """
    manifest = Manifest.model_validate_json(path.read_text())
    if versions != manifest.versions:
        changed = sorted(key for key in versions if versions[key] != manifest.versions.get(key))
        _logger.warning("%s is not the published task: other versions of %s", name, ", ".join(changed))
        return
    actual, published = digest_of(table), manifest.tasks[name]
    if actual != published:
        raise DataError(
            f"{name} has {actual.num_examples} examples with digest {actual.digest[:12]}; with these package versions "
            f"it should have {published.num_examples} with digest {published.digest[:12]}",
            "an installed source file was changed: reinstall the packages of constraints.txt",
        )
