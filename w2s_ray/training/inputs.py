"""Inputs of a stage: task, tokens, tokenizer, folders of its models, and features of its examples."""

import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.tokens import Tokens, plain_ids, read_around, tokenise
from w2s_ray.errors import StoreError
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.spec.chain import ModelShape, PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.stage import ModelSource, Prompt, StageSpec
from w2s_ray.store.artifacts import MODEL, ArtifactStore
from w2s_ray.store.files import wait_for_files
from w2s_ray.store.record import Base, Record
from w2s_ray.training.features import StoredFeatures, features
from w2s_ray.training.feed import Examples, Feeder, LargestMicroBatch, Purpose, TokenRow
from w2s_ray.training.memory.footprint import CPU_PREDICTION_TOKENS
from w2s_ray.training.models import files
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.models.unmerged import ADAPTER_WEIGHTS, check_base, merge
from w2s_ray.training.progress import timed
from w2s_ray.training.workers import Workers

AnyExamples = TypeVar("AnyExamples", bound=Examples)
_SAMPLED_TEXTS = 5
_SAMPLED_CHARACTERS = 20_000
"""Most characters of a sampled document."""


class StageInputs:
    """The inputs of one stage, each loaded on first use and then kept. First uses are collective over `workers`."""

    execution: Execution
    """How the stage is computed, as `MemorySettings` has settled it."""

    def __init__(self, stage: PlannedStage, store: ArtifactStore, workers: Workers) -> None:
        self.stage, self.spec, self.store, self.workers = stage, stage.spec, store, workers
        self.prediction_tokens = CPU_PREDICTION_TOKENS
        """Padded tokens of one forward pass without gradients; those of CPUs until `MemorySettings` has chosen."""
        self.largest = LargestMicroBatch()
        self.stored: StoredFeatures | None = None
        """The features that a probe trains on and predicts from, once they are read."""
        self.seconds: dict[str, float] = {}
        """Wall time by activity."""
        self._verified: dict[str, Path] = {}
        self._merged: list[Path] = []

    @cached_property
    def prepared(self) -> PreparedTask:
        return load_prepared(self.store, self.spec.train[0].split.task)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        source = self.spec.starts_from
        if isinstance(source, ModelSource):
            folder = model_folder(source.name, source.revision, tokenizer=True)
            return load_tokenizer(folder, source.pad_token, trust_remote_code=source.trust_remote_code)
        return load_tokenizer(self.trained_model(source.stage), None, trust_remote_code=source.trust_remote_code)

    @cached_property
    def tokens(self) -> Tokens:
        """The task's tokens, which rank 0 makes when the store does not have them."""
        before, after = self.special_tokens
        digest = identity("tokenizer", self.tokenizer.backend_tokenizer.to_str())

        def make() -> None:
            tokenise(self.store, self.prepared, self.tokenizer, digest)

        self.workers.on_rank_0(make)
        tokens = tokenise(self.store, self.prepared, self.tokenizer, digest)  # each rank maps the files
        return replace(tokens, before=before, after=after)

    @cached_property
    def special_tokens(self) -> tuple[TokenRow, TokenRow]:
        """The special tokens before and after each text."""
        return read_around(self.tokenizer, is_language_model=self.spec.is_language_model)

    @cached_property
    def source_folder(self) -> Path:
        """The model that the stage starts from; for a model from scratch, its tokenizer."""
        source = self.spec.starts_from
        if isinstance(source, ModelSource):
            return model_folder(source.name, source.revision, tokenizer=source.architecture is not None)
        return self.trained_model(source.stage)

    def model_size(self, *, is_finished: bool) -> tuple[int, ModelShape | None]:
        """Return the number of parameters and the shape of the stage's model. Collective."""
        source = self.spec.starts_from
        has_own_model = is_finished and not isinstance(self.spec.trainable, Prompt)
        folder = self.trained_model(self.spec.identity) if has_own_model else self.source_folder
        if not is_finished and isinstance(source, ModelSource) and source.architecture is not None:
            vocabulary = files.vocabulary_size(folder)
            shape = files.shape_of_architecture(source.architecture, vocabulary)
            return files.num_parameters_of(source.architecture, vocabulary), shape
        return files.num_parameters(files.weight_files(folder)), files.shape_of(folder)

    def trained_model(self, identity: str) -> Path:
        """Return the model folder of a finished stage, whose checksums are verified once on each machine. Collective.

        Adapters that are stored without their base are merged first.

        Raises:
            StoreError: when the stage is not finished, or its files are damaged.
            ModelError: when the base of its adapters has changed.
        """
        if identity not in self._verified:
            record = self.workers.on_each_node(lambda: self._record(identity))
            folder = self.store.folder(record.slug, identity) / MODEL
            if record.base is not None:
                folder = self.merged(StageSpec.model_validate(record.spec), folder, record.base)
            self._verified[identity] = folder
        return self._verified[identity]

    def _record(self, identity: str) -> Record:
        """Return the record of a finished stage, after verifying its files."""
        record = self.store.find(identity)
        if record is None:
            raise StoreError(
                f"stage {short(identity)} has no record, and another stage starts from its model",
                "run the study that trains it first",
            )
        self.store.verify(record)
        return record

    def merged(self, spec: StageSpec, adapters: Path, base: Base) -> Path:
        """Return a folder with the merged model of a stage that keeps its adapters; `close` removes it. Collective."""
        source = spec.starts_from
        if isinstance(source, ModelSource):
            # A local model may have moved since: the study's own name for it counts.
            folder = model_folder(self.spec.starts_from.name, source.revision)
        else:
            folder = self.trained_model(source.stage)
        self.workers.on_each_node(lambda: wait_for_files([adapters / ADAPTER_WEIGHTS]))
        self.workers.on_each_node(lambda: check_base(base, folder))
        target = self.workers.on_rank_0(lambda: self.store.merged_folder(spec.identity))
        self._merged.append(target)
        execution = Execution(zero_stage=3 if self.workers.size > 1 else 0)
        merge(spec, folder, adapters, target, execution, self.workers)
        written = self.workers.on_rank_0(lambda: files.weight_files(target))
        self.workers.on_each_node(lambda: wait_for_files(written))
        return target

    def close(self) -> None:
        """Remove the folders of merged models; on rank 0."""
        for folder in self._merged if self.workers.is_rank_0 else ():
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are spread over the workers."""
        return self.execution.zero_stage == 3

    def texts(self, rows_N: IntArray, context: int) -> Examples:
        """Return the texts of these rows of the task, each cut to its last `context` tokens, and features if stored."""
        assert self.stored is None or context == self.spec.optimisation.context_tokens, "features of another context"
        return Examples(
            tokens=self.tokens.rows(self.prepared.text_numbers(rows_N), context),
            texts_per_example=self.prepared.texts_per_example,
            features_MD=None if self.stored is None else self.stored.of(rows_N),
        )

    def feeder(self, examples: AnyExamples, tokens_per_micro_batch: int | None = None) -> Feeder[AnyExamples]:
        """Return a feeder for training with micro-batches of this size, or without a size for predictions."""
        purpose: Purpose = "predicting" if tokens_per_micro_batch is None else "training"
        tokens = tokens_per_micro_batch or self.prediction_tokens
        return Feeder(examples, self.workers, tokens, self.tokenizer.pad_token_id, purpose, self.largest)

    def features(self, rows_N: IntArray) -> FloatArray:
        """Return features_ND of these rows under the model that the stage starts from. Collective."""
        texts = self.texts(rows_N, self.spec.optimisation.context_tokens)
        with timed(self.seconds, "features"):
            pad = self.tokenizer.pad_token_id
            return features(
                texts,
                self.source_folder,
                pad,
                self.execution,
                self.workers,
                trust_remote_code=self.spec.trusts_code,
            )


class SampledInputs(StageInputs):
    """The inputs of a stage with some of the task's texts, from short to long, and with their tokens alone."""

    @cached_property
    def rows_N(self) -> IntArray:
        """Rows of the task that the texts are of."""
        lengths_N = pc.binary_length(self.prepared.table()["text"]).to_numpy()
        places = np.linspace(0, len(lengths_N) - 1, min(_SAMPLED_TEXTS, len(lengths_N))).round().astype(int)
        rows_N: IntArray = np.argsort(lengths_N, kind="stable")[places]
        return rows_N

    @cached_property
    def sample(self) -> list[str]:
        """The texts: for pairs all first ones, then all second ones."""
        texts = self.prepared.texts(self.rows_N)
        if self.prepared.kind == "text":
            return [text[-_SAMPLED_CHARACTERS:] for text in texts]  # of documents, which may be books
        return texts + (self.prepared.others(self.rows_N) if self.prepared.texts_per_example == 2 else [])

    @cached_property
    def tokens(self) -> Tokens:
        encoded = plain_ids(self.tokenizer, self.sample)
        numbers = self._numbers
        lengths = np.zeros(self.prepared.table().num_rows * self.prepared.texts_per_example + 1, dtype=np.int64)
        lengths[numbers + 1] = [len(ids) for ids in encoded]
        ids = [token for place in np.argsort(numbers) for token in encoded[place]]
        return Tokens(np.array(ids, dtype=np.int32), lengths.cumsum(), *self.special_tokens)

    def rows(self, context: int) -> list[TokenRow]:
        """Return the tokens of the texts, as a stage reads them that adds nothing to them."""
        return self.tokens.rows(self._numbers, context)

    def full_row(self, context: int) -> TokenRow:
        """Return a text of as many tokens as the context has room for."""
        before, after = self.special_tokens
        room = max(context - len(before) - len(after), 1)
        inner = np.resize(self.tokens.token_ids if len(self.tokens.token_ids) else self.rows(context)[0], room)
        return np.concatenate([before, inner, after]).astype(np.int32)[:context]

    @property
    def _numbers(self) -> IntArray:
        return self.prepared.text_numbers(self.rows_N)
