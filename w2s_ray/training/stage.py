"""Run one planned stage on one process group: train it unless the store has it, then make missing predictions.

Rank 0 reads and writes the store's records, and every decision that leads to collectives is shared first. A killed run
leaves a folder without a record, and perhaps a checkpoint; the next run resumes from them.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from w2s_ray.data.batches import plan_steps
from w2s_ray.errors import DeviceFull, LeaseHeld, ResourceError
from w2s_ray.science import IntArray
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource, Precision, PredictionSpec, Prompt
from w2s_ray.spec.stage import Objective as ObjectiveName
from w2s_ray.store.artifacts import CHECKPOINTS, MODEL, SNAPSHOTS, ArtifactStore
from w2s_ray.store.files import wait_for_files
from w2s_ray.store.record import Base, Record
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.language_objectives import AnswerObjective, TextObjective
from w2s_ray.training.loop import Loop
from w2s_ray.training.memory.fit import MemorySettings, device_full
from w2s_ray.training.memory.usage import Meter, give_memory_back, is_out_of_memory
from w2s_ray.training.models.attention import use_attention
from w2s_ray.training.models.catalogue import is_on_hub
from w2s_ray.training.models.loading import load_network, load_trained
from w2s_ray.training.models.network import Network, checkpoint_activations
from w2s_ray.training.models.saving import ExportFolder, exported_tokenizer
from w2s_ray.training.models.unmerged import describe_base, save_adapters
from w2s_ray.training.objectives import ACCURACY, ClassObjective, StageObjective
from w2s_ray.training.probes import HeadNetwork, ReadingStopped, load_probe, save_probe
from w2s_ray.training.progress import Journal, Observer, StageResult, TrainState, timed
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

OBJECTIVES: dict[ObjectiveName, type[StageObjective]] = {
    "classification": ClassObjective,
    "preference": ClassObjective,
    "answer": AnswerObjective,
    "next_token": TextObjective,
}
_IDS_SHOWN = 3


def run_stage(
    stage: PlannedStage, *, store: ArtifactStore, workers: Workers, observer: Observer, meter: Meter | None = None
) -> StageResult:
    """Train a stage unless it is finished, and make its missing predictions. Collective over `workers`.

    Args:
        stage: what to train, how, and what to predict with it.
        store: where its inputs are and its artifacts go.
        workers: the process group; every rank calls with the same stage.
        observer: gets the progress; used on rank 0 only.
        meter: measures the peak memory of each phase.

    Raises:
        W2SError: on all ranks alike, when data, model or loss are at fault.
        DeviceFull: on the rank that ran out of memory; OutOfMemory when another attempt may fit.
    """
    run = _StageRun(stage, store, workers, observer if workers.is_rank_0 else None, meter or Meter(workers.device))
    try:
        began = time.perf_counter()
        finished = workers.on_rank_0(lambda: store.find(stage.identity))
        run.prepare(finished)
        missing = workers.on_rank_0(lambda: tuple(spec for spec in stage.predicts if store.find(spec.identity) is None))
        if finished is None:
            run.train(missing)
        elif missing:
            run.load_for_prediction()
        if missing and not run.stopped:
            run.predict(missing)
        run.inputs.seconds["total"] = time.perf_counter() - began
        return StageResult(
            identity=stage.identity,
            stopped=run.stopped,
            attempts_trained=finished is None,
            seconds=dict(run.inputs.seconds),
            metrics=run.metrics,
        )
    except Exception as error:
        if is_out_of_memory(error):
            raise run.out_of_memory(error) from error
        raise
    finally:
        run.close()


class _StageRun:
    """The state of one `run_stage`: inputs, engine, and the metrics so far."""

    engine: Engine
    network: Network
    memory: MemorySettings
    execution: Execution
    objective: StageObjective
    checkpoints: Checkpoints

    def __init__(
        self, stage: PlannedStage, store: ArtifactStore, workers: Workers, observer: Observer | None, meter: Meter
    ) -> None:
        self.stage, self.spec, self.store, self.workers = stage, stage.spec, store, workers
        self.observer, self.meter = observer, meter
        self.folder = store.folder(stage.spec.slug, stage.identity)
        self.inputs = StageInputs(stage, store, workers)
        self.metrics: dict[str, float] = {}
        self.digests: dict[str, str] = {}
        """SHA-256 of the files of weights that the ranks have written."""
        self.base: Base | None = None
        """Base of the adapters, once they are stored without it."""
        self.stopped = False
        self.attempt = 0
        """Number of this start of the stage; a later start by another run supersedes it."""

    def prepare(self, finished: Record | None) -> None:
        """Choose how the stage fits into memory, and load its inputs."""
        self.meter.enter("loading")
        self.metrics = dict(finished.metrics) if finished else {}
        size, shape = self.inputs.model_size(is_finished=finished is not None)
        self.memory = MemorySettings(self.inputs, size, shape)
        self.execution = self.inputs.execution = self.memory.execution
        for note in self.memory.notes:
            self.log(note)
        self.inputs.prediction_tokens = self.memory.prediction_tokens
        self.objective = OBJECTIVES[self.spec.objective](self.inputs)

    def train(self, missing: tuple[PredictionSpec, ...]) -> None:
        """Train the stage and commit it to the store; a prompted stage is only validated.

        A probe reads the texts of the `missing` predictions too.
        """
        spec, settings = self.spec, self.spec.optimisation
        self.attempt = self.workers.on_rank_0(self._begin)
        self._check_model()
        self.objective.check(self.stage.predicts)
        if isinstance(spec.trainable, Prompt):
            self._count_truncated()
            self._count_shots(spec.trainable.num_shots)
            self.load_for_prediction()
            self._finish(TrainState(), num_steps=0)
            return
        try:
            head = self._load_head(missing) if spec.reads_once else None
        except ReadingStopped:
            self.stopped = True
            return
        steps = plan_steps(
            self.objective.planned_lengths_N,
            epochs=settings.epochs,
            examples_per_step=settings.examples_per_step,
            order_seed=spec.order_seed,
            bucketing_window=settings.bucketing_window,
        )
        self._count_truncated()
        journal = self._journal(len(steps))
        journal.activity("loading")
        self._start_engine(head or self._load_trainable(), trains=True)
        self.checkpoints = checkpoints = Checkpoints(self.folder / CHECKPOINTS, self.workers)
        state, notes = checkpoints.restore(self.engine)
        for note in notes:
            self.log(note)
        self.workers.on_rank_0(lambda: journal.resume_at(state.step))
        self.meter.enter("training")
        with timed(self.inputs.seconds, "training"):
            state, self.stopped = self._loop(steps, checkpoints, journal).run(state)
        self._finish(state, len(steps))

    def _check_model(self) -> None:
        """Check a hub model that was not downloaded yet when the study was planned."""
        source = self.spec.starts_from
        if isinstance(source, ModelSource) and is_on_hub(source.name):
            from w2s_ray.training.model_check import check_once  # imports `pipeline()`

            try:
                self.workers.on_rank_0(lambda: check_once(self.stage, self.store))
            except ResourceError as error:
                self.log(f"the model is not checked: {error.message}")

    def _loop(self, steps: Sequence[IntArray], checkpoints: Checkpoints, journal: Journal) -> Loop:
        spec = self.spec
        return Loop(
            spec=spec,
            engine=self.engine,
            loss=self.objective.loss(),
            feeder=self.network.fed_by(self.inputs.feeder(self.objective.examples, self.memory.training_tokens)),
            validate=partial(self.objective.validate, self.network) if spec.validation is not None else None,
            steps=steps,
            checkpoints=checkpoints,
            checkpoint_every_seconds=self.execution.checkpoint_every_seconds,
            journal=journal,
            names=self.objective.names,
            save_snapshot=lambda share: self._save(f"{SNAPSHOTS}/{share:g}"),
            is_superseded=lambda: self.store.last_attempt(spec.slug, spec.identity) != self.attempt,
            num_reports=self.stage.num_reports,
        )

    def _begin(self) -> int:
        self.store.begin("stage", self.spec.slug, self.spec.identity)
        return self.store.last_attempt(self.spec.slug, self.spec.identity)

    def _count_truncated(self) -> None:
        truncated = self.objective.truncated_ids()
        if truncated:
            self.log(
                f"{len(truncated)} of {len(self.objective.examples)} texts exceed optimisation.context_tokens "
                f"({self.spec.optimisation.context_tokens}) and keep their last tokens; the first are "
                f"{', '.join(truncated[:_IDS_SHOWN])}"
            )
        self.metrics["cut_examples"] = len(truncated)

    def _load_head(self, missing: tuple[PredictionSpec, ...]) -> HeadNetwork | None:
        """Return a probe's head, to be trained on stored features; None if the whole network has to be trained."""
        journal = self._journal()
        journal.activity("loading")
        head = load_probe(self.inputs, [prediction.split for prediction in missing], journal, self.meter)
        give_memory_back()  # that of the frozen model
        if head is not None:
            self.metrics["fell_back_to_fp32"] = False
        return head

    def _count_shots(self, wanted: int) -> None:
        shots_N = self.objective.num_shots_N()
        if shots_N is None:
            return
        fewer = int((shots_N < wanted).sum())
        if fewer:
            self.log(
                f"{fewer} of {len(shots_N)} texts leave no room for {wanted} shots in optimisation.context_tokens "
                f"({self.spec.optimisation.context_tokens}); a text has {shots_N.mean():.1f} shots on average"
            )
        self.metrics |= {"mean_shots": float(shots_N.mean()), "texts_with_fewer_shots": fewer}

    def _load_trainable(self) -> Network:
        """Load the network to be trained, in the precision and with the checkpointing that device and model allow."""
        network = load_network(self.spec, self.inputs.source_folder, self.inputs.tokenizer, self.execution)
        network.precision = self._available(network.precision, "the stage trains")
        self.metrics["fell_back_to_fp32"] = network.precision != self.spec.optimisation.precision
        self._use_attention(network, network.precision)
        if self.execution.activation_checkpointing and not checkpoint_activations(network):
            self.log("this model does not support activation checkpointing; activations are kept")
        return network

    def _available(self, wanted: Precision, doing: str) -> Precision:
        """Return the precision in which all devices can compute; what the stage is doing is for its log."""
        if wanted == "fp32" or self.workers.all_compute_bf16():
            return wanted
        self.log(f"a device has no bf16 instructions; {doing} in fp32")
        return "fp32"

    def _use_attention(self, network: Network, precision: Precision) -> None:
        wanted, settings = self.execution.attention, self.spec.optimisation
        network.attention = use_attention(network.hf, wanted, settings, precision, self.workers)

    def load_for_prediction(self, folder: Path | None = None) -> None:
        """Load the network in `folder`, by default that of the finished stage; a prompted stage's is its source."""
        inputs, execution = self.inputs, self.execution
        if isinstance(self.spec.trainable, Prompt):
            network = load_network(self.spec, inputs.source_folder, inputs.tokenizer, execution)
        else:
            folder = folder or inputs.trained_model(self.spec.identity)
            network = load_trained(self.spec, folder, inputs.tokenizer, execution)
        self._use_attention(network, "bf16")
        self._start_engine(network, trains=False)

    def _start_engine(self, network: Network, *, trains: bool) -> None:
        network.to(self.workers.device)
        self.network = network
        self.engine = Engine(network, self.execution, self.spec.optimisation if trains else None)
        give_memory_back()  # used while loading

    def _finish(self, state: TrainState, num_steps: int) -> None:
        """Add the metrics of the training and, unless it stopped, validate and commit."""
        self.metrics |= {
            "num_steps": state.step,
            "planned_steps": num_steps,
            "best_step": state.best_step,
            "train_tokens": state.train_tokens,
            "train_seconds": state.train_seconds,
        }
        if self.inputs.stored is not None:
            num_tokens, seconds = self.inputs.stored.cost([part.split for part in self.spec.train])
            self.metrics |= {"read_tokens": num_tokens, "read_seconds": seconds}
            self.metrics["train_seconds"] += seconds
        self.metrics["tokens_per_second"] = state.train_tokens / max(self.metrics["train_seconds"], 1e-9)
        if self.stopped:
            return
        if num_steps:
            self.engine.forget_moments()
        rounds = self.spec.optimisation.saved_precision != "fp32" and not isinstance(self.spec.trainable, Prompt)
        try:
            if rounds:
                self._save_model()
                self._load_saved()
            self._validate()
            if not rounds:
                self._save_model()
            self.workers.on_rank_0(self._commit)
        except LeaseHeld as error:
            self.log(error.message)
            self.stopped = True

    def _validate(self) -> None:
        if self.spec.validation is None:
            return
        self.meter.enter("evaluating")
        with timed(self.inputs.seconds, "evaluation"):
            metrics = self.objective.validate(self.network)
        self.metrics |= {name: value for name, value in metrics.items() if name != ACCURACY}

    def _save_model(self) -> None:
        """Save the trained model, unless another run has started the stage meanwhile or it has none."""
        self.meter.enter("saving")
        self.workers.on_rank_0(lambda: self.store.check_attempt(self.spec.slug, self.spec.identity, self.attempt))
        if not isinstance(self.spec.trainable, Prompt):
            self._journal().activity("saving")
            self._save(MODEL)

    def _load_saved(self) -> None:
        """Replace the network by the saved one, whose weights are rounded; a probe then reads texts again."""
        self.meter.enter("loading")
        self.engine.destroy()
        del self.engine, self.network
        give_memory_back()
        if self.inputs.stored is not None:
            self.inputs.stored = None
            self.objective = OBJECTIVES[self.spec.objective](self.inputs)
        self.workers.on_each_node(lambda: wait_for_files(self.folder / name for name in self.digests))
        folder = self.folder / MODEL
        self.load_for_prediction(folder if self.base is None else self.inputs.merged(self.spec, folder, self.base))

    def _commit(self) -> None:
        """Finish the stage's artifact; on rank 0."""
        spec = self.spec
        if spec.keeps_labels:
            self.objective.write_labels(self.folder)
        self.store.commit(
            kind="stage",
            slug=spec.slug,
            spec=spec,
            identity=spec.identity,
            parents=tuple(sorted(self.stage.requires)),
            metrics=self.metrics,
            attempt=self.attempt,
            digests=self.digests,
            base=self.base,
        )

    def _save(self, name: str) -> None:
        """Write the model into the stage's folder. Collective."""
        tokenizer = exported_tokenizer(self.inputs.tokenizer, *self.inputs.special_tokens, self.spec)
        settings = self.spec.optimisation
        goal = ExportFolder(self.folder / name, tokenizer, settings.context_tokens, settings.saved_precision)
        if isinstance(self.network, HeadNetwork):
            head = self.engine.gather(self.engine.saved_bytes, keeps=True)
            digests = save_probe(self.inputs, head, goal)
        elif self.stage.keeps_adapters:
            folder = self.inputs.source_folder
            if self.base is None:
                self.base = self.workers.on_rank_0(lambda: describe_base(self.spec, folder))
            save_adapters(goal, self.network, folder, self.spec, self.engine.gather, self.workers)
            digests = {}
        else:
            digests = goal.save(self.network, self.engine.saved_bytes, self.engine.gather, self.workers)
        self.digests |= {f"{name}/{file}": digest for file, digest in digests.items()}

    def predict(self, missing: tuple[PredictionSpec, ...]) -> None:
        """Make the missing predictions."""
        journal = self._journal()
        self.meter.enter("predicting")
        for prediction in missing:
            journal.activity("predicting")
            self.network.predicts_in = self._available(prediction.precision, "the stage predicts")
            with timed(self.inputs.seconds, "evaluation" if prediction.split.is_test else "labelling"):
                self.objective.predict(self.network, prediction)

    def out_of_memory(self, error: Exception) -> DeviceFull:
        """Return the error to raise; where smaller micro-batches may help, the next attempt uses them."""
        phase = self.meter.phase or "starting"
        if phase in ("starting", "loading", "saving"):
            return device_full(self.inputs, error, phase)
        return self.memory.shrink(error)

    def _journal(self, num_steps: int = 0) -> Journal:
        return Journal(self.spec.identity, self.folder / "metrics.jsonl", self.observer, num_steps)

    def log(self, text: str) -> None:
        if self.workers.is_rank_0:
            print(f"{self.spec.slug}: {text}", flush=True)

    def close(self) -> None:
        """Free the engine's memory."""
        if hasattr(self, "checkpoints"):
            self.checkpoints.close()
        if hasattr(self, "engine"):
            self.engine.destroy()
        self.inputs.close()
        self.meter.read()
