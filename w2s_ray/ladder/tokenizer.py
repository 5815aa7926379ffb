"""Train a ladder's tokenizer: small byte-level BPE, for source code or any other text.

    python -m w2s_ray.ladder.tokenizer FOLDER                          the tokenizer of the built-in ladder
    python -m w2s_ray.ladder.tokenizer FOLDER STUDY.yaml [KEY=VALUE …] a tokenizer for the text of a pretraining study

The alphabet is all bytes, so every text can be encoded. The pre-tokenizer keeps runs of spaces together, so that a
line's indentation is one or two tokens.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from w2s_ray.errors import DataError
from w2s_ray.spec.load import load_study
from w2s_ray.tasks.embedded.python_source import PythonSource
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import POOL, Task

VOCABULARY = 4096
PAD, END = "<|pad|>", "<|end|>"
FOLDER = Path(__file__).parent / "tokenizer"
SAMPLE_CHARS = 8_000_000
"""Characters of text that a tokenizer is trained on."""

_PIECES = r" ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z_0-9]+|\n *|[^\S\n]+(?=\S)|\s+"
"""Words and runs of symbols, each with the space before it; digits; line breaks with the next line's indentation."""


def train_tokenizer(texts: Iterable[str], folder: Path | str) -> None:
    """Train on `texts` and write a tokenizer for `AutoTokenizer.from_pretrained(folder)`; deterministic.

    It has a padding token and an end-of-text token, no beginning-of-text token, and pads on the right.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))


def sample(texts: Iterable[str], chars: int = SAMPLE_CHARS) -> list[str]:
    """Return the first texts that have at least `chars` characters together."""
    taken: list[str] = []
    total = 0
    for text in texts:
        if total >= chars:
            break
        taken.append(text)
        total += len(text)
    return taken


def text_task(study: Path, overrides: Sequence[str] = ()) -> Task:
    """Return a study's first task.

    Raises:
        StudyError: when the study cannot be read.
        DataError: when the task has labels.
    """
    task = open_task(next(iter(load_study(study, overrides).tasks.values())))
    if task.kind != "text":
        message = f"the first task of {study} has {task.kind}; a tokenizer is trained on text without labels"
        raise DataError(message, "choose a pretraining study")
    return task


def texts_of(task: Task) -> list[str]:
    """Return a sample of a task's text, ordered by id.

    Raises:
        DataError: when the task cannot be read.
    """
    pool = sorted((row["id"], row["text"]) for row in task.read().table.to_pylist() if row["origin"] == POOL)
    return sample(text for _, text in pool)


if __name__ == "__main__":
    _, folder, *study = sys.argv
    source = text_task(Path(study[0]), study[1:]) if study else PythonSource()
    train_tokenizer(texts_of(source), folder)
