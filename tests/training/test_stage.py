"""A stage from start to record, alone in this process."""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.training.conftest import Onlooker, Tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import StoreError, TrainingError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import EarlyStopping
from w2s_ray.store import files
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training import losses
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.losses import soft_cross_entropy
from w2s_ray.training.models.network import Network, load_network, load_tokenizer
from w2s_ray.training.objectives import AGREEMENT, ClassObjective
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine


def floor_of(tiny: Tiny, **execution: object) -> PlannedStage:
    return tiny.chain(**execution).stages[0]


def test_a_stage_leaves_a_model_its_metrics_and_its_predictions(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    result = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and not result.stopped and result.attempts_trained
    assert record.metrics["num_steps"] == 7
    assert tiny.store.num_attempts(stage.identity) == 1
    for prediction in stage.predicts:
        kept = tiny.store.read_predictions(prediction.identity)
        assert list(kept.ids) == tiny.prepared.ids(rows_of_split(tiny.prepared, prediction.split))
        np.testing.assert_allclose(kept.probs_NC.sum(axis=1), 1, rtol=1e-5)
    steps = [json.loads(line) for line in (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == list(range(1, 8))
    assert not (tiny.store.verify(record) / "checkpoints").exists()


def test_a_second_run_trains_nothing(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    again = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert not again.attempts_trained
    assert tiny.store.num_attempts(stage.identity) == 1


def test_trap_6_predictions_asked_for_later_are_those_of_the_trained_model(
    tiny: Tiny, alone: Workers, tmp_path: Path
) -> None:
    stage = floor_of(tiny)
    run_stage(stage.model_copy(update={"predicts": ()}), store=tiny.store, workers=alone, observer=Onlooker())
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.num_attempts(stage.identity) == 1
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tiny.store.root / "data")
    run_stage(stage, store=other, workers=alone, observer=Onlooker())
    for prediction in stage.predicts:
        np.testing.assert_allclose(
            tiny.store.read_predictions(prediction.identity).probs_NC,
            other.read_predictions(prediction.identity).probs_NC,
            atol=1e-6,
        )


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_stopped_stage_goes_on_from_its_checkpoint_and_ends_as_if_undisturbed(
    tiny: Tiny, alone: Workers, zero_stage: int, tmp_path: Path
) -> None:
    stage = floor_of(tiny, zero_stage=zero_stage)
    stopped = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at=3))
    assert stopped.stopped and tiny.store.find(stage.identity) is None
    onlooker = Onlooker()
    run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    trained = [point.step for point in onlooker.points if point.activity == "training"]
    assert min(trained) == 4, "it must go on after the third step"
    saved = {point.saved_step for point in onlooker.points if point.activity == "training"}
    assert saved == {3}, "and says where another attempt would"
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tiny.store.root / "data")
    run_stage(stage, store=other, workers=alone, observer=Onlooker())
    test = stage.test_prediction
    assert test is not None
    resumed, whole = tiny.store.read_predictions(test.identity), other.read_predictions(test.identity)
    np.testing.assert_allclose(np.log(resumed.probs_NC), np.log(whole.probs_NC), atol=1e-6)
    record = tiny.store.find(stage.identity)
    assert record is not None
    steps = [
        json.loads(line)["step"] for line in (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 8))


def by_another_run(tiny: Tiny, stage: PlannedStage) -> None:
    """Take the stage up and finish it, as a run does that finds its lease free."""
    folder = tiny.store.begin("stage", stage.spec.slug, stage.identity)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("the other run's")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    tiny.store.commit(
        kind="stage",
        slug=stage.spec.slug,
        spec=stage.spec,
        identity=stage.identity,
        parents=(),
        metrics={},
        attempt=tiny.store.last_attempt(stage.spec.slug, stage.identity),
    )


