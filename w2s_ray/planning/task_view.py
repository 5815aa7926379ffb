"""The tasks as a plan shows them: rows, classes by split, texts that are cut, examples as a model reads them.

Texts are encoded and cut by the functions that stages use (data/tokens.py), with the tokenizer that they load.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import num_in_pools, rows_of_split
from w2s_ray.data.tokens import Tokens, plain_ids, read_around
from w2s_ray.errors import ModelError
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedTask
from w2s_ray.spec.level_splits import LevelSplits
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.task import SourceRows
from w2s_ray.training.models.catalogue import is_builtin, model_folder
from w2s_ray.training.models.files import auto_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NUM_EXAMPLES = 3
_TEXTS_TRIED = 2000
"""Most texts that are tokenised to find how many a context cuts."""
_EXAMPLE_CHARS = 300
_CHARS_PER_TOKEN = 100
"""The most characters of a text that are tokenised for each token of the context."""
_SPECIAL = re.compile(
    r"\[(?:SEP|CLS|MASK|PAD|UNK|BOS|EOS|/?INST)\]|<\|\w+\|>|</?s>|<(?:sep|cls|mask|pad|unk|bos|eos|eod|eop)>"
    r"|<(?:start|end)_of_turn>"
)
"""Special tokens of well-known tokenizers."""


class _Reader(NamedTuple):
    """A level's model that reads a task in a context."""

    level: str
    context: int
    tokenizer: "PreTrainedTokenizerFast"
    tokens: Tokens
    """Those of the texts that are tried."""


class ContextCut(Spec):
    """How many texts a level's context cuts."""

    level: str
    context_tokens: int
    share: float
    num_texts: int
    """Texts that were tried: all of them, or as many spread over the task."""


class TaskView(Spec):
    """A task as a plan shows it."""

    sources: tuple[SourceRows, ...]
    """Files or splits; empty for tasks that are not made of rows, or were prepared before rows were counted."""
    num_examples: int
    pools: dict[str, dict[str, int]]
    """Examples by class, available for training and validation (`pool`) and for the test set (`test`)."""
    splits: dict[str, dict[str, int]]
    """Examples by class of S, T1 …, V0 … (of the first seed) and the test set."""
    seed: int
    cuts: tuple[ContextCut, ...]
    reader: str
    """The level whose model reads `examples`; empty if its tokenizer is not on this machine."""
    examples: tuple[str, ...]
    """The first examples of S, or documents, with special tokens and as far as they fit into the context."""


def view_tasks(
    study: Study, resolution: Resolution, stages: Iterable[PlannedStage], store: ArtifactStore
) -> tuple[dict[str, TaskView], tuple[str, ...]]:
    """Return a view of each task whose data is on this machine, and notices about special tokens in its texts."""
    views: dict[str, TaskView] = {}
    notices: list[str] = []
    stages = list(stages)
    for name, task in resolution.tasks.items():
        if task.fingerprint.startswith(UNRESOLVED):
            continue
        prepared = load_prepared(store, task.fingerprint)
        texts = _tried(prepared)
        readers = _readers(resolution, [stage for stage in stages if stage.task == name], texts)
        views[name] = _view(study, name, task, prepared, readers)
        notices += (f"task {name}: {line}" for line in _special_tokens(study, name, texts, readers))
    return views, tuple(notices)


def _readers(resolution: Resolution, stages: Sequence[PlannedStage], texts: Sequence[str]) -> list[_Reader]:
    """Return the models that read a task, weak to strong, without those whose tokenizer is not on this machine."""
    contexts: dict[tuple[str, str], dict[int, PlannedStage]] = defaultdict(dict)
    for stage in stages:
        place = stage.level, stage.spec.starts_from.name
        contexts[place].setdefault(stage.spec.optimisation.context_tokens, stage)
    order = list(resolution.models)
    readers = []
    encoded: dict[tuple[str, str], Tokens] = {}
    for (level, name), stage_of in sorted(contexts.items(), key=lambda item: order.index(item[0][0])):
        revision = resolution.models[level].revision
        tokenizer = None if revision == UNRESOLVED else _tokenizer(name, revision)
        if tokenizer is None:
            continue
        longest = max(max(own) for (_, other), own in contexts.items() if other == name)
        if (name, revision) not in encoded:
            encoded[name, revision] = _encoded(tokenizer, texts, longest)
        for context, stage in sorted(stage_of.items()):
            before, after = read_around(tokenizer, is_language_model=stage.spec.is_language_model)
            readers.append(
                _Reader(level, context, tokenizer, replace(encoded[name, revision], before=before, after=after))
            )
    return readers


def _tokenizer(name: str, revision: str) -> "PreTrainedTokenizerFast | None":
    """Return a model's tokenizer, if it can be loaded; that of the built-in models needs no torch."""
    folder = model_folder(name, revision, tokenizer=True)
    if is_builtin(name):
        from transformers import PreTrainedTokenizerFast

        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder))
        return tokenizer
    try:
        loaded = auto_tokenizer(folder)
    except ModelError:  # code of the model's own runs in stages alone
        return None
    return loaded if loaded.is_fast else None


