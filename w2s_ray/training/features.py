"""Features of texts: hidden states of a model that a stage has not trained.

    label transforms   `features`        the last hidden state of each text; examples are compared by these
    probes             `read_features`   the inputs of the linear head, on which the head trains for all epochs

Features are the same on every rank, because each batch is read on one of them, in fp32. Those of label transforms are
the same under every execution, because their batches depend on the texts' lengths alone; those of a probe are equal but
for rounding, because their batches are as large as a worker's memory allows.

A probe's features are stored beside the task's tokens, in `data/<task>-<digest12>/features-<split>-<digest12>/`. The
digest is of the model, the split and the context, so all arms of a level share them, and a resumed stage reads nothing
again. Several stages may write the same features at once: the first folder that is complete is kept.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from w2s_ray.data.batches import partition
from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import StoreError
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.stage import ModelSource, StageSource, StageSpec, is_path
from w2s_ray.store.files import RECORD_NAME, check_files, digest_files, publish_folder, require_space, write_file
from w2s_ray.store.record import read_spec
from w2s_ray.training.feed import Examples, Feeder
from w2s_ray.training.models.network import evaluating
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, sharded_loading

RECIPE = 1
"""Version of the features of probes; increase when the same texts would give different ones."""
_ARRAY_NAME = "features.npy"
_TEXTS_PER_BATCH = 16
"""Texts that are read together for label transforms."""


def features(
    examples: Examples,
    folder: Path,
    pad: int,
    execution: Execution,
    workers: Workers,
    *,
    trust_remote_code: bool = False,
) -> FloatArray:
    """Return features_ND of N examples for label transforms: the last hidden state of each text's last token.

    The weights are those of the model in `folder`. The features of a pair are its second text's minus its first's, so
    that swapped texts have the opposite features. Collective.
    """
    with sharded_loading(execution):
        hf = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust_remote_code)
    engine = Engine(_LastHiddenState(hf).to(workers.device), execution, None)
    try:
        hidden_MD = _hidden_states(engine.model, Examples(tokens=examples.tokens), pad, workers)
    finally:
        engine.destroy()
    if examples.texts_per_example == 1:
        return hidden_MD
    first_ND, second_ND = hidden_MD.reshape(2, len(examples), -1)
    return np.asarray(second_ND - first_ND)


class _LastHiddenState(nn.Module):
    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf
        hf.config.use_cache = False

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return hidden_RD of each row's last token that is not padding."""
        positions_T = torch.arange(tokens_RT.shape[1], device=last_R.device)
        mask_RT = (positions_T[None, :] <= last_R[:, None]).long()
        hidden_RTD: torch.Tensor = self.hf(input_ids=tokens_RT, attention_mask=mask_RT).last_hidden_state
        return hidden_RTD[torch.arange(len(last_R), device=last_R.device), last_R]


def _hidden_states(model: nn.Module, texts: Examples, pad: int, workers: Workers) -> FloatArray:
    """Return hidden_ND of all texts. Ranks without a batch in the last round repeat it and discard the result."""
    feeder = Feeder(texts, Workers(0, 1, workers.device), sys.maxsize, pad)
    order_N = np.argsort(texts.lengths_N, kind="stable")
    starts = range(0, len(order_N), _TEXTS_PER_BATCH)
    batches = [order_N[start : start + _TEXTS_PER_BATCH] for start in starts]
    hidden_ND: torch.Tensor | None = None
    with evaluating(model):
        for number in range(workers.rank, len(batches) + workers.rank, workers.size):
            (batch,) = feeder.micro_batches(batches[min(number, len(batches) - 1)])
            hidden_RD = model(batch.tokens_RT, batch.last_R)
            if hidden_ND is None:
                hidden_ND = torch.zeros((len(texts), hidden_RD.shape[1]), device=workers.device)
            if number < len(batches):
                hidden_ND[torch.from_numpy(batch.positions).to(workers.device)] = hidden_RD
    assert hidden_ND is not None, "no texts"
    return workers.sum(hidden_ND).cpu().numpy()


def read_features(
    model: nn.Module, feeder: Feeder[Examples], workers: Workers, should_stop: Callable[[], bool]
) -> FloatArray | None:
    """Return features_MD of the M texts of `feeder` on rank 0, and of none on other ranks. Collective.

    A round reads one batch on each rank, and ranks without a batch in the last round repeat its last one.

    Args:
        model: returns features_RD of a micro-batch.
        feeder: of texts, one an example, for a single worker; its micro-batches are the batches.
        workers: the process group.
        should_stop: called on rank 0 before each round.

    Returns:
        None on every rank when `should_stop` returned true.
    """
    texts, size = feeder.examples, workers.size
    all_M, budget = np.arange(len(texts)), feeder.tokens_per_micro_batch
    (batches,) = partition(all_M, texts.padded_N, world=1, tokens_per_micro_batch=budget)
    features_MD = np.empty((0, 0), dtype=np.float32)
    with evaluating(model):
        for first in range(0, len(batches), size):
            if workers.any(workers.is_rank_0 and should_stop()):
                return None
            in_round = batches[first : first + size]
            own = in_round[min(workers.rank, len(in_round) - 1)]
            (batch,) = feeder.micro_batches(own)
            assert np.array_equal(batch.positions, own), "a batch is cut once"
            read_RD = model(batch.tokens_RT, batch.last_R)
            shared_ND = torch.zeros((sum(map(len, in_round)), read_RD.shape[1]), device=workers.device)
            if workers.rank < len(in_round):
                begin = sum(map(len, in_round[: workers.rank]))
                shared_ND[begin : begin + len(read_RD)] = read_RD
            workers.sum(shared_ND)
            if workers.is_rank_0:
                if not len(features_MD):
                    features_MD = np.empty((len(texts), read_RD.shape[1]), dtype=np.float32)
                features_MD[np.concatenate(in_round)] = shared_ND.cpu().numpy()
    return features_MD


