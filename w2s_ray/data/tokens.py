"""A task's texts as tokens: the whole table once per tokenizer, mapped into memory by every worker.

Special tokens that stand in a text are split like any other characters, so no text can smuggle in padding or an end
of text. Truncation happens on reading and keeps the last tokens: no text is dropped for its length, so every model
sees the same examples. Those that a tokenizer puts around a text (a beginning of text; a class token and a separator)
are added then, within the context: a model reads texts as it read them when it was pretrained.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, check_files, digest_files, publish_folder, write_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

RECIPE = 1
"""Version of the way texts become tokens."""
TEXTS_PER_CALL = 1000
_TEXTS_TRIED = 100


class TokensRecord(Spec):
    """What lies in a folder of tokens."""

    tokenizer: str
    """Digest of the tokenizer."""
    num_tokens: int
    files: dict[str, str]


def longest_tokens(prepared: PreparedTask, tokenizer: "Tokenizer") -> int:
    """Return how many tokens the longest text has, special ones included, as far as its bytes tell which that is."""
    texts = prepared.longest_texts(_TEXTS_TRIED)
    return max((len(encoding.ids) for encoding in tokenizer.encode_batch(texts)), default=1)


@dataclass(frozen=True)
class Tokens:
    """The tokens of every text of a task, end to end: all first texts, then, for pairs, all second ones."""

    token_ids: np.ndarray
    offsets: np.ndarray
    """int64; text i has the tokens from offsets[i] up to offsets[i + 1]."""
    before: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Special tokens that stand before each text that is read, …"""
    after: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """… and after it."""

    def rows(self, row_numbers: np.ndarray, context: int | np.ndarray) -> list[np.ndarray]:
        """Return the tokens of each text (int32), `context` at most; longer texts keep their last ones."""
        ends = self.offsets[row_numbers + 1]
        starts = np.maximum(self.offsets[row_numbers], ends - np.maximum(self._room(context), 0))
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return [
            np.concatenate([self.before, self.token_ids[start:end], self.after]).astype(np.int32)
            for start, end in spans
        ]

    def are_longer(self, row_numbers: np.ndarray, context: int | np.ndarray) -> np.ndarray:
        """Tell of each text whether it has more than `context` tokens, so that `rows` cuts it."""
        return np.asarray(self.offsets[row_numbers + 1] - self.offsets[row_numbers] > self._room(context))

    def _room(self, context: int | np.ndarray) -> int | np.ndarray:
        """What special tokens leave of the context."""
        return context - len(self.before) - len(self.after)

    def blocks(self, row_numbers: np.ndarray, context: int, end_token: int) -> np.ndarray:
        """Return full blocks (N, context) of the documents in this order, each followed by `end_token`.

        What does not fill a block at the very end is left out.
        """
        lengths = self.offsets[row_numbers + 1] - self.offsets[row_numbers] + len(self.before) + 1
        flat = np.empty(int(lengths.sum()), dtype=np.int32)
        begin = 0
        for row, length in zip(np.asarray(row_numbers).tolist(), lengths.tolist(), strict=True):
            text = self.token_ids[self.offsets[row] : self.offsets[row + 1]]
            flat[begin : begin + length] = np.concatenate([self.before, text, [end_token]])
            begin += length
        num_blocks = len(flat) // context
        return flat[: num_blocks * context].reshape(num_blocks, context)


def tokenise(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: "PreTrainedTokenizerFast", tokenizer_digest: str
) -> Tokens:
    """Return the tokens of a task, made where the store lacks them; any number of processes may call this at once.

    Raises:
        DataError: when the text of a labelled example has no tokens.
        StoreError: when they cannot be written or fail their checksum.
    """
    assert prepared.folder.is_relative_to(store.root), "the task lies in another store"
    name = identity("tokens", {"tokenizer": tokenizer_digest, "recipe": RECIPE})
    folder = prepared.folder / f"tokens-{short(name)}"
    if not (folder / RECORD_NAME).is_file():
        token_ids, offsets = _tokenised(prepared, tokenizer)

        def fill(aside: Path) -> None:
            np.save(aside / "token_ids.npy", token_ids, allow_pickle=False)
            np.save(aside / "offsets.npy", offsets, allow_pickle=False)
            record = TokensRecord(tokenizer=tokenizer_digest, num_tokens=len(token_ids), files=digest_files(aside))
            write_file(aside / RECORD_NAME, record.model_dump_json(indent=2).encode())

        publish_folder(folder, fill)
    return _open(folder, (folder / RECORD_NAME).stat().st_mtime_ns)


def special_tokens(tokenizer: "PreTrainedTokenizerFast") -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens (int32) that the tokenizer itself puts before a text and after it; many put none."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids = np.array(encoded["input_ids"], dtype=np.int32)
    own = np.flatnonzero(np.array(encoded["special_tokens_mask"]) == 0)
    first, last = (own[0], own[-1]) if len(own) else (len(ids), len(ids))
    return ids[:first], ids[last + 1 :]


@functools.lru_cache(maxsize=8)
def _open(folder: Path, written_ns: int) -> Tokens:
    """Map a folder of tokens into memory, checked once in a process for each time that it was written."""
    del written_ns  # part of the key alone
    try:
        record = TokensRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
    except ValidationError as error:
        raise StoreError(f"{folder / RECORD_NAME} is not a record", "a record is JSON", f"remove {folder}") from error
    check_files(folder, record.files)
    token_ids = np.load(folder / "token_ids.npy", mmap_mode="r" if record.num_tokens else None, allow_pickle=False)
    return Tokens(token_ids=np.asarray(token_ids), offsets=np.load(folder / "offsets.npy", allow_pickle=False))


def _tokenised(prepared: PreparedTask, tokenizer: "PreTrainedTokenizerFast") -> tuple[np.ndarray, np.ndarray]:
    """All tokens end to end, and where each example begins."""
    table = prepared.table()
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.int32
    pieces: list[np.ndarray] = []
    lengths: list[int] = []
    columns = ("text", "other")[: prepared.texts_per_example]
    for texts in (texts for column in columns for texts in _batches(table[column])):
        encoded = tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]
        lengths += [len(each) for each in encoded]
        pieces.append(np.array([token for each in encoded for token in each], dtype=dtype))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(lengths, dtype=np.int64))])
    empty = np.flatnonzero(np.array(lengths) == 0)
    if empty.size and prepared.kind != "text":
        example = json.dumps(table["id"][int(empty[0]) % table.num_rows].as_py())
        raise DataError(
            f"{empty.size} examples have no tokens, the first is {example}",
            "a text to be classified has a token at least",
            "remove them from the data",
        )
    return np.concatenate(pieces), offsets


def _batches(texts: pa.ChunkedArray) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS_PER_CALL):
        yield texts.slice(start, TEXTS_PER_CALL).to_pylist()
