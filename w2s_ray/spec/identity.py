"""Identity: the digest of everything that can change a result, and nothing else.

Two requests with one identity are the same work, so it is done once. The digest is of canonical JSON (sorted keys, no
white space, no NaN); a value that canonical JSON cannot encode raises an error.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from w2s_ray.spec.base import Spec

SHORT_CHARS = 12
"""Digits of an identity in folder names and run ids."""


def canonical_json(value: object) -> str:
    """Encode `value` so that equal values give equal text.

    Raises:
        TypeError: for anything but specs, mappings with string keys, sequences, strings, numbers, booleans and None.
        ValueError: for NaN and infinities.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def identity(kind: str, value: object) -> str:
    """Return the SHA-256 identity (64 hexadecimal digits) of a `value` of one `kind`."""
    return hashlib.sha256(f"{kind}\n{canonical_json(value)}".encode()).hexdigest()


def short(identity_: str) -> str:
    """Return the first 12 digits, as in folder names and run ids."""
    return identity_[:SHORT_CHARS]


def seeded_hash(*parts: object) -> int:
    """Return a stable 63-bit integer of `parts`: the source of every coin, order and seed in the project.

    Unlike `hash()` it is the same in every process, and unlike the output of a generator it does not depend on earlier
    calls.
    """
    text = canonical_json([str(part) for part in parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _plain(value: object) -> object:
    # Exact types first: checks of abstract ones are slow, and a study of ten thousand chains makes a million of them.
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Spec):
        fields = type(value).model_fields
        names = (
            name for name in fields if name not in value.later_fields or getattr(value, name) != fields[name].default
        )
        plain = {name: _plain(getattr(value, name)) for name in names}
        return plain if value.computed_as == 1 else {**plain, "computed_as": value.computed_as}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be strings to be part of an identity: {sorted(map(repr, value))}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} cannot be part of an identity: {value!r}")
