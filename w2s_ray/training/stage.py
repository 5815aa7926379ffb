"""Run one planned stage on one process group: train it unless the store has it, then make the predictions that lack.

Rank 0 reads and writes the store's records; every decision that leads to collectives is shared first. What a killed
run leaves behind (a folder without a record, a checkpoint) is where the next one goes on.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.batches import plan_steps
from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.tokens import Tokens, longest_tokens, special_tokens, tokenise
from w2s_ray.errors import DeviceFull, LeaseHeld, OutOfMemory, StoreError, first_line
from w2s_ray.spec.chain import ModelShape, PlannedStage
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.stage import ModelSource, PredictionSpec, Prompt
from w2s_ray.store.artifacts import SNAPSHOTS, ArtifactStore
from w2s_ray.store.micro_batches import Circumstances, read_limit, write_limit
from w2s_ray.training import model_files
from w2s_ray.training.checkpoints import Checkpoints, Progress
from w2s_ray.training.features import features
from w2s_ray.training.feed import FloatArray, IntArray, LastGroup, Purpose
from w2s_ray.training.journal import Journal
from w2s_ray.training.lessons import ACCURACY, Material, lesson_of
from w2s_ray.training.loop import Loop
from w2s_ray.training.memory.footprint import LARGE_MODEL, PREDICTION_TOKENS, footprint
from w2s_ray.training.memory.usage import (
    GIB,
    Meter,
    device_bytes,
    device_name,
    give_back_at_once,
    give_memory_back,
    is_out_of_memory,
    shortage_text,
)
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.network import (
    Network,
    checkpoint_activations,
    load_network,
    load_tokenizer,
    load_trained,
    save_network,
)
from w2s_ray.training.progress import Observer, StageResult
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

_MORE_MEMORY = (
    "raise execution.zero_stage or execution.workers, set activation_checkpointing: true, or end what else uses it"
)
_SHOWN = 3
"""Ids that a line names."""


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
    attempt: int = 0
    """The number of this start of the stage."""

    def __post_init__(self) -> None:
        self.meter = Meter(self.workers.device)
        self.last = LastGroup()
        self.checkpoints_activations = False
        self._verified: dict[str, Path] = {}

    @property
    def folder(self) -> Path:
        """The stage's own, in the store."""
        return self.store.folder(self.stage.spec.slug, self.stage.identity)

    def run(self) -> StageResult:
        """Do what lacks, and give the engine's memory back however it ends."""
        try:
            return self._run()
        except Exception as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(error) from error
            raise
        finally:
            if self.engine is not None:
                self.engine.destroy()
            self.meter.read()

    def _run(self) -> StageResult:
        began = time.perf_counter()
        spec = self.stage.spec
        self.meter.enter("loading")
        self.tokenizer = self._tokenizer()
        known = self.workers.led(lambda: self.store.find(spec.identity))
        size, shape = self._model_size(is_trained=known is not None)
        give_back_at_once(size >= LARGE_MODEL and self.workers.device.type == "cpu")
        self.checkpoints_activations = self._checkpoints_activations(size, shape)
        self.tokens_per_micro_batch = self._allowed("training", self.stage.execution.tokens_per_micro_batch)
        self.material = self._material()
        self.lesson = lesson_of(self.material)
        missing = self._missing()
        metrics: dict[str, float] = dict(known.metrics) if known else {}
        stopped = False
        if known is None:
            metrics, stopped = self._train()
        elif missing:
            self._start_engine(self._trained(), trains=False)
        if missing and not stopped:
            self._predict(missing)
        self.seconds["total"] = time.perf_counter() - began
        return StageResult(spec.identity, stopped, known is None, dict(self.seconds), metrics)

    def _material(self) -> Material:
        prepared = load_prepared(self.store, self.stage.spec.train[0].split.task)
        return Material(
            spec=self.stage.spec,
            store=self.store,
            prepared=prepared,
            tokens=self._tokens(prepared),
            tokenizer=self.tokenizer,
            workers=self.workers,
            sharded=self.stage.execution.zero_stage == 3,
            prediction_tokens=self._allowed("predicting", PREDICTION_TOKENS),
            last=self.last,
            features=self._features,
        )

    def _features(self, rows_N: IntArray) -> FloatArray:
        """What the model that the stage starts from makes of rows of the task."""
        texts = self.material.texts(rows_N, self.stage.spec.optimisation.context_tokens)
        with self._timed("features"):
            pad = self.tokenizer.pad_token_id
            return features(texts, self._source_folder(), pad, self.stage.execution, self.workers)

    def _start_engine(self, network: Network, *, trains: bool) -> Engine:
        network.to(self.workers.device)
        self.network = network
        self.engine = Engine(network, self.stage.execution, self.stage.spec.optimisation if trains else None)
        give_memory_back()  # what loading took
        return self.engine

    def _trained(self) -> Network:
        """The finished stage's network; of one that trains nothing, the one that it asks."""
        spec = self.stage.spec
        if isinstance(spec.trainable, Prompt):
            return load_network(spec, self._source_folder(), self.tokenizer, self.stage.execution)
        return load_trained(spec, self._trained_model(spec.identity), self.tokenizer, self.stage.execution)

    def _train(self) -> tuple[dict[str, float], bool]:
        spec = self.stage.spec
        self.attempt = self.workers.led(self._begin)
        if isinstance(spec.trainable, Prompt):
            cut = self._cut()
            self._start_engine(self._trained(), trains=False)
            metrics = self._metrics(Progress(), 0) | cut | self._validate()
            return metrics, not self._commit(metrics)
        return self._learn()

    def _begin(self) -> int:
        spec = self.stage.spec
        self.store.begin("stage", spec.slug, spec.identity)
        return self.store.last_attempt(spec.slug, spec.identity)

    def _learn(self) -> tuple[dict[str, float], bool]:
        spec, execution = self.stage.spec, self.stage.execution
        examples = self.lesson.examples
        settings = spec.optimisation
        steps = plan_steps(
            self.lesson.planned_lengths_N,
            epochs=settings.epochs,
            examples_per_step=settings.examples_per_step,
            order_seed=spec.order_seed,
            bucketing_window=settings.bucketing_window,
        )
        cut = self._cut()
        journal = Journal(spec.identity, self.folder / "metrics.jsonl", self.observer, len(steps))
        journal.activity("loading")
        network = load_network(spec, self._source_folder(), self.tokenizer, execution)
        fell_back = settings.precision == "bf16" and not self.workers.compute_bf16()
        if fell_back:
            network.precision = "fp32"
            self._say("a device here has no instructions for bf16; the stage computes in fp32")
        if self.checkpoints_activations and not checkpoint_activations(network):
            self._say("this model's layers cannot be computed again; activations are kept")
        engine = self._start_engine(network, trains=True)
        checkpoints = Checkpoints(self.folder / "checkpoints", execution, self.workers)
        progress, said = checkpoints.restore(engine)
        if said:
            self._say(said)
        self.workers.led(lambda: journal.resume_at(progress.step))
        loop = Loop(
            spec=spec,
            engine=engine,
            objective=self.lesson.objective(),
            feeder=self.material.feeder(examples, self.tokens_per_micro_batch),
            check=partial(self.lesson.check, network) if spec.validation is not None else None,
            steps=steps,
            checkpoints=checkpoints,
            checkpoint_every_seconds=execution.checkpoint_every_seconds,
            journal=journal,
            keep=self._keep,
            taken_up=lambda: self.store.last_attempt(spec.slug, spec.identity) != self.attempt,
            num_reports=self.stage.num_reports,
        )
        self.meter.enter("training")
        with self._timed("training"):
            progress, stopped = loop.run(progress)
        metrics = self._metrics(progress, len(steps)) | cut | {"fell_back_to_fp32": float(fell_back)}
        if not stopped:
            engine.forget_moments()
            metrics |= self._validate()
            stopped = not self._commit(metrics)
        return metrics, stopped

    def _cut(self) -> dict[str, float]:
        """Count the stage's examples that do not fit into the context, and name the first."""
        cut = self.lesson.cut()
        if cut:
            self._say(
                f"{len(cut)} of {len(self.lesson.examples)} texts do not fit into optimisation.context_tokens "
                f"({self.stage.spec.optimisation.context_tokens}) and keep their last tokens; the first are "
                f"{', '.join(cut[:_SHOWN])}"
            )
        return {"cut_examples": float(len(cut))}

    def _say(self, words: str) -> None:
        if self.workers.leads:
            print(f"{self.stage.spec.slug}: {words}", flush=True)

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

    def _validate(self) -> dict[str, float]:
        if self.stage.spec.validation is None:
            return {}
        self.meter.enter("evaluating")
        with self._timed("evaluation"):
            figures = self.lesson.check(self.network)
        return {name: value for name, value in figures.items() if name != ACCURACY}

    def _keep(self, share: float) -> None:
        """Keep the model as it is now beside the one to come."""
        assert self.engine is not None
        weights = self.engine.state_dict()
        self.workers.led(lambda: self._save(weights, f"{SNAPSHOTS}/{share:g}"))

    def _save(self, weights: dict[str, torch.Tensor] | None, name: str) -> None:
        """Write the model into the stage's folder; on rank 0, which has the weights."""
        assert weights is not None
        context = self.stage.spec.optimisation.context_tokens
        save_network(self.network, weights, self.tokenizer, self.folder / name, context)

    def _commit(self, metrics: dict[str, float]) -> bool:
        """Finish the stage's artifact; say whether it was still this run's to finish."""
        spec = self.stage.spec
        self.meter.enter("saving")
        weights = self._weights()

        def commit() -> None:
            self.store.check_attempt(spec.slug, spec.identity, self.attempt)
            if weights is not None:
                self._save(weights, "model")
            if spec.keeps_labels:
                self.lesson.keep_labels(self.folder)
            self.store.commit(
                kind="stage",
                slug=spec.slug,
                spec=spec,
                identity=spec.identity,
                parents=tuple(sorted(self.stage.requires)),
                metrics=metrics,
                attempt=self.attempt,
            )

        try:
            self.workers.led(commit)
        except LeaseHeld as lost:
            self._say(lost.value)
            return False
        return True

    def _weights(self) -> dict[str, torch.Tensor] | None:
        """The trained weights on rank 0; None on the others, and where nothing was trained."""
        assert self.engine is not None
        return None if isinstance(self.stage.spec.trainable, Prompt) else self.engine.state_dict()

    def _predict(self, missing: tuple[PredictionSpec, ...]) -> None:
        journal = Journal(self.stage.identity, self.folder / "metrics.jsonl", self.observer, 0)
        self.meter.enter("predicting")
        for prediction in missing:
            journal.activity("predicting")
            with self._timed("evaluation" if prediction.split.is_test else "labelling"):
                self.lesson.predict(self.network, prediction)

    def _model_size(self, *, is_trained: bool) -> tuple[int, ModelShape | None]:
        """Return the parameters of the stage's model, and its shape; from its own files once it is trained."""
        source, is_asked = self.stage.spec.starts_from, isinstance(self.stage.spec.trainable, Prompt)
        is_own = is_trained and not is_asked
        folder = self._trained_model(self.stage.identity) if is_own else self._source_folder()
        if not is_trained and isinstance(source, ModelSource) and source.architecture is not None:
            vocabulary = model_files.vocabulary_size(folder)
            shape = model_files.shape_of_architecture(source.architecture, vocabulary)
            return model_files.num_parameters_of(source.architecture, vocabulary), shape
        return model_files.num_parameters(model_files.weight_files(folder)), model_files.shape_of(folder)

    def _checkpoints_activations(self, size: int, shape: ModelShape | None) -> bool:
        """Whether activations are computed again: as asked, or where they would not fit. Collective."""
        asked = self.stage.execution.activation_checkpointing
        if asked != "auto":
            return asked
        if shape is None:
            return False
        prepared = load_prepared(self.store, self.stage.spec.train[0].split.task)
        tokens = longest_tokens(prepared, self.tokenizer.backend_tokenizer)
        precision = self.stage.spec.optimisation.precision if self.workers.compute_bf16() else "fp32"
        need = footprint(self.stage, size, shape, tokens, precision).peak
        has = device_bytes(self.workers.device, self._workers_per_device)
        (too_much,) = self.workers.any(need > has)
        if too_much:
            self._say(f"activations are computed again: with them a worker would hold {need / GIB:.1f} GiB")
        return too_much

    @property
    def _workers_per_device(self) -> int:
        """Workers that share this one's GPU, or its machine."""
        gpus = self.stage.execution.gpus_per_worker
        if self.workers.device.type == "cuda":
            return int(1 / gpus) if 0 < gpus < 1 else 1
        return self.workers.local_size

    def _circumstances(self, purpose: Purpose) -> Circumstances:
        spec, execution = self.stage.spec, self.stage.execution
        source = spec.starts_from
        return Circumstances(
            model=source.name,
            revision=source.revision if isinstance(source, ModelSource) else "",
            architecture=source.architecture if isinstance(source, ModelSource) else None,
            trainable=spec.trainable.kind,
            device=device_name(self.workers.device),
            context_tokens=spec.optimisation.context_tokens,
            precision=spec.optimisation.precision,
            workers=self.workers.size,
            zero_stage=execution.zero_stage,
            offload_optimizer=execution.offload_optimizer,
            activation_checkpointing=self.checkpoints_activations,
            purpose=purpose,
        )

    def _allowed(self, purpose: Purpose, wanted: int) -> int:
        """Tokens of a micro-batch: as many as `wanted`, or what was found to fit on every rank's device. Collective."""
        known = self.workers.min(read_limit(self.store, self._circumstances(purpose)) or wanted)
        if known >= wanted:
            return wanted
        self._say(f"micro-batches for {purpose} have {known} tokens: larger ones ran out of memory on this device")
        return known

    def _out_of_memory(self, error: Exception) -> DeviceFull:
        """Halve the micro-batches for the next attempt; where there is nothing to halve, say what ran short."""
        phase, last = self.meter.phase or "starting", self.last
        value = f"{self.stage.spec.slug} ran out of memory while {phase}: {first_line(error)}"
        figures = shortage_text(self.workers.device)
        fewer = last.tokens // 2
        if phase in ("loading", "saving"):
            return DeviceFull(value, figures, _MORE_MEMORY)
        if last.examples <= 1 or fewer >= last.allowed:
            return DeviceFull(f"{value}, with one example of {last.tokens} tokens at a time", figures, _MORE_MEMORY)
        write_limit(self.store, self._circumstances(last.purpose), fewer)
        return OutOfMemory(
            f"{value}, with micro-batches of {last.tokens} tokens",
            figures,
            f"it goes on from its last checkpoint with micro-batches of {fewer} tokens, and so do stages like it",
        )

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
        """The model folder of a finished stage, verified once."""
        if identity in self._verified:
            return self._verified[identity]
        record = self.store.find(identity)
        if record is None:
            raise StoreError(
                f"stage {short(identity)} has no record",
                "a stage starts from finished ones",
                "run the study that trains it first",
            )
        self._verified[identity] = self.store.verify(record) / "model"
        return self._verified[identity]

    def _tokens(self, prepared: PreparedTask) -> Tokens:
        """The task's tokens; rank 0 makes them where they lack.

        What a tokenizer puts behind a text is for encoders, which have a class token: a decoder's head reads the text's
        own last token, and a language model goes on from there.
        """
        before, after = special_tokens(self.tokenizer)
        is_encoder = not self.stage.spec.is_language_model and self.tokenizer.cls_token_id is not None
        backend = self.tokenizer.backend_tokenizer.to_str()
        digest = identity("tokenizer", backend)

        def opened() -> Tokens:
            tokens = tokenise(self.store, prepared, self.tokenizer, digest)
            return replace(tokens, before=before, after=after if is_encoder else tokens.after)

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
