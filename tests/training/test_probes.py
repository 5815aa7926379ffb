"""Probes: the frozen model reads each text once, features are stored and shared, and the head trains on them."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.training.conftest import Moods, Onlooker, Pairings, Tiny, make_tiny
from w2s_ray.data.batches import plan_steps
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import OutOfMemory, StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.store.record import Record
from w2s_ray.tasks.task import Task
from w2s_ray.training import features
from w2s_ray.training.features import FeatureSpec, StoredFeatures
from w2s_ray.training.loop import learning_rate_at
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.probes import linear_head
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

EPOCHS = 3
METHODS = {
    "probe": {"arms": ["chain", "ceiling"], "trainable": {"large": {"kind": "probe"}}},
    "started": {"arms": ["ceiling"], "trainable": {"large": {"kind": "probe"}}, "random": ["large"]},
}


def tiny_of(folder: Path, task: Task | None = None, **optimisation: object) -> Tiny:
    settings = {"learning_rate": 3e-2, "examples_per_step": 16, "epochs": EPOCHS, **optimisation}
    return make_tiny(folder, task, methods=METHODS, optimisation=settings)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return tiny_of(tmp_path)


def ceiling_of(tiny: Tiny, method: str = "probe", **execution: object) -> PlannedStage:
    stage = tiny.chain(method, **execution).find("ceiling", "large")
    assert stage is not None
    return stage


def run(tiny: Tiny, workers: Workers, stage: PlannedStage, **onlooker: int) -> Onlooker:
    observer = Onlooker(**onlooker)
    run_stage(stage, store=tiny.store, workers=workers, observer=observer)
    return observer


def record_of(tiny: Tiny, stage: PlannedStage) -> Record:
    record = tiny.store.find(stage.identity)
    assert record is not None
    return record


def model_of(tiny: Tiny, stage: PlannedStage) -> Path:
    return tiny.store.verify(record_of(tiny, stage)) / "model"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of texts that frozen models read, by call."""
    numbers: list[int] = []
    original = features.read_features

    def watched(model: nn.Module, feeder: Any, *others: Any) -> Any:
        numbers.append(len(feeder.examples))
        return original(model, feeder, *others)

    monkeypatch.setattr("w2s_ray.training.probes.read_features", watched)
    return numbers


def features_one_by_one(tiny: Tiny, stage: PlannedStage, rows: np.ndarray) -> torch.Tensor:
    """The last hidden state of each text's last token, first texts before second ones."""
    folder = Path(stage.spec.starts_from.name)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(folder, None)
    texts = tiny.prepared.texts(rows) + (tiny.prepared.others(rows) if tiny.prepared.kind == "pairs" else [])
    states = []
    for text in texts:
        tokens = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        with torch.no_grad():
            states.append(model.base_model(input_ids=tokens).last_hidden_state[0, -1])
    return torch.stack(states)


def plain_training(tiny: Tiny, stage: PlannedStage) -> tuple[list[float], torch.Tensor]:
    """Train a head on those features with torch alone; return the loss of each step and the head's weights."""
    spec, settings = stage.spec, stage.spec.optimisation
    rows = rows_of_split(tiny.prepared, spec.train[0].split)
    num_texts = tiny.prepared.texts_per_example
    features_KND = features_one_by_one(tiny, stage, rows).view(num_texts, len(rows), -1)
    folder = Path(spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    head = load_network(spec, folder, tokenizer, stage.execution).hf.score
    texts = [tiny.prepared.texts(rows), *([tiny.prepared.others(rows)] if num_texts == 2 else [])]
    lengths = [[len(tokenizer.encode(text, add_special_tokens=False)) for text in column] for column in texts]
    steps = plan_steps(
        np.sum(lengths, axis=0),
        epochs=settings.epochs,
        examples_per_step=settings.examples_per_step,
        order_seed=spec.order_seed,
        bucketing_window=settings.bucketing_window,
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1.0, betas=(0.9, 0.95), weight_decay=settings.weight_decay)
    labels, losses = torch.from_numpy(tiny.prepared.labels(rows).astype(np.int64)), []
    for number, step in enumerate(steps):
        optimizer.param_groups[0]["lr"] = learning_rate_at(settings, number, len(steps))
        scores = head(features_KND[:, step])
        logits = scores[0] if num_texts == 1 else torch.cat([scores[0], scores[1]], dim=1)
        loss = nn.functional.cross_entropy(logits, labels[step])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), settings.max_grad_norm)
        optimizer.step()
        losses.append(float(loss))
    return losses, head.weight.detach()


