"""A tiny real study: text files of words, a tiny Llama, process groups, and limits under which ZeRO-3 really shards."""

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from w2s_ray.data.prepare import PreparedTask, prepare_task
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.chain import Chain, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.task import SCHEMA, Kind, Task, TaskData
from w2s_ray.training import zero
from w2s_ray.training.memory.limits import Limits, limits_for
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.progress import StageProgress

LIMITS = {
    "ahead": Limits(bucket=4_096, prefetch=2_100, live=6_000, reuse=500, persistence=16, sub_group=8_192),
    "bare": Limits(bucket=1_024, prefetch=0, live=256, reuse=0, persistence=0, sub_group=1_024),
    # For the built-in large model.
    "million": Limits(bucket=10**6, prefetch=10**6, live=10**6, reuse=10**6, persistence=1_000, sub_group=2 * 10**6),
    "tenth of a million": Limits(
        bucket=10**5, prefetch=10**5, live=10**5, reuse=10**5, persistence=0, sub_group=2 * 10**5
    ),
}


TINY = ("ahead", "bare")


"""Limits for the tests' tiny models."""


@contextmanager
def sharding(name: str) -> Iterator[None]:
    """Give every engine made inside the limits of that name, or without a name those of its size.

    The gradient buffer is freed after each step, as for large models.
    """
    before, worth = zero.limits_for, zero._WORTH_FREEING
    zero.limits_for = (lambda num_parameters, hidden_size: LIMITS[name]) if name else limits_for
    zero._WORTH_FREEING = 0 if name else zero._MAPPED
    try:
        yield
    finally:
        zero.limits_for, zero._WORTH_FREEING = before, worth


def largest(limits: Limits) -> int:
    """The largest of the limits, in elements."""
    return max(astuple(limits))


UP = ("warm", "bright", "gentle", "calm", "sweet")


DOWN = ("cold", "dark", "harsh", "wild", "bitter")


class Moods:
    """Sentences of different lengths whose mood words determine the label."""

    kind: Kind = "classes"

    def fingerprint(self) -> str:
        return "moods"

    def read(self) -> TaskData:
        coin = random.Random(0)
        rows = []
        for number in range(700):
            label = number % 2
            words = [coin.choice(UP if label else DOWN) for _ in range(coin.randint(1, 4))]
            words += [coin.choice(("the", "day", "was", "and", "sea", str(number))) for _ in range(coin.randint(1, 12))]
            coin.shuffle(words)
            rows.append(
                {
                    "id": f"m{number}",
                    "text": " ".join([*words, str(number)]),
                    "label": label,
                    "group": f"g{number}",
                    "origin": "pool",
                }
            )
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), ("down", "up"))


class Pairings:
    """Two sentences; the one with the brighter word is better."""

    kind: Kind = "pairs"

    def fingerprint(self) -> str:
        return "pairings"

    def read(self) -> TaskData:
        coin = random.Random(1)
        rows = []
        for number in range(700):
            pair = [f"{coin.choice(words)} day {'and sea ' * coin.randint(0, 3)}{number}" for words in (UP, DOWN)]
            label = number % 2
            first, second = reversed(pair) if label else pair
            rows.append(_row(f"p{number}", first, label) | {"other": second})
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), ("first", "second"))


class Prompted:
    """The same pairs after a prompt; the line end between them is part of the prompt."""

    kind: Kind = "pairs"

    def fingerprint(self) -> str:
        return "prompted"

    def read(self) -> TaskData:
        pairs = Pairings().read()
        rows = [
            row | {"prompt": prompt, "text": prompt + row["text"], "other": prompt + row["other"]}
            for number, row in enumerate(pairs.table.to_pylist())
            for prompt in (f"the {'sea and the ' * (number % 4)}day {number}\n",)
        ]
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), pairs.class_names)


class Replies:
    """A sentence, and its mood as the answer."""

    kind: Kind = "answers"

    def fingerprint(self) -> str:
        return "replies"

    def read(self) -> TaskData:
        rows = [
            _row(row["id"], row["text"], 0) | {"other": ("down", "up")[row["label"]]}
            for row in Moods().read().table.to_pylist()
        ]
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), ())


def _row(id_: str, text: str, label: int) -> dict[str, object]:
    return {"id": id_, "text": text, "label": label, "group": id_, "origin": "pool"}


def write_tiny_llama(folder: Path, *, hidden: int, seed: int) -> Path:
    tokenizer = load_tokenizer(TOKENIZER, None)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Tiny:
    """A prepared store and the study that runs on it."""

    store: ArtifactStore
    study: Study
    prepared: PreparedTask

    def chain(self, method: str = "naive", **execution: object) -> Chain:
        """Compile the study with this execution on every level."""
        study = self.study
        if execution:
            ladder = {
                name: level.model_copy(update={"execution": level.execution.model_copy(update=execution)})
                for name, level in study.ladder.items()
            }
            study = study.model_copy(update={"ladder": ladder})
        task = ResolvedTask(
            fingerprint=self.prepared.fingerprint,
            kind=self.prepared.kind,
            num_classes=self.prepared.num_classes,
            class_names=self.prepared.class_names,
            num_test=60,
        )
        models = {name: ResolvedModel(revision=f"the tiny {name}", num_parameters=1) for name in study.ladder}
        chains = compile_study(study, Resolution(tasks={"moods": task}, models=models))
        return next(chain for chain in chains if chain.method == method)


def make_tiny(folder: Path, task: Task | None = None, **changes: object) -> Tiny:
    """A study of `task`, with `changes` to its keys."""
    store = ArtifactStore(folder / "store")
    store.prepare()
    small = write_tiny_llama(folder / "small", hidden=16, seed=1)
    large = write_tiny_llama(folder / "large", hidden=32, seed=2)
    raw = {
        "name": "tiny",
        "tasks": {"moods": {"files": "unused.jsonl", "text": "text", "label": "label"}},
        "ladder": {"small": str(small), "large": str(large)},
        "optimisation": {"learning_rate": 3e-3, "examples_per_step": 16, "epochs": 1.0},
        "splits": {"train_examples": 100, "validation_examples": 20},
        "methods": {
            "naive": {"arms": ["chain", "ceiling"]},
            "confidence": {"arms": ["chain"], "losses": {"large": {"kind": "confidence", "alpha_max": 0.75}}},
        },
    }
    return Tiny(store, parse_study(raw | changes), prepare_task(store, "moods", task or Moods(), 0.2))


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path)


class Onlooker:
    """Keeps all progress; asks to stop at the `stop_at`-th poll."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.points: list[StageProgress] = []
        self._polls = 0
        self._stop_at = stop_at

    def should_stop(self) -> bool:
        self._polls += 1
        return self._stop_at is not None and self._polls >= self._stop_at

    def report(self, point: StageProgress) -> None:
        self.points.append(point)


@pytest.fixture(autouse=True)
def sharded() -> Iterator[None]:
    """Give every stage of this process limits below its model's size, so that ZeRO-3 really shards."""
    with sharding("ahead"):
        yield


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Import the libraries once and exclude them from garbage collection, as worker groups do."""
    import w2s_ray.training.stage  # noqa: F401

    freeze_libraries()


def freeze_libraries() -> None:
    gc.collect()
    gc.freeze()
