"""Run one planned stage on one process group: train it unless the store has it, then make the predictions that lack.

Rank 0 reads and writes the store's records; every decision that leads to collectives is shared first. What a killed
run leaves behind (a folder without a record, a checkpoint) is where the next one goes on.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.batches import plan_steps
from w2s_ray.data.labels import targets
from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.splits import draw
from w2s_ray.data.tokens import Tokens, tokenise
from w2s_ray.errors import StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.identity import identity, seeded_hash, short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.stage import ModelSource, PredictionSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.catalogue import model_folder
from w2s_ray.training.checkpoints import Checkpoints, Progress
from w2s_ray.training.feed import Examples, Feeder
from w2s_ray.training.journal import Journal
from w2s_ray.training.loop import Loop
from w2s_ray.training.models import Network, load_network, load_tokenizer, load_trained, save_network
from w2s_ray.training.objectives import Classification, NextToken
from w2s_ray.training.predict import agreement_with_labels, next_token_loss, predict
from w2s_ray.training.progress import Observer, StageResult
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

_HELD_OUT_BLOCKS = 256
"""Blocks of held-out text on which pretraining is judged."""
_PREDICTION_TOKENS = 8192
"""Padded tokens of one forward pass without gradients."""


def run_stage(stage: PlannedStage, *, store: ArtifactStore, workers: Workers, observer: Observer) -> StageResult:
    """Bring the store up to `stage`: its trained model and its predictions. Collective over `workers`.

    Raises:
        W2SError: on all ranks alike, when data, model or loss are at fault.
    """
    return _StageRun(stage, store, workers, observer if workers.leads else None).run()


@dataclass
class _StageRun:
    stage: PlannedStage
    store: ArtifactStore
    workers: Workers
    observer: Observer | None
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    engine: Engine | None = None
    """The one that is in memory now."""

    def run(self) -> StageResult:
        """Do what lacks, and give the engine's memory back however it ends."""
        try:
            return self._run()
        finally:
            if self.engine is not None:
                self.engine.destroy()

    def _run(self) -> StageResult:
        began = time.perf_counter()
        spec = self.stage.spec
        self.prepared = load_prepared(self.store, spec.train[0].split.task)
        self.tokenizer = self._tokenizer()
        self.tokens = self._tokens()
        known = self.workers.led(lambda: self.store.find(spec.identity))
        missing = self._missing()
        metrics: dict[str, float] = dict(known.metrics) if known else {}
        stopped = False
        if known is None:
            metrics, stopped = self._train()
        elif missing:
            network = load_trained(self._trained_model(spec.identity), self.stage.execution, spec.objective)
            self._start_engine(network)
        if missing and not stopped:
            assert self.engine is not None
            self._predict(self.engine, missing)
        self.seconds["total"] = time.perf_counter() - began
        return StageResult(spec.identity, stopped, known is None, dict(self.seconds), metrics)

    def _start_engine(self, network: Network) -> Engine:
        network.to(self.workers.device)
        self.engine = Engine(network, self.stage.execution, self.stage.spec.optimisation)
        return self.engine

    def _train(self) -> tuple[dict[str, float], bool]:
        spec, execution = self.stage.spec, self.stage.execution
        folder = self.store.folder(spec.slug, spec.identity)
        self.workers.led(lambda: self.store.begin("stage", spec.slug, spec.identity))
        examples = self._examples(spec.train)
        validation = self._examples((spec.validation,)) if spec.validation else None
        settings = spec.optimisation
        steps = plan_steps(
            examples.lengths_N,
            epochs=settings.epochs,
            examples_per_step=settings.examples_per_step,
            order_seed=spec.order_seed,
            bucketing_window=settings.bucketing_window,
        )
        journal = Journal(spec.identity, folder / "metrics.jsonl", self.observer, len(steps))
        journal.activity("loading")
        network = load_network(spec, self._source_folder(), self.tokenizer, execution)
        engine = self._start_engine(network)
        checkpoints = Checkpoints(folder / "checkpoints", execution, self.workers)
        progress, said = checkpoints.restore(engine)
        if said and self.workers.leads:
            print(f"{spec.slug}: {said}", flush=True)
        self.workers.led(lambda: journal.resume_at(progress.step))
        loop = Loop(
            spec=spec,
            engine=engine,
            objective=NextToken(examples)
            if spec.objective == "next_token"
            else Classification(spec, examples, self.workers),
            feeder=self._feeder(examples, execution.tokens_per_micro_batch),
            validation=self._feeder(validation, _PREDICTION_TOKENS) if validation else None,
            steps=steps,
            checkpoints=checkpoints,
            checkpoint_every_seconds=execution.checkpoint_every_seconds,
            journal=journal,
            truth_N=self._truth() if self.stage.num_reports else None,
            num_reports=self.stage.num_reports,
        )
        with self._timed("training"):
            progress, stopped = loop.run(progress)
        metrics = self._metrics(progress, len(steps))
        if not stopped:
            metrics |= self._validate(engine, validation)
            self._commit(network, engine, metrics)
        return metrics, stopped

    def _truth(self) -> np.ndarray | None:
        """True classes of the validation examples, for reports alone."""
        validation = self.stage.spec.validation
        if validation is None or self.stage.spec.objective == "next_token":
            return None
        return self.prepared.labels(draw(self.prepared, validation.split))

    def _metrics(self, progress: Progress, num_steps: int) -> dict[str, float]:
        seconds = max(progress.train_seconds, 1e-9)
        return {
            "num_steps": float(progress.step),
            "planned_steps": float(num_steps),
            "best_step": float(progress.best_step),
            "train_tokens": float(progress.train_tokens),
            "train_seconds": progress.train_seconds,
            "tokens_per_second": progress.train_tokens / seconds,
        }

    def _validate(self, engine: Engine, validation: Examples | None) -> dict[str, float]:
        if validation is None:
            return {}
        with self._timed("evaluation"):
            feeder = self._feeder(validation, _PREDICTION_TOKENS)
            if self.stage.spec.objective == "next_token":
                return {"held_out_loss": next_token_loss(engine.model, feeder)}
            return {"validation_agreement": agreement_with_labels(engine.model, feeder)}

    def _commit(self, network: Network, engine: Engine, metrics: dict[str, float]) -> None:
        spec = self.stage.spec
        weights = engine.state_dict()

        def commit() -> None:
            assert weights is not None
            folder = self.store.folder(spec.slug, spec.identity)
            save_network(network, weights, self.tokenizer, folder / "model", spec.optimisation.context_tokens)
            self.store.commit(
                kind="stage",
                slug=spec.slug,
                spec=spec,
                identity=spec.identity,
                parents=tuple(sorted(self.stage.requires)),
                metrics=metrics,
            )

        self.workers.led(commit)

    def _predict(self, engine: Engine, missing: tuple[PredictionSpec, ...]) -> None:
        journal = Journal(
            self.stage.identity,
            self.store.folder(self.stage.spec.slug, self.stage.identity) / "metrics.jsonl",
            self.observer,
            0,
        )
        for prediction in missing:
            journal.activity("predicting")
            with self._timed("evaluation" if prediction.split.is_test else "labelling"):
                rows_N = draw(self.prepared, prediction.split)
                examples = Examples(
                    tokens=self.tokens.rows(rows_N, prediction.context_tokens),
                    targets_NC=np.zeros((len(rows_N), 0), dtype=np.float32),
                    ties_N=np.zeros(len(rows_N), dtype=np.int64),
                )
                feeder = self._feeder(examples, _PREDICTION_TOKENS)
                probs_NC = predict(engine.model, feeder, self.stage.spec.num_classes)
            self.workers.led(partial(self.store.write_predictions, prediction, self.prepared.ids(rows_N), probs_NC))

    def _examples(self, parts: tuple[LabelledSplit, ...]) -> Examples:
        spec = self.stage.spec
        if spec.objective == "next_token":
            return self._text_blocks(parts[0].split)
        rows, target_arrays = zip(
            *(targets(self.store, self.prepared, part, spec.num_classes) for part in parts), strict=True
        )
        rows_N = np.concatenate(rows)
        return Examples(
            tokens=self.tokens.rows(rows_N, spec.optimisation.context_tokens),
            targets_NC=np.concatenate(target_arrays),
            ties_N=np.array([seeded_hash(id_) for id_ in self.prepared.ids(rows_N)], dtype=np.int64),
        )

    def _text_blocks(self, split: SplitSpec) -> Examples:
        rows_N = draw(self.prepared, split)
        end = self.tokenizer.eos_token_id
        blocks_NT = self.tokens.blocks(rows_N, self.stage.spec.optimisation.context_tokens, end)
        if split.name == "held_out":
            blocks_NT = blocks_NT[:_HELD_OUT_BLOCKS]
        count = len(blocks_NT)
        return Examples(list(blocks_NT), np.zeros((count, 0), dtype=np.float32), np.zeros(count, dtype=np.int64))

    def _feeder(self, examples: Examples, tokens_per_micro_batch: int) -> Feeder:
        return Feeder(examples, self.workers, tokens_per_micro_batch, self.tokenizer.pad_token_id)

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        source = self.stage.spec.starts_from
        if isinstance(source, ModelSource):
            return load_tokenizer(model_folder(source.name, source.revision, tokenizer=True), source.pad_token)
        return load_tokenizer(self._trained_model(source.stage), None)

    def _source_folder(self) -> Path:
        source = self.stage.spec.starts_from
        if isinstance(source, ModelSource):
            from_scratch = source.architecture is not None
            return model_folder(source.name, source.revision, tokenizer=from_scratch)
        return self._trained_model(source.stage)

    def _trained_model(self, identity: str) -> Path:
        """The model folder of a finished stage, verified."""
        record = self.store.find(identity)
        if record is None:
            raise StoreError(
                f"stage {short(identity)} has no record",
                "a stage starts from finished ones",
                "run the study that trains it first",
            )
        return self.store.verify(record) / "model"

    def _tokens(self) -> Tokens:
        """The task's tokens; rank 0 makes them where they lack."""
        backend = self.tokenizer.backend_tokenizer.to_str()
        digest = identity("tokenizer", backend)

        def opened() -> Tokens:
            return tokenise(self.store, self.prepared, self.tokenizer, digest)

        def make() -> None:
            opened()  # every rank maps the files itself: tokens are too many to be sent

        self.workers.led(make)
        return opened()

    def _missing(self) -> tuple[PredictionSpec, ...]:
        """Predictions that the store lacks, the same on every rank."""
        predicts = self.stage.predicts
        return self.workers.led(lambda: tuple(each for each in predicts if self.store.find(each.identity) is None))

    @contextmanager
    def _timed(self, activity: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[activity] += time.perf_counter() - began
