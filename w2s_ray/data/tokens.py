"""A task's texts as tokens: the whole table once per tokenizer, mapped into memory by every worker.

Special tokens that occur in a text are split like other characters, so a text cannot inject padding or an end of text.
Texts are truncated when they are read, and keep their last tokens: none is dropped for its length, so every model sees
the same examples. Special tokens that a tokenizer adds around a text (a beginning of text; a class token and a
separator) are added at that point, within the context, so that a model reads texts as in its pretraining.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray, IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, check_files, digest_files, publish_folder, write_file
from w2s_ray.store.record import read_spec

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

TokenArray = npt.NDArray[np.int32]
StoredTokenArray = npt.NDArray[np.integer[Any]]
"""uint16 if the vocabulary allows it, else int32."""

RECIPE = 1
"""Version of tokenisation; increase when the same texts would give different tokens."""
TEXTS_PER_CALL = 1000
_TEXTS_TRIED = 100


class TokensRecord(Spec):
    """The record of a folder of tokens."""

    tokenizer: str
    """Digest of the tokenizer."""
    num_tokens: int
    files: dict[str, str]


def longest_tokens(prepared: PreparedTask, tokenizer: "Tokenizer") -> int:
    """Return the number of tokens, with special ones, of the longest text among those with the most bytes."""
    texts = prepared.longest_texts(_TEXTS_TRIED)
    return max((len(encoding.ids) for encoding in tokenizer.encode_batch(texts)), default=1)


@dataclass(frozen=True)
class Tokens:
    """The tokens of every text of a task, end to end: all first texts, then, for pairs, all second texts."""

    token_ids: StoredTokenArray
    offsets: IntArray
    """int64; text i has the tokens offsets[i] … offsets[i + 1] - 1."""
    before: TokenArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Special tokens before each text."""
    after: TokenArray = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Special tokens after each text."""

    def rows(self, row_numbers: IntArray, context: int | IntArray) -> list[TokenArray]:
        """Return the tokens of each text (int32), at most `context`; longer texts keep their last ones."""
        ends = self.offsets[row_numbers + 1]
        starts = np.maximum(self.offsets[row_numbers], ends - np.maximum(self._room(context), 0))
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return [
            np.concatenate([self.before, self.token_ids[start:end], self.after]).astype(np.int32)
            for start, end in spans
        ]

    def uncut(self, row_numbers: IntArray) -> list[TokenArray]:
        """Return all tokens of each text (int32), without special ones."""
        spans = zip(self.offsets[row_numbers].tolist(), self.offsets[row_numbers + 1].tolist(), strict=True)
        return [self.token_ids[start:end].astype(np.int32) for start, end in spans]

    def are_longer(self, row_numbers: IntArray, context: int | IntArray) -> BoolArray:
        """Return whether each text has more than `context` tokens, so that `rows` truncates it."""
        return np.asarray(self.offsets[row_numbers + 1] - self.offsets[row_numbers] > self._room(context))

    def _room(self, context: int | IntArray) -> int | IntArray:
        """Return the context without the special tokens."""
        return context - len(self.before) - len(self.after)

    def blocks(self, row_numbers: IntArray, context: int, end_token: int) -> TokenArray:
        """Return full blocks (N, context) of the documents in this order, each followed by `end_token`.

        An incomplete block at the end is left out.
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
    """Return the tokens of a task, and write them to the store if necessary; several processes may call this at once.

    Raises:
        DataError: when the text of a labelled example has no tokens.
        StoreError: when they cannot be written, or fail their checksum.
    """
    assert prepared.folder.is_relative_to(store.root), "the task is in another store"
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


def special_tokens(tokenizer: "PreTrainedTokenizerFast") -> tuple[TokenArray, TokenArray]:
    """Return the special tokens (int32) that the tokenizer adds before and after a text; often none."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids = np.array(encoded["input_ids"], dtype=np.int32)
    own = np.flatnonzero(np.array(encoded["special_tokens_mask"]) == 0)
    first, last = (own[0], own[-1]) if len(own) else (len(ids), len(ids))
    return ids[:first], ids[last + 1 :]


def read_around(tokenizer: "PreTrainedTokenizerFast", *, is_language_model: bool) -> tuple[TokenArray, TokenArray]:
    """Return the special tokens (int32) that a stage reads before and after a text.

    Those after a text are for encoders, which have a class token. A decoder's head reads the text's own last token, and
    a language model continues from it.
    """
    before, after = special_tokens(tokenizer)
    is_encoder = not is_language_model and tokenizer.cls_token_id is not None
    return before, after if is_encoder else after[:0]


def plain_ids(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each text, without special ones: those that occur in it are split like other characters."""
    encoded: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=False,
        split_special_tokens=True,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    return encoded


def num_shared(prompt_T: TokenArray, text_T: TokenArray) -> int:
    """Return how many tokens the beginnings of both share."""
    length = min(len(prompt_T), len(text_T))
    differing = np.flatnonzero(prompt_T[:length] != text_T[:length])
    return int(differing[0]) if len(differing) else length


def completion_too_long(name: str, longest: int, room: int, context: int) -> DataError:
    """Return the error of a completion of `longest` tokens; `name` is that of the completions of its example."""
    return DataError(
        f"one of {name} has {longest} tokens, and optimisation.context_tokens = {context} has room for {room} after at "
        "least one token; a completion is never cut",
        "raise optimisation.context_tokens, or remove it from the data",
    )


@functools.lru_cache(maxsize=8)
def _open(folder: Path, written_ns: int) -> Tokens:
    """Map a folder of tokens into memory, after a check once per process and modification time."""
    del written_ns  # part of the cache's key
    record = read_spec(folder / RECORD_NAME, TokensRecord, f"remove {folder}; the next run makes it again")
    assert record is not None
    check_files(folder, record.files)
    token_ids = np.load(folder / "token_ids.npy", mmap_mode="r" if record.num_tokens else None, allow_pickle=False)
    return Tokens(token_ids=np.asarray(token_ids), offsets=np.load(folder / "offsets.npy", allow_pickle=False))


def _tokenised(prepared: PreparedTask, tokenizer: "PreTrainedTokenizerFast") -> tuple[StoredTokenArray, IntArray]:
    """Return all tokens end to end, and the offset of each text."""
    table = prepared.table()
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.int32
    pieces: list[StoredTokenArray] = []
    lengths: list[int] = []
    columns = ("text", "other")[: prepared.texts_per_example]
    for texts in (texts for column in columns for texts in _batches(table[column])):
        encoded = plain_ids(tokenizer, texts)
        lengths += [len(ids) for ids in encoded]
        pieces.append(np.array([token for ids in encoded for token in ids], dtype=dtype))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(lengths, dtype=np.int64))])
    empty = np.flatnonzero(np.array(lengths) == 0)
    if empty.size and prepared.kind != "text":
        example = json.dumps(table["id"][int(empty[0]) % table.num_rows].as_py())
        raise DataError(f"{empty.size} examples have no tokens, the first is {example}", "remove them from the data")
    return np.concatenate(pieces), offsets


def _batches(texts: pa.ChunkedArray) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS_PER_CALL):
        yield texts.slice(start, TEXTS_PER_CALL).to_pylist()
