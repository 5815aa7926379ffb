"""Micro-batch sizes that were too large for a device, so that the next similar stage does not try them again.

    <root>/micro_batches/<digest12>.json   one file for each model, device, context and way of executing

These limits depend on machines. They are not part of an artifact, and the folder can be removed at any time.
"""

from pathlib import Path

from pydantic import ValidationError

from w2s_ray.spec.base import Positive, Spec
from w2s_ray.spec.execution import ZeroStage
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.stage import Architecture
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import require_space, write_file

FOLDER = "micro_batches"


class Circumstances(Spec):
    """Everything that decides how much memory a micro-batch needs, and how much the device has."""

    later_fields = frozenset({"offload_parameters"})

    model: str
    revision: str
    architecture: Architecture | None
    """Only for a model from scratch."""
    trainable: str
    device: str
    """Its name and its memory."""
    context_tokens: Positive
    precision: str
    workers: Positive
    zero_stage: ZeroStage
    offload_optimizer: bool
    offload_parameters: bool = False
    activation_checkpointing: bool
    purpose: str
    """`training` or `predicting`."""


class MicroBatchLimit(Spec):
    """The largest micro-batch that may be used, in tokens."""

    circumstances: Circumstances
    tokens: Positive


def read_limit(store: ArtifactStore, circumstances: Circumstances) -> int | None:
    """Return the largest micro-batch in tokens, or None if none was too large so far."""
    path = _path(store, circumstances)
    try:
        return MicroBatchLimit.model_validate_json(path.read_bytes()).tokens
    except (FileNotFoundError, ValidationError):
        return None  # no limit, or one of another version


def write_limit(store: ArtifactStore, circumstances: Circumstances, tokens: int) -> None:
    """Limit micro-batches to `tokens` tokens, or keep a lower limit."""
    known = read_limit(store, circumstances)  # another rank may have written a lower one
    limit = MicroBatchLimit(circumstances=circumstances, tokens=min(tokens, known or tokens))
    require_space(store.root / FOLDER, 0)
    write_file(_path(store, circumstances), limit.model_dump_json(indent=2).encode())


def _path(store: ArtifactStore, circumstances: Circumstances) -> Path:
    return store.root / FOLDER / f"{short(identity('micro-batch', circumstances))}.json"
