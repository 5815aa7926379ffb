"""Micro-batches that turned out too large for a device, so that the next stage like this one does not try them again.

    <root>/micro_batches/<digest12>.json   one file for each model, device, context and way of executing

They are findings about machines: no part of an artifact, and nothing is lost where the folder is removed.
"""

from pathlib import Path

from pydantic import ValidationError

from w2s_ray.spec.base import Positive, Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.stage import Architecture, ZeroStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import require_space, write_file

FOLDER = "micro_batches"


class Circumstances(Spec):
    """What decides how much memory a micro-batch takes, and how much there is."""

    model: str
    revision: str
    architecture: Architecture | None
    """Of a model from scratch."""
    trainable: str
    device: str
    """Its name and its memory."""
    context_tokens: Positive
    precision: str
    workers: Positive
    zero_stage: ZeroStage
    offload_optimizer: bool
    activation_checkpointing: bool
    purpose: str
    """`training` or `predicting`."""


class MicroBatchLimit(Spec):
    """The most tokens that a micro-batch may have from now on."""

    circumstances: Circumstances
    tokens: Positive


def read_limit(store: ArtifactStore, circumstances: Circumstances) -> int | None:
    """Return the most tokens that a micro-batch may have; None where none has been too large."""
    path = _path(store, circumstances)
    try:
        return MicroBatchLimit.model_validate_json(path.read_bytes()).tokens
    except (FileNotFoundError, ValidationError):
        return None  # never too large, or found by another version


def write_limit(store: ArtifactStore, circumstances: Circumstances, tokens: int) -> None:
    """Remember that micro-batches may have `tokens` tokens and no more."""
    known = read_limit(store, circumstances)  # another rank may have found less to fit
    found = MicroBatchLimit(circumstances=circumstances, tokens=min(tokens, known or tokens))
    require_space(store.root / FOLDER, 0)
    write_file(_path(store, circumstances), found.model_dump_json(indent=2).encode())


def _path(store: ArtifactStore, circumstances: Circumstances) -> Path:
    return store.root / FOLDER / f"{short(identity('micro-batch', circumstances))}.json"
