"""Train the built-in ladder's tokenizer: byte-level BPE for source code.

`tokenizer/` beside this file holds the result. Every text can be encoded (bytes are the alphabet), and a run of spaces
is one piece of the pre-tokenizer, so that a line's indentation is one or two tokens.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
PAD, END = "<|pad|>", "<|end|>"
FOLDER = Path(__file__).parent / "tokenizer"
SAMPLE_CHARS = 8_000_000
"""Characters of the pretraining pool that the published tokenizer was trained on."""

_PIECES = r" ?[A-Za-z_]+| ?[0-9]| ?[^\sA-Za-z_0-9]+|\n *|[^\S\n]+(?=\S)|\s+"
"""A word or a run of signs, each with the space before it; a digit; a line break with the next line's indentation."""


def train_tokenizer(texts: Iterable[str], folder: Path | str) -> None:
    """Train on `texts` and write what `AutoTokenizer.from_pretrained(folder)` reads; equal texts, equal tokenizer.

    It has a padding token and an end-of-text token, none for the beginning, and pads on the right.
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
    """Return the first texts that hold `chars` characters together."""
    taken: list[str] = []
    total = 0
    for text in texts:
        if total >= chars:
            break
        taken.append(text)
        total += len(text)
    return taken


def _main() -> None:
    """Train the published tokenizer again, into the folder given or beside this file."""
    from w2s_ray.tasks.python_source import PythonSource
    from w2s_ray.tasks.task import POOL

    table = PythonSource().read().table.to_pylist()
    pool = sorted((row["id"], row["text"]) for row in table if row["origin"] == POOL)
    train_tokenizer(sample(text for _, text in pool), sys.argv[1] if len(sys.argv) > 1 else FOLDER)


if __name__ == "__main__":
    _main()