@pytest.mark.parametrize("task", [Moods(), Pairings()], ids=["classes", "pairs"])
def test_a_probe_is_logistic_regression_on_the_frozen_features(tmp_path: Path, alone: Workers, task: Task) -> None:
    tiny = tiny_of(tmp_path, task)
    stage = ceiling_of(tiny)
    run(tiny, alone, stage)
    losses, weight = plain_training(tiny, stage)
    lines = (model_of(tiny, stage).parent / "metrics.jsonl").read_text().splitlines()
    np.testing.assert_allclose([json.loads(line)["loss"] for line in lines], losses, rtol=1e-5)
    trained = load_file(model_of(tiny, stage) / "model.safetensors")
    torch.testing.assert_close(trained["score.weight"], weight, rtol=1e-4, atol=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("zero_stage", [0, 3])
@pytest.mark.parametrize("task", [Moods(), Pairings()], ids=["classes", "pairs"])
def test_the_stored_model_of_a_probe_predicts_what_its_stage_predicted(
    tmp_path: Path, alone: Workers, task: Task, zero_stage: int
) -> None:
    tiny = tiny_of(tmp_path, task, keep_at=[0.5])
    stage = ceiling_of(tiny, zero_stage=zero_stage)
    run(tiny, alone, stage)
    folder, prediction = model_of(tiny, stage), stage.test_prediction
    assert prediction is not None
    rows = rows_of_split(tiny.prepared, prediction.split)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), load_tokenizer(folder, None)
    columns = [tiny.prepared.texts(rows), *([tiny.prepared.others(rows)] if tiny.prepared.kind == "pairs" else [])]
    with torch.no_grad():
        logits = [model(**tokenizer(texts, padding=True, return_tensors="pt")).logits for texts in columns]
    kept = tiny.store.read_predictions(prediction.identity).probs_NC
    np.testing.assert_allclose(torch.cat(logits, dim=1).softmax(-1).numpy(), kept, atol=1e-5)
    snapshot, whole = (load_file(path / "model.safetensors") for path in (folder.parent / "ages" / "0.5", folder))
    changed = [name for name in whole if not torch.equal(snapshot[name], whole[name])]
    assert set(snapshot) == set(whole) and changed == ["score.weight"]


def test_each_text_is_read_once_by_all_arms_and_attempts(tiny: Tiny, alone: Workers, read: list[int]) -> None:
    floor, *_ = tiny.chain("probe").stages
    run(tiny, alone, floor)
    assert read == [], "level 0 trains all weights"
    ceiling, student = ceiling_of(tiny), tiny.chain("probe").find("chain", "large")
    assert student is not None
    observer = run(tiny, alone, ceiling, stop_at=8)
    assert read == [100, 20, 60] and tiny.store.find(ceiling.identity) is None, "training, validation, test"
    assert [point.activity for point in observer.points][:2] == ["loading", "reading"]
    for stage in (ceiling, student):
        assert [point.activity for point in run(tiny, alone, stage).points].count("reading") == 0
    assert read == [100, 20, 60], "its labels differ, its texts do not"
    metrics = record_of(tiny, student).metrics
    assert metrics["num_steps"] == EPOCHS * 7 and metrics["train_seconds"] > metrics["read_seconds"] > 0
    assert metrics["train_tokens"] == EPOCHS * metrics["read_tokens"]


