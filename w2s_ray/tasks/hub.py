"""Data sets on the Hugging Face hub.

The hub is asked for the commit that the revision names. Where it cannot be reached, a revision that is a whole commit
still names the data, which the store may hold already; but rows are never taken from the cache of `datasets` then,
because offline that library gives whatever it cached last, of any commit.
"""

import re

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.rows import Row
from w2s_ray.tasks.table import Source, definition, task_data
from w2s_ray.tasks.task import POOL, TEST, Kind, TaskData

TIMEOUT_SECONDS = 10.0
"""How long the hub may take to answer."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubUnreachable(DataError):
    """The hub cannot be asked; `files` names what is missing."""

    def __init__(self, value: str, rule: str, remedy: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(value, rule, remedy)
        self.files = files


class HubTask:
    """A task read from a data set on the hub."""

    kind: Kind = "classes"

    def __init__(self, spec: TaskSpec) -> None:
        assert spec.hub is not None
        self.spec = spec
        self._name = spec.hub

    def fingerprint(self) -> str:
        """Return the digest of the data set's name and commit, its splits and the columns asked for.

        Raises:
            DataError: when there is no such data set or revision.
            HubUnreachable: when the hub cannot be asked and the revision is not a whole commit.
        """
        spec = self.spec
        rows = [self._name, self._commit(), spec.subset, spec.split, spec.test_split]
        return identity("task", ["hub", definition(spec), rows])

    def read(self) -> TaskData:
        """Return the rows of the split, and those of the test split with the origin `test`.

        Raises:
            DataError: when the data set, a split, a column, a text or a label is not as it should be.
            HubUnreachable: when the hub cannot be asked.
        """
        commit = self._commit()
        if _ask(self._name, commit) is None:
            raise self._unreachable()
        splits = {POOL: self.spec.split} | ({TEST: self.spec.test_split} if self.spec.test_split else {})
        sources = [
            Source(f"{self._name} ({split})", self._rows(split, commit), origin) for origin, split in splits.items()
        ]
        return task_data(sources, self.spec)

    def _commit(self) -> str:
        revision = self.spec.revision
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        commit = _ask(self._name, revision)
        if commit is None:
            raise self._unreachable()
        return commit

    def _rows(self, split: str, commit: str) -> list[Row]:
        from datasets import load_dataset

        try:
            rows = load_dataset(self._name, name=self.spec.subset, split=split, revision=commit)
        except ConnectionError:
            raise self._unreachable() from None
        except (ValueError, OSError) as error:
            raise DataError(
                f"{self._name}, split {split!r}: {str(error).splitlines()[0]}",
                "a hub data set is read by its name, `subset:` and `split:`",
                "see the data set's page for its subsets and splits",
            ) from None
        return list(rows)

    def _unreachable(self) -> HubUnreachable:
        revision = self.spec.revision or "main"
        return HubUnreachable(
            f"data set {self._name} at {revision} cannot be reached",
            "a hub data set is fetched once and kept in the store",
            "connect to the hub, or download the data and name it with `files:`",
            files=(f"datasets/{self._name}@{revision}",),
        )


def _ask(name: str, revision: str | None) -> str | None:
    """Return the commit that the hub has for a data set's revision; None where it cannot be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT_SECONDS).sha
    except RepositoryNotFoundError:
        remedy = "check the name; for a private or gated data set, log in with `hf auth login`"
        raise DataError(f"data set {name} does not exist on the hub", "`hub:` names a data set", remedy) from None
    except RevisionNotFoundError:
        raise DataError(f"{name} has no revision {revision}", "a revision is a commit or branch", "check it") from None
    except HFValidationError as error:
        raise DataError(f"data set {name!r}: {error}", "a hub id reads owner/name", "check the name") from None
    except Exception:  # whatever the HTTP library raises for a network that is not there
        return None
