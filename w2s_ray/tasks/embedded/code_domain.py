"""The builtin task `code_domain`: is this code from a deep learning package, or from elsewhere?

An example shows some consecutive lines of a function: the whole lines before a cut that have at most `TEXT_CHARS`
characters together, without the indentation that they share, with the final line end. The class is `deep_learning` if
the function is from torch, transformers or deepspeed. The text does not name its package or file, unless the code
itself does. There are up to `CUTS_PER_FUNCTION` cuts of a function; the group is the file. A text that occurs in files
of both classes is not used.

Pretraining teaches what such code looks like, but does not ask the question: what a student knows about it comes from
labels. Only the corpus's task files are used, which pretraining never reads.
"""

from collections.abc import Iterable

import pyarrow as pa

from w2s_ray.spec.identity import seeded_hash
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.published import EmbeddedTask
from w2s_ray.tasks.embedded.python_source import function_id
from w2s_ray.tasks.task import POOL, SCHEMA, Kind

RECIPE = 1
"""Increase when this module would make different examples from the same corpus."""

CLASS_NAMES = ("elsewhere", "deep_learning")
CUE = "# From a deep_learning package or from elsewhere? Answer:"
DEEP_LEARNING = ("torch", "transformers", "deepspeed")
"""The packages of the class `deep_learning`."""
CUTS_PER_FUNCTION = 2
MIN_LINES = 2
TEXT_CHARS = 200


class CodeDomain(EmbeddedTask):
    """The task `code_domain`."""

    name = "code_domain"
    kind: Kind = "classes"
    class_names = CLASS_NAMES
    recipe = RECIPE
    cue = CUE

    def examples(self) -> pa.Table:
        """Return one example for each distinct text.

        Raises:
            DataError: when a package is not installed.
        """
        versions = corpus.versions()
        rows = [
            {
                "id": function_id(function, versions, self.name, text),
                "text": text,
                "label": int(function.package in DEEP_LEARNING),
                "group": function.file,
                "origin": POOL,
            }
            for text, function in distinct_texts(corpus.task_functions())
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def distinct_texts(functions: Iterable[corpus.Function]) -> list[tuple[str, corpus.Function]]:
    """Return each text with the first function, by file, that it is from; without texts of both classes."""
    functions_of: dict[str, list[corpus.Function]] = {}
    for function in functions:
        for text in texts_of(function):
            functions_of.setdefault(text, []).append(function)
    return [
        (text, min(sources, key=lambda source: source.file))
        for text, sources in functions_of.items()
        if len({source.package in DEEP_LEARNING for source in sources}) == 1
    ]


def texts_of(function: corpus.Function) -> list[str]:
    """Return the lines before up to `CUTS_PER_FUNCTION` cuts of a function, chosen by hash."""
    lines = function.text.split("\n")
    cuts = [cut for cut in function.cuts if cut >= MIN_LINES]
    cuts.sort(key=lambda cut: seeded_hash("code_domain cut", function.file, function.text, cut))
    texts = []
    for end in cuts[:CUTS_PER_FUNCTION]:
        start, chars = end, 0
        while start > 0 and chars + len(lines[start - 1]) + 1 <= TEXT_CHARS:
            start -= 1
            chars += len(lines[start]) + 1
        if end - start >= MIN_LINES:
            margin = min(len(line) - len(line.lstrip()) for line in lines[start:end])
            texts.append("".join(f"{line[margin:]}\n" for line in lines[start:end]))
    return texts
