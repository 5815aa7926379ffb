"""The manifest fixes the embedded tasks: digests of their examples as they were published.

With the packages that `constraints.txt` pins, every installation makes the same examples, hence the same test set. The
manifest shows it: where the versions are the published ones and the digest is not, some installed source file was
changed, and the task is refused. Other versions make another task, with another fingerprint; that is said in the log.

    python -m w2s_ray.tasks.manifest      # writes the manifest anew, after a change of recipe or pins
"""

import hashlib
import json
import logging
from pathlib import Path

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Spec

PATH = Path(__file__).with_name("manifest.json")

logger = logging.getLogger(__name__)


class Entry(Spec):
    """One task as it was published."""

    num_examples: int
    digest: str


class Manifest(Spec):
    """All embedded tasks, and the package versions that they were made from."""

    versions: dict[str, str]
    tasks: dict[str, Entry]


def entry_of(table: pa.Table) -> Entry:
    """Return the digest over id, group, bundle and label of every example; their order does not count."""
    columns = (table[name].to_pylist() for name in ("id", "group", "bundle", "label"))
    lines = sorted("\t".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))
    return Entry(num_examples=len(lines), digest=hashlib.sha256("".join(lines).encode()).hexdigest())


def check(name: str, table: pa.Table, versions: dict[str, str], path: Path = PATH) -> None:
    """Compare `table` with the published task.

    Raises:
        DataError: when it differs although the packages have the published versions.
    """
    manifest = Manifest.model_validate_json(path.read_text())
    if versions != manifest.versions:
        changed = sorted(key for key in versions if versions[key] != manifest.versions.get(key))
        logger.warning("%s is not the published task: other versions of %s", name, ", ".join(changed))
        return
    found = entry_of(table)
    if found != manifest.tasks[name]:
        raise DataError(
            f"{name} came out as {found.num_examples} examples with digest {found.digest[:12]}",
            f"with these package versions it has {manifest.tasks[name].num_examples} with digest "
            f"{manifest.tasks[name].digest[:12]}",
            "an installed source file was changed: install the packages of constraints.txt anew",
        )


def _write() -> None:
    from w2s_ray.tasks import corpus
    from w2s_ray.tasks.code_continuation import CodeContinuation

    tasks = {task.name: entry_of(task.examples()) for task in (CodeContinuation(), CodeContinuation(hard=True))}
    manifest = Manifest(versions=corpus.versions(), tasks=tasks)
    PATH.write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    _write()