def _encoded(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], longest: int) -> Tokens:
    """Return the tokens of texts, of which those that a context of `longest` tokens cuts may be incomplete."""
    most = _CHARS_PER_TOKEN * longest
    ids = plain_ids(tokenizer, [text[-most:] for text in texts]) if texts else []
    for number, text in enumerate(texts):
        if len(text) > most and len(ids[number]) <= longest:
            ids[number] = plain_ids(tokenizer, [text])[0]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    return Tokens(np.array([token for own in ids for token in own], dtype=np.int32), offsets)


def _view(
    study: Study,
    name: str,
    task: ResolvedTask,
    prepared: PreparedTask,
    readers: Sequence[_Reader],
) -> TaskView:
    splits = LevelSplits(task, study.sizes_of(name), tuple(study.ladder), study.seeds[0])
    shown = [splits.text()] if prepared.kind == "text" else [splits.supervisor()]
    if prepared.kind != "text":
        shown += [split(level) for split in (splits.train, splits.validation) for level in splits.order]
        shown = [*(split for split in shown if split.name != "T0"), splits.test()]
    rows = {split.name: rows_of_split(prepared, split) for split in shown}
    first = rows[shown[0].name][:NUM_EXAMPLES]
    reader = readers[0] if readers else None
    return TaskView(
        sources=prepared.sources,
        num_examples=prepared.table().num_rows,
        pools=num_in_pools(prepared),
        splits={split: _by_class(prepared, numbers) for split, numbers in rows.items()},
        seed=study.seeds[0],
        cuts=tuple(map(_cut, readers)) if prepared.kind != "text" else (),
        reader=reader.level if reader is not None else "",
        examples=tuple(_example(prepared, int(row), reader) for row in first),
    )


def _by_class(prepared: PreparedTask, rows_N: np.ndarray) -> dict[str, int]:
    counts = np.bincount(prepared.labels(rows_N), minlength=prepared.num_classes)
    return dict(zip(prepared.class_names, counts.tolist(), strict=True))


def _cut(reader: _Reader) -> ContextCut:
    rows_N = np.arange(len(reader.tokens.offsets) - 1)
    share = float(reader.tokens.are_longer(rows_N, reader.context).mean()) if len(rows_N) else 0.0
    return ContextCut(level=reader.level, context_tokens=reader.context, share=share, num_texts=len(rows_N))


def _tried(prepared: PreparedTask) -> list[str]:
    """Return the texts of the task, or as many of them, spread over it, as are tried."""
    table = prepared.table()
    rows = np.unique(np.linspace(0, table.num_rows - 1, min(_TEXTS_TRIED, table.num_rows)).astype(int))
    columns = ("text", "other")[: prepared.texts_per_example]
    return [text for column in columns for text in table[column].take(rows).to_pylist()]


def _example(prepared: PreparedTask, row: int, reader: _Reader | None) -> str:
    """Return an example as text: what the model reads, and what it learns."""
    example = prepared.table().slice(row, 1).to_pylist()[0]
    texts = [example["text"], *([example["other"]] if prepared.kind == "pairs" else [])]
    if prepared.kind == "text":  # read in blocks, from the beginning
        return repr(_shortened(texts[0]))
    shown = " | ".join(repr(_shortened(text)) for text in (texts if reader is None else _as_read(reader, texts)))
    if prepared.kind == "answers":
        return f"{shown} (answer: {example['other']})"
    return f"{shown} (class: {prepared.class_names[example['label']]})"


def _as_read(reader: _Reader, texts: Sequence[str]) -> list[str]:
    """Return what a stage reads of texts: with its special tokens, cut on the left to the context."""
    whole = _encoded(reader.tokenizer, texts, max(map(len, texts)))
    tokens = replace(whole, before=reader.tokens.before, after=reader.tokens.after)
    rows = tokens.rows(np.arange(len(texts)), reader.context)
    return [
        str(reader.tokenizer.decode(row.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        for row in rows
    ]


def _shortened(text: str) -> str:
    half = _EXAMPLE_CHARS // 2
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:half]} … {text[-half:]}"


def _special_tokens(study: Study, name: str, texts: Sequence[str], readers: Sequence[_Reader]) -> Iterator[str]:
    """Yield a notice for special tokens in the task's template or in many of its texts."""
    known = {
        token.content for reader in readers for token in reader.tokenizer.added_tokens_decoder.values() if token.special
    }
    template = study.tasks[name].text or ""
    words = re.sub(r"\{\w*\}", "", template)
    in_template = {token for token in known if token in words} | {match[0] for match in _SPECIAL.finditer(words)}
    if in_template:
        plain = re.sub(
            r"\s*(?:" + "|".join(map(re.escape, sorted(in_template, key=len, reverse=True))) + r")\s*", "\\n", template
        )
        yield (
            f"text: {template!r} contains {', '.join(sorted(in_template))}, which models read as plain characters and "
            f"not as a special token; separate two segments by a line end, text: {_quoted(plain.strip())}. "
            "The special tokens around a text are added where the model reads them"
        )
    if "\\n" in words:
        yield (
            f"text: {template!r} contains a backslash before n, which is no line end; write the template in double "
            "quotes"
        )
    pattern = re.compile("|".join(map(re.escape, sorted(known - in_template, key=len, reverse=True))) or r"(?!)")
    counts = Counter(token for text in texts for token in set(pattern.findall(text)))
    for token, num in counts.most_common():
        if num >= 0.01 * len(texts) and len(token) > 1:
            yield (
                f"{num / len(texts):.0%} of the texts contain {token}, which models read as plain characters and not "
                "as a special token"
            )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
