"""Rows of data sets on the Hugging Face hub.

The hub is asked for the commit that the revision names. Where it cannot be reached, a revision that is a whole commit
still names the data, which the store may hold already; but rows are never taken from the cache of `datasets` then,
because offline that library gives whatever it cached last, of any commit.

Many older data sets are Python scripts, which nobody should run and `datasets` no longer does. The hub keeps a Parquet
copy of each on the branch `PARQUET`, one folder per configuration and split; that branch is read file by file.
"""

import re
from dataclasses import dataclass
from typing import Any

from w2s_ray.errors import DataError, first_line
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import POOL, TEST

PARQUET = "refs/convert/parquet"
"""The branch on which the hub keeps every data set as Parquet: `<configuration>/<split>/0000.parquet` and so on."""
TIMEOUT_SECONDS = 10.0
"""How long the hub may take to answer."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubUnreachable(DataError):
    """The hub cannot be asked; `files` names what is missing."""

    def __init__(self, value: str, rule: str, remedy: str, files: tuple[str, ...] = ()) -> None:
        super().__init__(value, rule, remedy)
        self.files = files


def parse_revision(revision: str) -> tuple[str | None, str | None]:
    """Return branch and commit of a revision: a branch or tag, a whole commit, or `branch@commit`."""
    branch, _, commit = revision.partition("@")
    if _COMMIT.fullmatch(commit):
        return branch, commit
    return (None, revision) if _COMMIT.fullmatch(revision) else (revision, None)


@dataclass(frozen=True)
class HubRows:
    """Rows of a data set's splits.

    Attributes:
        name: the data set's id.
        subset: its configuration; of `PARQUET`, the only one where it is not given.
        branch: a branch or tag, the main one where not given; `PARQUET` is read as Parquet files.
        pool: the split of the pool; several are joined by `+`.
        test: the split of the test set, if it has one.
        commit: the whole commit of `branch` to read; the newest where it is not given.
        parts: folders that hold the splits as gzipped JSON lines (`<part>/<split>.jsonl.gz`), one source for each.
    """

    name: str
    subset: str | None
    branch: str | None
    pool: str
    test: str | None
    commit: str | None = None
    parts: tuple[str, ...] = ()

    def digest(self) -> list[object]:
        """Return the data set's name, commit and splits.

        Raises:
            DataError: when there is no such data set or revision.
            HubUnreachable: when the hub cannot be asked and the revision is not a whole commit.
        """
        return ["hub", self.name, self._commit(), self.subset, self.pool, self.test, *self.parts]

    def revision(self) -> str:
        """Return `branch@commit`, which pins the rows.

        Raises:
            DataError: when there is no such data set or revision.
            HubUnreachable: when the hub cannot be asked and the commit is not known.
        """
        return f"{self.branch or 'main'}@{self._commit()}"

    def read(self) -> list[Source]:
        """Return the rows of the splits.

        Raises:
            DataError: when the data set or a split is not there.
            HubUnreachable: when the hub cannot be asked.
        """
        commit = self._commit()
        if _ask(self.name, commit) is None:
            raise self._unreachable()
        splits = [(POOL, split) for split in self.pool.split("+")]
        splits += [(TEST, split) for split in (self.test or "").split("+") if split]
        return [
            Source(f"{self.name} ({place})", self._rows(split, commit, part), origin, part)
            for origin, split in splits
            for part in self.parts or (None,)
            for place in (f"{part}, {split}" if part else split,)
        ]

    def _commit(self) -> str:
        if self.commit is not None:
            return self.commit
        commit = _ask(self.name, self.branch)
        if commit is None:
            raise self._unreachable()
        return commit

    def _rows(self, split: str, commit: str, part: str | None) -> Any:
        from datasets import load_dataset

        try:
            if part is not None:
                files = f"hf://datasets/{self.name}@{commit}/{part}/{split}.jsonl.gz"
                return load_dataset("json", data_files={split: files}, split=split)
            if self.branch != PARQUET:
                return load_dataset(self.name, name=self.subset, split=split, revision=commit)
            files = f"hf://datasets/{self.name}@{commit}/{self.subset or '*'}/{split}/*.parquet"
            return load_dataset("parquet", data_files={split: files}, split=split)
        except ConnectionError:
            raise self._unreachable() from None
        except (ValueError, OSError) as error:
            raise DataError(
                f"{self.name}, split {split!r}: {first_line(error)}",
                "a hub data set is read by its name, `subset:` and `split:`",
                "see the data set's page for its subsets and splits",
            ) from None

    def _unreachable(self) -> HubUnreachable:
        revision = self.commit or self.branch or "main"
        return HubUnreachable(
            f"data set {self.name} at {revision} cannot be reached",
            "a hub data set is fetched once and kept in the store",
            "connect to the hub, or download the data and name it with `files:`",
            files=(f"datasets/{self.name}@{revision}",),
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