class FeatureSpec(Spec):
    """Everything that determines the features of a split."""

    recipe: int = RECIPE
    model: ModelSource | StageSource
    init_seed: int | None
    """None for a model whose weights are all in its files."""
    split: SplitSpec
    context_tokens: int

    @classmethod
    def of(cls, spec: StageSpec, split: SplitSpec, *, is_seeded: bool) -> Self:
        """Return the spec of a split's features under the model that a probe starts from.

        Args:
            spec: of the probe's stage.
            split: of its task.
            is_seeded: whether some of the frozen weights are drawn from the stage's seed.
        """
        source = spec.starts_from
        return cls(
            model=source.model_copy(update={"name": ""}) if is_path(source.name) else source,
            init_seed=spec.init_seed if is_seeded else None,
            split=split,
            context_tokens=spec.optimisation.context_tokens,
        )


class FeatureRecord(Spec):
    """The record of a folder of features."""

    spec: FeatureSpec
    num_tokens: int
    """Tokens of the texts, without padding."""
    seconds: float
    """Time of reading them."""
    files: dict[str, str]


@dataclass(frozen=True)
class SplitFeatures:
    """The stored features of one split."""

    prepared: PreparedTask
    spec: FeatureSpec

    @property
    def folder(self) -> Path:
        """Its folder, which may not exist."""
        digest = short(identity("features", self.spec))
        return self.prepared.folder / f"features-{self.spec.split.name}-{digest}"

    @property
    def is_stored(self) -> bool:
        return (self.folder / RECORD_NAME).is_file()

    @cached_property
    def rows_N(self) -> IntArray:
        """Rows of the task."""
        return rows_of_split(self.prepared, self.spec.split)

    def store(self, features_MD: FloatArray, num_tokens: int, seconds: float) -> None:
        """Write the features, unless another stage was faster.

        Raises:
            StoreError: when they cannot be written.
        """
        require_space(self.prepared.folder, features_MD.nbytes)

        def fill(aside: Path) -> None:
            np.save(aside / _ARRAY_NAME, features_MD, allow_pickle=False)
            record = FeatureRecord(spec=self.spec, num_tokens=num_tokens, seconds=seconds, files=digest_files(aside))
            write_file(aside / RECORD_NAME, record.model_dump_json(indent=2).encode())

        publish_folder(self.folder, fill)

    @cached_property
    def record(self) -> FeatureRecord:
        """The record, after a check of its files.

        Raises:
            StoreError: when the folder or a file is missing, or damaged.
        """
        remedy = f"remove {self.folder}; the next run makes it again"
        record = read_spec(self.folder / RECORD_NAME, FeatureRecord, remedy)
        if record is None:
            raise StoreError(f"{self.folder} has no {RECORD_NAME}, though it was written before", remedy)
        check_files(self.folder, record.files)
        return record

    @cached_property
    def features_KND(self) -> FloatArray:
        """The features of N examples of K texts, mapped into memory."""
        name, *_ = self.record.files  # checked when the record is read
        features_MD = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        return np.asarray(features_MD.reshape(self.prepared.texts_per_example, len(self.rows_N), -1))


class StoredFeatures:
    """The features of all splits that a stage reads."""

    def __init__(self, parts: Sequence[SplitFeatures]) -> None:
        self.parts = tuple(parts)

    def cost(self, splits: Collection[SplitSpec]) -> tuple[int, float]:
        """Return the tokens of these splits, and the seconds in which they were read, in this stage or another."""
        records = [part.record for part in self.parts if part.spec.split in splits]
        return sum(record.num_tokens for record in records), sum(record.seconds for record in records)

    def of(self, rows_N: IntArray) -> FloatArray:
        """Return features_MD of the texts of these rows of the task: all first texts, then all second ones."""
        found_KND: FloatArray | None = None
        is_found_N = np.zeros(len(rows_N), dtype=bool)
        for part in self.parts:
            order = np.argsort(part.rows_N)
            at_N = order[np.minimum(np.searchsorted(part.rows_N, rows_N, sorter=order), len(order) - 1)]
            is_here_N = part.rows_N[at_N] == rows_N
            if not is_here_N.any():
                continue
            if found_KND is None:
                num_texts, _, width = part.features_KND.shape
                found_KND = np.empty((num_texts, len(rows_N), width), dtype=np.float32)
            found_KND[:, is_here_N] = part.features_KND[:, at_N[is_here_N]]
            is_found_N |= is_here_N
        assert found_KND is not None and is_found_N.all(), "an example is in no split that was read"
        return found_KND.reshape(-1, found_KND.shape[2])