def test_a_stop_while_texts_are_read_keeps_the_splits_that_are_complete(
    tiny: Tiny, alone: Workers, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("w2s_ray.training.memory.footprint.CPU_PREDICTION_TOKENS", 10**6)
    stage = ceiling_of(tiny)
    run(tiny, alone, stage, stop_at=2)
    assert read == [100, 20] and tiny.store.find(stage.identity) is None
    run(tiny, alone, stage)
    assert read == [100, 20, 20, 60] and record_of(tiny, stage).metrics["num_steps"] == EPOCHS * 7


def test_a_probe_with_dropout_reads_its_texts_in_every_epoch(tmp_path: Path, alone: Workers, read: list[int]) -> None:
    tiny = tiny_of(tmp_path, dropout=0.1)
    stage = ceiling_of(tiny)
    assert not stage.spec.reads_once and stage.spec.num_readings == EPOCHS
    run(tiny, alone, stage)
    assert read == [] and record_of(tiny, stage).metrics["num_steps"] == EPOCHS * 7


def test_damaged_features_are_an_error(tiny: Tiny, alone: Workers) -> None:
    stage = ceiling_of(tiny)
    run(tiny, alone, stage, stop_at=8)
    (array,) = tiny.prepared.folder.glob("features-T1-*/features.npy")
    array.write_bytes(array.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(StoreError, match=str(array.parent)):
        run(tiny, alone, stage)


def test_a_model_from_random_weights_has_features_of_its_seed(tiny: Tiny, alone: Workers, read: list[int]) -> None:
    stage = ceiling_of(tiny, "started")
    run(tiny, alone, stage)
    assert len(read) == 3
    folder, spec = Path(stage.spec.starts_from.name), stage.spec
    body = load_network(spec, folder, load_tokenizer(folder, None), stage.execution).hf.state_dict()
    trained = load_file(model_of(tiny, stage) / "model.safetensors")
    for name in (name for name in body if name != "score.weight"):
        torch.testing.assert_close(trained[name], body[name], rtol=0, atol=0)
    other = stage.model_copy(update={"spec": spec.model_copy(update={"init_seed": spec.init_seed + 1})})
    run(tiny, alone, other)
    assert read[3:] == [100, 20], "the predictions are those of the first stage, which the store has"


def test_splits_models_and_contexts_have_features_of_their_own(tiny: Tiny) -> None:
    spec = ceiling_of(tiny).spec
    split = spec.train[0].split
    shorter = spec.model_copy(update={"optimisation": spec.optimisation.model_copy(update={"context_tokens": 8})})
    revised = spec.model_copy(update={"starts_from": spec.starts_from.model_copy(update={"revision": "another"})})
    moved = spec.model_copy(update={"starts_from": spec.starts_from.model_copy(update={"name": "/elsewhere/large"})})
    reseeded = spec.model_copy(update={"init_seed": spec.init_seed + 1})

    def key(spec: Any, split: SplitSpec, *, is_seeded: bool = False) -> FeatureSpec:
        return FeatureSpec.of(spec, split, is_seeded=is_seeded)

    own = key(spec, split)
    assert own == key(moved, split) == key(reseeded, split)
    smaller = split.model_copy(update={"num_examples": 7})
    others = [key(shorter, split), key(revised, split), key(spec, smaller), key(spec, split, is_seeded=True)]
    assert len({own, *others}) == 5


def encoder(folder: Path, kind: str, tokenizer: Any) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 80,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    model: PreTrainedModel = (
        BertForMaskedLM(BertConfig(**sizes)) if kind == "bert" else RobertaForMaskedLM(RobertaConfig(**sizes))
    )
    model.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_encoders_with_a_linear_classifier_are_read_once(
    tiny: Tiny, alone: Workers, read: list[int], kind: str
) -> None:
    """BERT's classifier is linear; RoBERTa trains a block of its own, which reads the texts in every epoch."""
    stage = ceiling_of(tiny)
    folder = Path(stage.spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    encoder(folder, kind, tokenizer)
    begun = load_network(stage.spec, folder, tokenizer, stage.execution)
    assert linear_head(begun) == ("classifier" if kind == "bert" else None)
    run(tiny, alone, stage)
    assert read == ([100, 20, 60] if kind == "bert" else [])
    trained = load_file(model_of(tiny, stage) / "model.safetensors")
    weights = {name: tensor for name, tensor in begun.hf.state_dict().items() if name in trained}
    changed = {name for name, tensor in weights.items() if not torch.equal(tensor, trained[name])}
    assert changed and all(name.startswith("classifier.") for name in changed)
    prediction = stage.test_prediction
    assert prediction is not None
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, prediction.split))
    model = AutoModelForSequenceClassification.from_pretrained(model_of(tiny, stage)).eval()
    batch = load_tokenizer(model_of(tiny, stage), None)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    kept = tiny.store.read_predictions(prediction.identity).probs_NC
    np.testing.assert_allclose(probs.numpy(), kept, atol=1e-5)


def test_memory_that_runs_out_while_texts_are_read_halves_their_batches(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, original, sizes = ceiling_of(tiny), features.partition, []

    def overflowing(*batch: Any, tokens_per_micro_batch: int, **others: Any) -> Any:
        sizes.append(tokens_per_micro_batch)
        return original(*batch, tokens_per_micro_batch=tokens_per_micro_batch, **others)

    monkeypatch.setattr(features, "partition", overflowing)
    reading = iter([True])

    def forward(self: nn.Module, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        if next(reading, False):
            raise MemoryError("none left")
        return plain(self, tokens_RT, last_R)

    from w2s_ray.training.models.network import Network

    plain = Network.forward
    monkeypatch.setattr(Network, "forward", forward)
    with pytest.raises(OutOfMemory):
        run(tiny, alone, stage)
    run(tiny, alone, stage)
    assert sizes[1] < sizes[0] and record_of(tiny, stage).metrics["num_steps"] == EPOCHS * 7


def test_rows_find_their_features_in_any_order_over_several_splits(tiny: Tiny) -> None:
    class Part:
        def __init__(self, rows: list[int]) -> None:
            self.rows_N = np.array(rows)
            self.features_KND = np.stack([np.array([[row, place] for row in rows], "f4") for place in (1, 2)])

    stored = StoredFeatures([Part([5, 3, 9]), Part([4])])  # type: ignore[list-item]
    expected = [[row, place] for place, row in itertools.product((1, 2), (9, 4, 5))]
    assert stored.of(np.array([9, 4, 5])).tolist() == expected
    with pytest.raises(AssertionError):
        stored.of(np.array([9, 8]))
