"""The tasks as a plan shows them: rows, classes by split, texts that are cut, examples as a model reads them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from tokenizers import Tokenizer

from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import num_in_pools, rows_of_split
from w2s_ray.planning.memory import tokenizer_of
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedTask
from w2s_ray.spec.level_splits import LevelSplits
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.task import SourceRows

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
        readers = _readers(name, resolution, stages)
        texts = _tried(prepared)
        views[name] = _view(study, name, task, prepared, readers, texts)
        notices += (f"task {name}: {line}" for line in _special_tokens(study, name, texts, readers))
    return views, tuple(notices)


def _readers(name: str, resolution: Resolution, stages: Sequence[PlannedStage]) -> dict[tuple[str, int], Tokenizer]:
    """Return the tokenizer of each level and context that reads the task, weak to strong."""
    readers: dict[tuple[str, int], Tokenizer] = {}
    for stage in (stage for stage in stages if stage.task == name):
        key = stage.level, stage.spec.optimisation.context_tokens
        tokenizer = None if key in readers else tokenizer_of(resolution, name, stage.level, stage.spec.starts_from.name)
        if tokenizer is not None:
            tokenizer.encode_special_tokens = True  # a special token within a text is text, as in training
            tokenizer.no_truncation()
            tokenizer.no_padding()
            readers[key] = tokenizer
    order = list(resolution.models)
    return dict(sorted(readers.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def _view(
    study: Study,
    name: str,
    task: ResolvedTask,
    prepared: PreparedTask,
    readers: Mapping[tuple[str, int], Tokenizer],
    texts: Sequence[str],
) -> TaskView:
    splits = LevelSplits(task, study.sizes_of(name), tuple(study.ladder), study.seeds[0])
    shown = [splits.text()] if prepared.kind == "text" else [splits.supervisor()]
    if prepared.kind != "text":
        shown += [split(level) for split in (splits.train, splits.validation) for level in splits.order]
        shown = [*(split for split in shown if split.name != "T0"), splits.test()]
    rows = {split.name: rows_of_split(prepared, split) for split in shown}
    first = rows[shown[0].name][:NUM_EXAMPLES]
    (level, context), tokenizer = next(iter(readers.items()), (("", 0), None))
    return TaskView(
        sources=prepared.sources,
        num_examples=prepared.table().num_rows,
        pools=num_in_pools(prepared),
        splits={split: _by_class(prepared, numbers) for split, numbers in rows.items()},
        seed=study.seeds[0],
        cuts=tuple(_cut(texts, *key, tokenizer) for key, tokenizer in readers.items() if prepared.kind != "text"),
        reader=level,
        examples=tuple(_example(prepared, int(row), tokenizer, context) for row in first),
    )


def _by_class(prepared: PreparedTask, rows_N: np.ndarray) -> dict[str, int]:
    counts = np.bincount(prepared.labels(rows_N), minlength=prepared.num_classes)
    return dict(zip(prepared.class_names, counts.tolist(), strict=True))


def _cut(texts: Sequence[str], level: str, context: int, tokenizer: Tokenizer) -> ContextCut:
    ends = [text[-_CHARS_PER_TOKEN * context :] for text in texts]
    num_cut = sum(len(encoding.ids) > context for encoding in tokenizer.encode_batch(ends))
    return ContextCut(level=level, context_tokens=context, share=num_cut / max(len(texts), 1), num_texts=len(texts))


def _tried(prepared: PreparedTask) -> list[str]:
    """Return the texts of the task, or as many of them, spread over it, as are tried."""
    table = prepared.table()
    rows = np.unique(np.linspace(0, table.num_rows - 1, min(_TEXTS_TRIED, table.num_rows)).astype(int))
    columns = ("text", "other")[: prepared.texts_per_example]
    return [text for column in columns for text in table[column].take(rows).to_pylist()]


def _example(prepared: PreparedTask, row: int, tokenizer: Tokenizer | None, context: int) -> str:
    """Return an example as text: what the model reads, and what it learns."""
    example = prepared.table().slice(row, 1).to_pylist()[0]
    texts = [example["text"], *([example["other"]] if prepared.kind == "pairs" else [])]
    if prepared.kind == "text":  # read in blocks, from the beginning
        return repr(_shortened(texts[0]))
    shown = " | ".join(repr(_shortened(_as_read(text, tokenizer, context))) for text in texts)
    if prepared.kind == "answers":
        return f"{shown} (answer: {example['other']})"
    return f"{shown} (class: {prepared.class_names[example['label']]})"


def _as_read(text: str, tokenizer: Tokenizer | None, context: int) -> str:
    """Return a text with special tokens, cut on the left to the context."""
    if tokenizer is None:
        return text
    encoding = tokenizer.encode(text[-_CHARS_PER_TOKEN * context :])
    is_special = np.array(encoding.special_tokens_mask, dtype=bool)
    ids, own = np.array(encoding.ids), np.flatnonzero(~is_special)
    room = max(context - int(is_special.sum()), 0)
    kept = np.concatenate([np.flatnonzero(is_special), own[len(own) - min(room, len(own)) :]])
    return tokenizer.decode(ids[np.sort(kept)].tolist(), skip_special_tokens=False)


def _shortened(text: str) -> str:
    half = _EXAMPLE_CHARS // 2
    return text if len(text) <= _EXAMPLE_CHARS else f"{text[:half]} … {text[-half:]}"


def _special_tokens(
    study: Study, name: str, texts: Sequence[str], readers: Mapping[tuple[str, int], Tokenizer]
) -> Iterator[str]:
    """Yield a notice for special tokens in the task's template or in many of its texts."""
    known = {
        token.content
        for tokenizer in readers.values()
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.special
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
            f"not as a special token; separate two segments by a line end, text: {_quoted(plain.strip())}. The "
            "tokenizer adds its own special tokens at both ends"
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
