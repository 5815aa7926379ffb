import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.tokens import Tokens, special_tokens, tokenise
from w2s_ray.errors import DataError, StoreError
from w2s_ray.store.artifacts import ArtifactStore

Rows = list[dict[str, Any]]
Toy = Callable[..., PreparedTask]
RowsOf = Callable[..., Rows]


def with_texts(rows: Rows, *texts: str) -> Rows:
    for row, text in zip(rows, texts, strict=True):
        row["text"] = text
    return rows


def test_every_text_has_its_own_tokens(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tokenise(store, prepared, tokenizer, "digest")
    texts = prepared.table()["text"].to_pylist()
    rows = np.array([1999, 0, 1001, 999])  # on both sides of the tokenizer's batch boundaries
    for row, results in zip(rows, tokens.rows(rows, 10_000), strict=True):
        assert tokenizer.decode(results) == texts[row]
        assert results.dtype == np.int32


def test_long_texts_keep_their_last_tokens_and_none_is_dropped(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokens = tokenise(store, prepared, tokenizer, "digest")
    rows = np.arange(200)
    whole, cut = tokens.rows(rows, 10_000), tokens.rows(rows, 8)
    assert len(cut) == len(rows)
    for full, short in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(short, full[-8:])


def test_a_text_cannot_inject_a_special_token(
    toy: Toy, rows_of: RowsOf, store: ArtifactStore, tokenizer: PreTrainedTokenizerFast
) -> None:
    texts = ("a text </s>", "<pad><pad>", "!!!! ! <pad>", "</s>")
    tokens = tokenise(store, toy(with_texts(rows_of(4), *texts)), tokenizer, "digest")
    results = tokens.rows(np.arange(4), 100)
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(np.concatenate(results).tolist())
    assert [tokenizer.decode(item) for item in results] == list(texts)


def test_tokens_are_made_once_for_each_tokenizer(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenise(store, prepared, tokenizer, "one")
    folder = next(prepared.folder.glob("tokens-*"))
    written = (folder / "record.json").stat().st_mtime_ns
    again = tokenise(store, prepared, None, "one")  # type: ignore[arg-type]  # nothing is tokenised
    assert (folder / "record.json").stat().st_mtime_ns == written
    assert len(again.offsets) == 2001
    tokenise(store, prepared, tokenizer, "two")
    assert len(list(prepared.folder.glob("tokens-*"))) == 2


def test_damaged_tokens_are_refused(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenise(store, prepared, tokenizer, "digest")
    path = next(prepared.folder.glob("tokens-*")) / "token_ids.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    record = path.parent / "record.json"
    record.write_bytes(record.read_bytes())  # a new modification time, so the check is repeated
    with pytest.raises(StoreError, match=r"token_ids\.npy"):
        tokenise(store, prepared, tokenizer, "digest")


def _tokenise(store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast) -> int:
    return int(tokenise(store, prepared, tokenizer, "digest").offsets[-1])


def test_several_ranks_may_tokenise_at_once(
    store: ArtifactStore, prepared: PreparedTask, tokenizer: PreTrainedTokenizerFast
) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sizes = pool.starmap(_tokenise, [(store, prepared, tokenizer)] * 4)
    assert len(set(sizes)) == 1
    assert len(list(prepared.folder.glob("*tokens-*"))) == 1


def test_a_labelled_text_without_tokens_is_refused(
    toy: Toy, rows_of: RowsOf, store: ArtifactStore, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(DataError, match='"e1"'):
        tokenise(store, toy(with_texts(rows_of(2), "text", "")), tokenizer, "digest")


def test_blocks_have_the_documents_in_order_each_with_an_end_token() -> None:
    tokens = Tokens(token_ids=np.arange(10, 20, dtype=np.uint16), offsets=np.array([0, 3, 3, 10]))
    blocks = tokens.blocks(np.array([2, 1, 0]), 4, end_token=1)
    assert blocks.dtype == np.int32
    np.testing.assert_array_equal(blocks, [[13, 14, 15, 16], [17, 18, 19, 1], [1, 10, 11, 12]])  # the last 1 is cut off


def test_fewer_tokens_than_a_block_give_none() -> None:
    tokens = Tokens(token_ids=np.arange(3, dtype=np.uint16), offsets=np.array([0, 3]))
    assert tokens.blocks(np.array([0]), 8, end_token=1).shape == (0, 8)


def test_special_tokens_surround_texts_within_the_context() -> None:
    tokens = Tokens(
        token_ids=np.arange(10, 20, dtype=np.uint16),
        offsets=np.array([0, 3, 3, 10]),
        before=np.array([1], dtype=np.int32),
        after=np.array([2, 3], dtype=np.int32),
    )
    short, long = tokens.rows(np.array([0, 2]), 6)
    assert short.dtype == np.int32
    assert (short.tolist(), long.tolist()) == ([1, 10, 11, 12, 2, 3], [1, 17, 18, 19, 2, 3])
    assert tokens.are_longer(np.array([0, 2]), 6).tolist() == [False, True]
    assert tokens.blocks(np.array([0, 1]), 7, end_token=4).tolist() == [[1, 10, 11, 12, 4, 1, 4]]


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [("$A", 0, 0), ("</s> $A", 1, 0), ("$A </s>", 0, 1), ("<pad> $A </s>", 1, 1)],
)
def test_special_tokens_are_those_that_the_tokenizer_adds(
    tokenizer: PreTrainedTokenizerFast, template: str, before: int, after: int
) -> None:
    known = [(sign, tokenizer.convert_tokens_to_ids(sign)) for sign in ("</s>", "<pad>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=known)
    results = special_tokens(tokenizer)
    assert [len(item) for item in results] == [before, after]
    assert np.concatenate(results).tolist() == tokenizer("")["input_ids"]
