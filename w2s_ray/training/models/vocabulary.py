"""Tokens that a model has no embedding for, because they were added to its tokenizer after it was trained.

Texts are split without special tokens, so a stage meets such a token only if it is ordinary, if it pads, or if it is
one of the special tokens at the ends of a text. A padding token beyond the embeddings can be replaced by another one
with `pad_token:`; then neither the stage nor its export gives it. Loads neither torch nor transformers.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

from tokenizers import Tokenizer

from w2s_ray.errors import ModelError
from w2s_ray.spec.chain import ModelShape
from w2s_ray.training.models.files import declared, fast_tokenizer


def check_padding(folder: Path, model: str, shape: ModelShape | None, pad_token: str | None) -> None:
    """Check that the padding token has an embedding, according to the configuration; weights are not read.

    Args:
        folder: of the tokenizer.
        model: its name.
        shape: of the model; None if its configuration does not give it.
        pad_token: that of the level.

    Raises:
        ModelError: when it has none.
    """
    tokenizer, pad = fast_tokenizer(folder), pad_token or declared(folder, "pad_token")
    if tokenizer is None or shape is None or pad is None or (tokenizer.token_to_id(pad) or 0) < shape.vocabulary:
        return
    check_vocabulary(model, tokenizer, shape.vocabulary, pad, (), declared(folder, "eos_token"), ordinary=False)


def check_vocabulary(
    model: str,
    tokenizer: Tokenizer,
    rows: int,
    pad: str | None,
    around: Iterable[str],
    end: str | None,
    *,
    named: Collection[str] = (),
    ordinary: bool = True,
) -> None:
    """Check that the model has an embedding for every token that a stage can meet.

    Args:
        model: its name.
        tokenizer: the model's.
        rows: number of embeddings.
        pad: the padding token.
        around: special tokens that a stage adds to a text.
        end: the end-of-text token, which may pad as well.
        named: tokens that are special because the tokenizer's configuration names them.
        ordinary: check tokens other than `pad` and `around` too.

    Raises:
        ModelError: when it has none for one of them.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    beyond = {token: number for token, number in vocabulary.items() if number >= rows}
    if not beyond:
        return
    marked = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    used = set(around)

    def is_met(token: str, special: Collection[str]) -> bool:
        return token in used or token not in special or _is_read(tokenizer, token, vocabulary[token])

    special = {*marked, *named}
    met = sorted(
        (number, token)
        for token, number in beyond.items()
        if token == pad or token in used or (ordinary and is_met(token, special))
    )
    if not met:
        return
    number, token = met[0]
    replaceable = not any(is_met(other, marked if other == pad else special) for other in beyond)
    other = _other_padding(tokenizer, rows, marked, end) if replaceable else None
    raise ModelError(
        f"{model} has embeddings for {rows} tokens, and {token!r} of its tokenizer is number {number}",
        (f"set `pad_token: {other!r}` on the level, or " if other else "")
        + "resize the model (`model.resize_token_embeddings(len(tokenizer))`) and save it again",
    )


def _other_padding(tokenizer: Tokenizer, rows: int, marked: Collection[str], end: str | None) -> str | None:
    """Return a special token with an embedding that can pad: one that is named so, or the end of a text."""
    for token in (*sorted(token for token in marked if "pad" in token.lower()), end):
        number = None if token is None else tokenizer.token_to_id(token)
        if token is not None and number is not None and number < rows and not _is_read(tokenizer, token, number):
            return token
    return None


def _is_read(tokenizer: Tokenizer, token: str, number: int) -> bool:
    """Return whether a text that contains a special token gives its number, although special tokens are not read."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        return any(number in tokenizer.encode(text, add_special_tokens=False).ids for text in (token, f"a {token}"))
    finally:
        tokenizer.encode_special_tokens = before
