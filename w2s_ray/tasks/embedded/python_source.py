"""The builtin task `python_source`: unlabelled source text, for pretraining the built-in ladder.

One document per function of the corpus's pretraining files; those of its held-out files have the origin `test`. No
document shares a file with the labelled tasks, or is a near-duplicate of their source (`corpus.py`).
"""

import pyarrow as pa

from w2s_ray.spec.identity import identity
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, Kind, TaskData

RECIPE = 1
"""Increase when this module would make different documents from the same corpus."""


class PythonSource:
    """Functions of installed packages as plain text."""

    kind: Kind = "text"

    def fingerprint(self) -> str:
        """Return the digest of the recipe and the packages' versions.

        Raises:
            DataError: when a package is not installed.
        """
        return corpus.task_fingerprint("python_source", RECIPE)

    def read(self) -> TaskData:
        """Return one document per function; group = file.

        Raises:
            DataError: when a package is not installed.
        """
        versions = corpus.versions()
        origins = {"pretraining": POOL, "held_out": TEST}
        rows = [
            {
                "id": function_id(function, versions),
                "text": function.text + "\n",
                "label": 0,
                "group": function.file,
                "origin": origins[function.pool],
            }
            for function in corpus.corpus()
            if function.pool in origins
        ]
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), ("text",))


def function_id(function: corpus.Function, versions: dict[str, str], *parts: object) -> str:
    """Return the id of an example made from `function`: a hash of package, version, path, content and `parts`."""
    content = [function.package, versions[function.package], function.path, function.text, *map(str, parts)]
    return identity("example", content)[:24]