def test_a_stage_that_another_run_has_taken_up_stops_at_its_next_step_and_writes_nothing_more(
    tiny: Tiny, alone: Workers
) -> None:
    stage = floor_of(tiny)

    class Suspended(Onlooker):
        def should_stop(self) -> bool:
            stop = super().should_stop()
            if self._polls == 3:
                by_another_run(tiny, stage)
            return stop

    onlooker = Suspended(stop_at=3)
    result = run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    assert result.stopped, "so the dispatcher looks for the other run's stage"
    assert [point.step for point in onlooker.points if point.activity == "training"] == [1]
    record = tiny.store.find(stage.identity)
    assert record is not None and "model/weights" in record.files
    folder = tiny.store.verify(record)
    assert not (folder / "checkpoints").exists()
    assert all(tiny.store.find(prediction.identity) is None for prediction in stage.predicts)


def test_a_stage_that_another_run_has_finished_is_not_written_over(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, check = floor_of(tiny), ClassObjective.validate

    def slow(objective: ClassObjective, network: Network) -> dict[str, float]:
        by_another_run(tiny, stage)
        return check(objective, network)

    monkeypatch.setattr(ClassObjective, "validate", slow)
    assert run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker()).stopped
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics == {}
    folder = tiny.store.verify(record)
    assert (folder / "model" / "weights").read_text() == "the other run's"
    assert not (folder / "model" / "model.safetensors").exists()


