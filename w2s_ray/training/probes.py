"""Linear probes: the frozen model reads each text once, and a network that is only the head trains on the features.

`load_probe` reads what is not stored yet and returns that network; the frozen model is freed before training. Losses,
loop, checkpoints, validation and predictions are those of every stage, with features in place of tokens. When the stage
is saved, `save_probe` adds the frozen weights again, so the stored model is an ordinary one.

A feature is the input of the linear head: a decoder's last hidden state of the last token, or the pooled output of an
encoder. Encoders with a classifier block of their own (RoBERTa, DeBERTa, ModernBERT, DistilBERT, …) train that block as
well; `load_probe` returns None for them, and they read the texts in every epoch.
"""

import time
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn

from w2s_ray.spec.execution import Execution
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.training.features import FeatureSpec, SplitFeatures, StoredFeatures, read_features
from w2s_ray.training.feed import Examples, Feeder
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.memory.usage import Meter
from w2s_ray.training.models.loading import load_network
from w2s_ray.training.models.network import HEADS, Network
from w2s_ray.training.models.saving import ExportFolder
from w2s_ray.training.progress import Journal, timed
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, gathered


class ReadingStopped(Exception):
    """The stage was asked to stop while its frozen model read texts; raised on every rank."""


class HeadNetwork(Network):
    """A probe's head: maps features_RD of texts to logits_BC of examples, in fp32."""

    def __init__(self, name: str, head: nn.Linear, texts_per_example: int) -> None:
        """`name`: of the head in its model, so that its weights keep their names."""
        nn.Module.__init__(self)
        self.hf = nn.ModuleDict({name: head})  # the only part of the model
        self.precision = self.predicts_in = "fp32"
        self._name, self._texts_per_example = name, texts_per_example

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor, *_: Any) -> torch.Tensor:
        """Return logits_BC; `tokens_RT` are the features, those of first texts before those of second ones."""
        logits_RC: torch.Tensor = getattr(self.hf, self._name)(tokens_RT)
        return logits_RC if self._texts_per_example == 1 else logits_RC.view(self._texts_per_example, -1).T


def load_probe(
    inputs: StageInputs, predicted: Iterable[SplitSpec], journal: Journal, meter: Meter
) -> HeadNetwork | None:
    """Return the head of a probe, and add the features of its examples to `inputs`. Collective.

    Args:
        inputs: of the stage.
        predicted: splits that the stage predicts, besides those that it learns and is validated on.
        journal: asks whether to stop.
        meter: measures the memory of reading.

    Returns:
        None for a model whose head is not a linear layer alone.

    Raises:
        ReadingStopped: when the stage was asked to stop.
        StoreError: when features cannot be written, or are damaged.
    """
    spec, workers = inputs.spec, inputs.workers
    network = load_network(spec, inputs.source_folder, inputs.tokenizer, inputs.execution)
    name = linear_head(network)
    if name is None:
        return None
    own = [part.split for part in (*spec.train, *([spec.validation] if spec.validation is not None else []))]
    parts = [
        SplitFeatures(inputs.prepared, FeatureSpec.of(spec, split, is_seeded=spec.starts_drawn or name != "score"))
        for split in dict.fromkeys((*own, *predicted))
    ]
    head = _without_head(network, name)
    missing = workers.on_rank_0(lambda: [number for number, part in enumerate(parts) if not part.is_stored])
    if missing:
        meter.enter("reading")
        journal.activity("reading")
        with timed(inputs.seconds, "reading"):
            _read(Network(network.hf, "fp32"), [parts[number] for number in missing], inputs, journal)
        meter.enter("loading")
    inputs.stored = StoredFeatures(parts)
    return HeadNetwork(name, head, inputs.prepared.texts_per_example)


def linear_head(network: Network) -> str | None:
    """Return the name of a probe's head if it is a linear layer and all that is trained, else None."""
    trained = {name for name, parameter in network.hf.named_parameters() if parameter.requires_grad}
    for name in HEADS:
        head = getattr(network.hf, name, None)
        if isinstance(head, nn.Linear) and trained == {f"{name}.{own}" for own, _ in head.named_parameters()}:
            return name
    return None


def _without_head(network: Network, name: str) -> nn.Linear:
    """Replace the head by the identity, so that the network returns features; return a copy of the head."""
    head: nn.Linear = getattr(network.hf, name)
    copied = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None)
    with gathered(list(head.parameters())), torch.no_grad():
        for own, parameter in copied.named_parameters():
            parameter.copy_(getattr(head, own))
    setattr(network.hf, name, nn.Identity())
    return copied


def _read(network: Network, parts: Iterable[SplitFeatures], inputs: StageInputs, journal: Journal) -> None:
    """Read and store the features of splits, one after the other."""
    workers, context = inputs.workers, inputs.spec.optimisation.context_tokens
    engine = Engine(network.to(workers.device), inputs.execution, None)
    try:
        for part in parts:
            began = time.perf_counter()
            texts = Examples(tokens=inputs.texts(part.rows_N, context).tokens)
            feeder = Feeder(
                texts,
                Workers(0, 1, workers.device),
                inputs.prediction_tokens,
                inputs.tokenizer.pad_token_id,
                "predicting",
                inputs.largest,
            )
            features_MD = read_features(engine.model, feeder, workers, journal.should_stop)
            if features_MD is None:
                raise ReadingStopped
            num_tokens, seconds = int(texts.lengths_N.sum()), time.perf_counter() - began
            workers.on_rank_0(lambda: part.store(features_MD, num_tokens, seconds))  # noqa: B023 (called at once)
    finally:
        engine.destroy()


def save_probe(inputs: StageInputs, head: dict[str, torch.Tensor], goal: ExportFolder) -> dict[str, str]:
    """Write a probe's whole model, read again, with the trained `head`; return its digests. Collective.

    Under ZeRO-3 the ranks share the model; otherwise rank 0 reads and writes it, in the host's memory.
    """
    execution, workers = inputs.execution, inputs.workers

    def load(execution: Execution) -> Network:
        return load_network(inputs.spec, inputs.source_folder, inputs.tokenizer, execution)

    if execution.zero_stage != 3:
        return workers.on_rank_0(lambda: goal.save_alone(load(Execution()), head))
    network = load(execution)
    engine = Engine(network.to(workers.device), execution, None)

    def gather(names: Collection[str], *, keeps: bool) -> dict[str, torch.Tensor]:
        read = engine.gather([name for name in names if name not in head], keeps=keeps)
        return read | {name: head[name] for name in names if keeps and name in head}

    try:
        return goal.save(network, engine.saved_bytes, gather, workers)
    finally:
        engine.destroy()
