"""A small generated task, and a tokenizer trained on it."""

import dataclasses
from collections.abc import Callable

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.prepare import PreparedTask, prepare_task
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.task import SCHEMA, Kind, TaskData

Rows = list[dict[str, object]]


@dataclasses.dataclass
class ToyTask:
    """A task of given rows, which counts how often it is read."""

    rows: Rows
    class_names: tuple[str, ...] = ("no", "yes")
    kind: Kind = "classes"
    name: str = "toy"
    num_reads: int = 0

    def fingerprint(self) -> str:
        return self.name

    def read(self) -> TaskData:
        self.num_reads += 1
        return TaskData(pa.Table.from_pylist(self.rows, schema=SCHEMA), self.class_names)


def toy_rows(num: int, *, group_size: int = 1, num_classes: int = 2, origin: str = "pool", prefix: str = "e") -> Rows:
    """Rows whose label cycles through the classes, in groups of neighbours."""
    return [
        {
            "id": f"{prefix}{number}",
            "text": f"{prefix} text {number} " + "word " * (number % 13),
            "label": number // group_size % num_classes if group_size > 1 else number % num_classes,
            "group": f"{prefix}g{number // group_size}",
            "origin": origin,
        }
        for number in range(num)
    ]


@pytest.fixture
def toy_task() -> type[ToyTask]:
    """The class of toy tasks, for tests that prepare one themselves."""
    return ToyTask


@pytest.fixture
def toy(store: ArtifactStore) -> Callable[..., PreparedTask]:
    """Prepare a toy task."""

    def make(rows: Rows, test_fraction: float = 0.2, **task: object) -> PreparedTask:
        return prepare_task(store, "toy", ToyTask(rows, **task), test_fraction)  # type: ignore[arg-type]

    return make


@pytest.fixture
def prepared(toy: Callable[..., PreparedTask]) -> PreparedTask:
    """2,000 examples of two classes, in groups of four."""
    return toy(toy_rows(2000, group_size=4))


@pytest.fixture
def split() -> Callable[..., SplitSpec]:
    """Specify a split."""

    def make(prepared: PreparedTask, name: str, num_examples: int, **changes: object) -> SplitSpec:
        known = {"task": prepared.fingerprint, "name": name, "num_examples": num_examples}
        return SplitSpec.model_validate({"num_levels": 3, "split_seed": 0} | known | changes)

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["text word word ! text"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")


@pytest.fixture
def rows_of() -> Callable[..., Rows]:
    """The rows of a toy task; tests change them."""
    return toy_rows