def test_another_zero_stage_starts_the_stage_from_its_beginning_and_says_so(
    tiny: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stage(floor_of(tiny, zero_stage=1), store=tiny.store, workers=alone, observer=Onlooker(stop_at=3))
    onlooker = Onlooker()
    run_stage(floor_of(tiny, zero_stage=2), store=tiny.store, workers=alone, observer=onlooker)
    assert min(point.step for point in onlooker.points if point.activity == "training") == 1
    assert "starts from the beginning" in capsys.readouterr().out


def test_trap_6_the_exported_folder_predicts_what_the_stage_predicted(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and stage.test_prediction is not None
    folder = tiny.store.verify(record) / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = rows_of_split(tiny.prepared, stage.test_prediction.split)
    texts = tiny.prepared.table()["text"].take(rows).to_pylist()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    kept = tiny.store.read_predictions(stage.test_prediction.identity).probs_NC
    np.testing.assert_allclose(probs.numpy(), kept, atol=1e-6)


def test_a_loss_that_is_not_finite_is_an_error_with_a_remedy(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    wild = stage.spec.optimisation.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": wild})})
    with pytest.raises(TrainingError, match="learning_rate"):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.find(stage.identity) is None


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_gradients_that_are_not_finite_are_an_error_under_every_zero_stage(
    tiny: Tiny, alone: Workers, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def poisoned(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            logits_BC.register_hook(lambda gradient: gradient * torch.nan)
        return soft_cross_entropy(logits_BC, target_BC)

    monkeypatch.setattr(losses, "soft_cross_entropy", poisoned)
    stage = floor_of(tiny, zero_stage=zero_stage)
    with pytest.raises(TrainingError, match="gradient norm"):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.find(stage.identity) is None


def test_an_error_leaves_no_engine_in_memory(tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed = []
    destroy = Engine.destroy
    monkeypatch.setattr(Engine, "destroy", lambda engine: (destroyed.append(engine), destroy(engine)))
    wild = floor_of(tiny).spec.optimisation.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    stage = floor_of(tiny)
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": wild})})
    with pytest.raises(TrainingError):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert len(destroyed) == 1


def test_early_stopping_keeps_the_weights_that_agree_best_with_the_weak_labels(tiny: Tiny, alone: Workers) -> None:
    rule = {"every_steps": 1, "patience": 2}
    ladder = {
        name: level.model_copy(
            update={
                "optimisation": type(level.optimisation).model_validate(
                    {**level.optimisation.model_dump(), "early_stopping": rule, "epochs": 4}
                )
            }
        )
        for name, level in tiny.study.ladder.items()
    }
    patient = Tiny(tiny.store, tiny.study.model_copy(update={"ladder": ladder}), tiny.prepared)
    for stage in patient.chain().stages[:2]:
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        record = tiny.store.find(stage.identity)
        assert record is not None
        lines = (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()
        seen = {
            line["step"]: line["validation_agreement"]
            for line in map(json.loads, lines)
            if "validation_agreement" in line
        }
        best = max(seen.values())
        assert record.metrics["validation_agreement"] == pytest.approx(best)
        assert record.metrics["best_step"] == min(step for step, value in seen.items() if value == best)
        assert record.metrics["num_steps"] <= record.metrics["best_step"] + 2


def test_reports_come_evenly_over_the_steps_judge_by_labels_and_truth_and_change_nothing(
    tiny: Tiny, alone: Workers, tmp_path: Path
) -> None:
    quiet = Tiny(ArtifactStore(tmp_path / "quiet"), tiny.study, tiny.prepared)
    quiet.store.prepare()
    (quiet.store.root / "data").rmdir()
    (quiet.store.root / "data").symlink_to(tiny.store.root / "data")
    floor, student = tiny.chain().stages[:2]
    all_losses = []
    for each, num_reports in ((tiny, 3), (quiet, 0)):
        run_stage(floor, store=each.store, workers=alone, observer=Onlooker())
        onlooker = Onlooker()
        asked = student.model_copy(update={"num_reports": num_reports})
        run_stage(asked, store=each.store, workers=alone, observer=onlooker)
        reports = [point for point in onlooker.points if point.report]
        assert [(point.step, point.report) for point in reports] == [(3, 1), (5, 2), (7, 3)][:num_reports]
        for point in reports:
            assert set(point.values) == {"validation_agreement", "validation_accuracy"}
        record = each.store.find(student.identity)
        assert record is not None
        lines = map(json.loads, (each.store.verify(record) / "metrics.jsonl").read_text().splitlines())
        all_losses.append([line["loss"] for line in lines])
    assert all_losses[0] == all_losses[1]


def test_trap_5_steps_are_taken_in_training_mode_one_graph_at_a_time(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    modes: list[bool] = []
    forward = Engine.__call__

    def watched(engine: Engine, tokens_BT: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        alive.append(sum(graph() is not None for graph in graphs))
        modes.append(engine.model.training)
        return forward(engine, tokens_BT, last_B)

    def remembered(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        loss = soft_cross_entropy(logits_BC, target_BC)
        graphs.append(weakref.ref(loss))
        return loss

    monkeypatch.setattr(Engine, "__call__", watched)
    monkeypatch.setattr(losses, "soft_cross_entropy", remembered)
    run_stage(floor_of(tiny, tokens_per_micro_batch=64), store=tiny.store, workers=alone, observer=Onlooker())
    assert len(modes) > 20 and all(modes)
    assert max(alive) <= 1, "the loss before may still be on its way out, none before that"


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_device_without_bf16_computes_in_fp32_and_the_record_says_so(
    tiny: Tiny,
    alone: Workers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_bf16: bool,
) -> None:
    precisions: set[str] = set()
    forward = Network.forward

    def watched(network: Network, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        if network.training:
            precisions.add(network.precision)
        return forward(network, tokens_RT, last_R)

    monkeypatch.setattr(Network, "forward", watched)
    monkeypatch.setattr("w2s_ray.training.workers.computes_bf16", lambda device: has_bf16)
    floor = floor_of(tiny)
    asked = floor.spec.optimisation.model_copy(update={"precision": "bf16", "epochs": 0.25})
    stage = floor.model_copy(update={"spec": floor.spec.model_copy(update={"optimisation": asked})})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None
    assert precisions == {"bf16" if has_bf16 else "fp32"}
    assert record.metrics["fell_back_to_fp32"] == float(not has_bf16)
    assert ("no bf16 instructions" in capsys.readouterr().out) == (not has_bf16)


def test_a_head_block_of_its_own_is_drawn_from_the_stages_seed(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TOKENIZER, None)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    stage = floor_of(tiny)

    def drawn(seed: int) -> torch.Tensor:
        spec = stage.spec.model_copy(update={"init_seed": seed})
        network = load_network(spec, tmp_path, tokenizer, stage.execution)
        return torch.cat([parameter.flatten() for parameter in network.hf.classifier.parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize(("zero_stage", "checkpoint_seconds"), [(1, 3600), (3, 0)])
def test_early_stopping_goes_back_to_the_best_weights_when_they_are_not_the_last_and_keeps_no_more_than_it_may_need(
    tiny: Tiny, alone: Workers, zero_stage: int, checkpoint_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreements = iter([0.5, 0.9, 0.4, 0.3, 0.9])
    monkeypatch.setattr(ClassObjective, "validate", lambda *_: {AGREEMENT: next(agreements)})
    best: dict[str, torch.Tensor] = {}
    save_best = Checkpoints.save_best

    def remember(checkpoints: Checkpoints, engine: Engine, step: int) -> None:
        save_best(checkpoints, engine, step)
        best.update(engine.state_dict() or {})
        promised = {f"best{step - 1}"} if checkpoint_seconds == 0 and step > 1 else set()
        assert {folder.name for folder in checkpoints.folder.glob("best*")} == {f"best{step}"} | promised

    monkeypatch.setattr(Checkpoints, "save_best", remember)
    stage = floor_of(tiny, zero_stage=zero_stage, checkpoint_every_seconds=checkpoint_seconds)
    rule = EarlyStopping(every_steps=1, patience=2)
    settings = stage.spec.optimisation.model_copy(update={"early_stopping": rule})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics["best_step"] == 2 and record.metrics["num_steps"] == 4
    kept = load_file(tiny.store.verify(record) / "model" / "model.safetensors")
    assert kept
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, best[f"hf.{name}"], rtol=0, atol=0)


def test_a_damaged_checkpoint_starts_the_stage_from_its_beginning_and_says_so(
    tiny: Tiny, alone: Workers, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = floor_of(tiny, zero_stage=1)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at=3))
    shard = next(tiny.store.folder(stage.spec.slug, stage.identity).glob("checkpoints/step3/*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:-100])
    onlooker = Onlooker()
    run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    assert min(point.step for point in onlooker.points if point.activity == "training") == 1
    assert "changed size" in capsys.readouterr().out


@pytest.mark.parametrize("stop_at", [3, None], ids=["checkpoint", "model"])
def test_a_disk_without_room_is_an_error_before_anything_is_half_written(
    tiny: Tiny, alone: Workers, stop_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = floor_of(tiny)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match=r"what is to be written there takes \d+ MiB"):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at))
    assert tiny.store.find(stage.identity) is None
    monkeypatch.undo()
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.find(stage.identity) is not None


@pytest.mark.parametrize("is_encoder", [False, True])
def test_a_model_reads_texts_between_the_special_tokens_that_its_tokenizer_adds(
    tiny: Tiny, alone: Workers, is_encoder: bool
) -> None:
    stage = floor_of(tiny)
    folder = Path(stage.spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|end|>", "<|pad|>")]
    template = "<|end|> $A <|end|>" if is_encoder else "<|end|> $A"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    if is_encoder:
        tokenizer.cls_token = "<|end|>"
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=tokenizer.pad_token_id,
        )
        BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    context = 12  # some texts are longer
    settings = stage.spec.optimisation.model_copy(update={"context_tokens": context})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    prediction = floor_of(tiny).test_prediction
    assert prediction is not None
    prediction = prediction.model_copy(update={"stage": stage.identity, "context_tokens": context})
    stage = stage.model_copy(update={"predicts": (prediction,)})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics["cut_examples"] > 0
    kept = tiny.store.verify(record) / "model"
    model, read = AutoModelForSequenceClassification.from_pretrained(kept).eval(), AutoTokenizer.from_pretrained(kept)
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, prediction.split))
    batch = read(texts, padding=True, truncation=True, return_tensors="pt")
    assert (batch["input_ids"][:, 0] == tokenizer.eos_token_id).all()
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    np.testing.assert_allclose(probs.numpy(), tiny.store.read_predictions(prediction.identity).probs_NC, atol=1e-6)
