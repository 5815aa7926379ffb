"""What stages learn from: features of texts, transformed labels, ensembles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, RobertaConfig, RobertaForMaskedLM

from tests.training.conftest import Onlooker, Tiny, make_tiny, write_tiny_llama
from tests.training.processes import run_cases
from w2s_ray.data.labels import learnt
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import W2SError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.report.evidence import gather_chains
from w2s_ray.science import FloatArray
from w2s_ray.science.metrics import accuracy
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.labels import WeakLabels
from w2s_ray.spec.study import MethodSpec
from w2s_ray.training import inputs
from w2s_ray.training.features import features
from w2s_ray.training.feed import Examples, TokenRow
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

PAD = 0


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "llama", hidden=16, seed=3)


def texts(num: int = 40) -> list[TokenRow]:
    """Rows of different lengths; some contain the padding token, some end in it."""
    draws = np.random.default_rng(0)
    rows = [draws.integers(0, 200, size=length).astype(np.int32) for length in draws.integers(1, 30, size=num)]
    rows[3][-1] = rows[7][0] = PAD
    return rows


def one_by_one(folder: Path, rows: list[TokenRow]) -> np.ndarray:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.from_numpy(row[None].astype(np.int64))).last_hidden_state for row in rows]
    return np.stack([state[0, -1].numpy() for state in states])


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_features_are_the_last_hidden_state_of_each_texts_last_token(
    llama: Path, alone: Workers, zero_stage: int
) -> None:
    rows = texts()
    features_ND = features(Examples(tokens=rows), llama, PAD, Execution(zero_stage=zero_stage), alone)
    assert features_ND.shape == (40, 16) and features_ND.dtype == np.float32
    np.testing.assert_allclose(features_ND, one_by_one(llama, rows), atol=1e-5)


def test_features_of_an_encoder_ignore_padding(tmp_path: Path, alone: Workers) -> None:
    vocabulary = len(load_tokenizer(TOKENIZER, None))
    config = RobertaConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    rows = [np.where(row == config.pad_token_id, 5, row) for row in texts()]
    features_ND = features(Examples(tokens=rows), tmp_path, config.pad_token_id, Execution(), alone)
    np.testing.assert_allclose(features_ND, one_by_one(tmp_path, rows), atol=1e-5)


def test_features_of_a_pair_are_the_second_texts_minus_the_firsts(llama: Path, alone: Workers) -> None:
    first, second = texts()[:10], texts()[10:20]
    pairs = Examples(tokens=[*first, *second], texts_per_example=2)
    swapped = Examples(tokens=[*second, *first], texts_per_example=2)
    features_ND = features(pairs, llama, PAD, Execution(), alone)
    np.testing.assert_allclose(features_ND, one_by_one(llama, second) - one_by_one(llama, first), atol=1e-5)
    np.testing.assert_array_equal(features_ND, -features(swapped, llama, PAD, Execution(), alone))


def test_features_do_not_depend_on_micro_batches(llama: Path, alone: Workers) -> None:
    rows = Examples(tokens=texts())
    tight, roomy = (Execution(tokens_per_micro_batch=size) for size in (32, 100_000))
    np.testing.assert_array_equal(features(rows, llama, PAD, tight, alone), features(rows, llama, PAD, roomy, alone))


KNN = {"kind": "knn", "k": 5, "mode": "filter", "fraction": 0.6}


def chain_of(tiny: Tiny, *transforms: Mapping[str, Any], **method: object) -> Chain:
    """The tiny study's chain with these transforms of the large student's labels."""
    labels = {"large": {"transforms": transforms}} if transforms else {}
    asked = MethodSpec.model_validate({"labels": labels, **method})
    study = tiny.study.model_copy(update={"methods": {"asked": asked}})
    return Tiny(tiny.store, study, tiny.prepared).chain("asked")


def run(tiny: Tiny, alone: Workers, stages: tuple[PlannedStage, ...]) -> None:
    for stage in stages:
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())


def student_of(chain: Chain) -> PlannedStage:
    student = chain.find("chain", "large")
    assert student is not None
    return student


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, alone: Workers) -> Tiny:
    """A tiny study whose floor is trained already."""
    tiny = make_tiny(tmp_path_factory.mktemp("taught"))
    run(tiny, alone, tiny.chain("naive").stages[:1])
    return tiny


def weak_labels(tiny: Tiny, student: PlannedStage) -> dict[str, np.ndarray]:
    """The supervisor's predictions for the student's examples, by id."""
    labels = student.spec.train[0].labels
    assert isinstance(labels, WeakLabels)
    predictions = tiny.store.read_predictions(labels.predictions[0])
    return dict(zip(predictions.ids, predictions.probs_NC, strict=True))


@pytest.mark.parametrize(
    ("transforms", "num_learnt", "num_steps"),
    [
        ([{"kind": "keep_confident", "fraction": 0.5}], 50, 4),
        ([{"kind": "keep_random", "fraction": 0.5}], 50, 4),
        ([KNN], 60, 4),
        ([{"kind": "logistic", "mode": "filter", "fraction": 0.3}, {"kind": "harden"}], 30, 2),
        ([{"kind": "logistic", "mode": "relabel", "fraction": 0.3}], 100, 7),
        ([{"kind": "topological", "k": 15, "mode": "relabel"}], 100, 7),
        ([{"kind": "mix_ground_truth", "fraction": 0.5}], 100, 7),
        ([{"kind": "synthetic_errors"}], 100, 7),
        ([{"kind": "permute"}], 100, 7),
    ],
    ids=lambda value: value[0]["kind"] if isinstance(value, list) else "",
)
def test_a_stage_learns_and_stores_its_transformed_labels(
    taught: Tiny, alone: Workers, transforms: list[dict[str, Any]], num_learnt: int, num_steps: int
) -> None:
    chain = chain_of(taught, *transforms)
    run(taught, alone, (student_of(chain),))
    student = student_of(chain)
    record = taught.store.find(student.identity)
    assert record is not None and record.metrics["num_steps"] == num_steps
    lines = (taught.store.verify(record) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, num_steps + 1))
    rows_N, labels_NC = learnt(taught.store, taught.prepared, student.spec)
    assert len(rows_N) == num_learnt
    assert set(rows_N) <= set(rows_of_split(taught.prepared, student.spec.train[0].split))
    weak = weak_labels(taught, student)
    same = [np.array_equal(weak[id_], row) for id_, row in zip(taught.prepared.ids(rows_N), labels_NC, strict=True)]
    if all(transform["kind"] in ("keep_confident", "keep_random", "knn") for transform in transforms):
        assert all(same), "a filter changes no label"
    else:
        assert not all(same)


def test_a_filter_and_its_random_control_keep_equally_many_examples(taught: Tiny, alone: Workers) -> None:
    sizes = []
    for transforms in (
        [{"kind": "topological", "k": 15, "mode": "filter"}],
        [{"kind": "keep_random", "as_many_as": {"kind": "topological", "k": 15, "mode": "filter"}}],
    ):
        chain = chain_of(taught, *transforms)
        run(taught, alone, (student_of(chain),))
        sizes.append(set(learnt(taught.store, taught.prepared, student_of(chain).spec)[0].tolist()))
    assert len(sizes[0]) == len(sizes[1]) < 100 and sizes[0] != sizes[1]


def test_features_come_from_the_students_own_model_before_training(
    taught: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, Path]] = []

    def watched(examples: Examples, folder: Path, *others: Any, **settings: Any) -> FloatArray:
        seen.append((len(examples), folder))
        return features(examples, folder, *others, **settings)

    monkeypatch.setattr(inputs, "features", watched)
    student = student_of(chain_of(taught, {**KNN, "k": 6}))
    run(taught, alone, (student,))
    assert seen == [(100, Path(student.spec.starts_from.name))]


def test_features_are_computed_only_for_transforms_that_use_them(
    taught: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no transform needs features")

    monkeypatch.setattr(inputs, "features", refuse)
    run(taught, alone, (student_of(chain_of(taught, {"kind": "keep_confident", "fraction": 0.2})),))
    with pytest.raises(AssertionError, match="no transform needs features"):
        run(taught, alone, (student_of(chain_of(taught, {**KNN, "k": 7})),))


def test_workers_and_zero_stages_do_not_change_filtered_examples(taught: Tiny, alone: Workers, tmp_path: Path) -> None:
    chain = chain_of(taught, KNN)
    run(taught, alone, (student_of(chain),))
    student = student_of(chain)
    kept = taught.store.read_labels(student.identity)
    record = taught.store.find(student.identity)
    assert record is not None
    folder = taught.store.verify(record)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "record.json").unlink()
    execution = student.execution.model_copy(update={"zero_stage": 3, "tokens_per_micro_batch": 64})
    sharded = student.model_copy(update={"execution": execution, "predicts": ()})
    others = run_cases({"knn": sharded.model_dump_json()}, taught.store.root, 2, tmp_path, reset=False)
    np.testing.assert_allclose(others["knn"], losses, rtol=1e-5)
    assert taught.store.read_labels(student.identity).ids == kept.ids


@pytest.mark.parametrize("combine", ["mean", "vote", "weighted"])
def test_an_ensemble_of_supervisors_labels_a_student(taught: Tiny, alone: Workers, combine: str) -> None:
    chain = chain_of(taught, arms=["chain", "ceiling"], supervisors={"num": 3, "bagging": True, "combine": combine})
    run(taught, alone, chain.stages)
    floor, *members = (stage for stage in chain.stages if stage.arm in ("floor", "member"))
    assert len(members) == 2
    student = student_of(chain)
    members_NC = []
    for stage, predictions in zip((floor, *members), student.spec.train[0].labels.sources, strict=False):
        assert predictions in {prediction.identity for prediction in stage.predicts}
        kept = taught.store.read_predictions(predictions)
        members_NC.append(kept.probs_NC)
    assert not np.allclose(members_NC[0], members_NC[1]) and not np.allclose(members_NC[1], members_NC[2])
    for member in members:
        record = taught.store.find(member.identity)
        assert record is not None and record.metrics["num_steps"] == 4, "63 of 100 examples, 16 per step"
    _, labels_NC = learnt(taught.store, taught.prepared, student.spec)
    if combine == "mean":
        np.testing.assert_allclose(labels_NC, np.mean(members_NC, axis=0), rtol=1e-5)
    else:
        votes = {round(float(p), 4) for p in labels_NC[:, 1]}
        assert len(votes) <= (4 if combine == "vote" else 8)
    assert student.test_prediction is not None
    test = taught.store.read_predictions(student.test_prediction.identity)
    assert np.isfinite(test.probs_NC).all()


def test_synthetic_errors_have_the_accuracy_of_the_weak_labels(taught: Tiny, alone: Workers) -> None:
    chain = chain_of(taught, {"kind": "harden"}, {"kind": "synthetic_errors"})
    run(taught, alone, (student_of(chain),))
    student = student_of(chain)
    rows_N, labels_NC = learnt(taught.store, taught.prepared, student.spec)
    truth_N = taught.prepared.labels(rows_N)
    weak = weak_labels(taught, student)
    weak_NC = np.stack([weak[id_] for id_ in taught.prepared.ids(rows_N)])
    assert accuracy(labels_NC, truth_N) == accuracy(weak_NC, truth_N) < 1


def test_too_few_examples_for_a_transform_are_an_error(taught: Tiny, alone: Workers) -> None:
    chain = chain_of(
        taught, {"kind": "keep_random", "fraction": 0.03}, {"kind": "logistic", "mode": "filter", "fraction": 1}
    )
    with pytest.raises(W2SError, match="3 groups"):
        run(taught, alone, (student_of(chain),))


def test_reports_measure_learned_labels_not_the_supervisors_raw_labels(taught: Tiny, alone: Workers) -> None:
    chain = chain_of(taught, {"kind": "logistic", "mode": "relabel", "fraction": 0.1}, {"kind": "harden"})
    run(taught, alone, (student_of(chain),))
    student = student_of(chain)
    labelling = gather_chains((chain,), taught.store).labels[student.identity]
    rows_N, labels_NC = learnt(taught.store, taught.prepared, student.spec)
    assert labelling.num_examples == 100
    assert labelling.accuracy == accuracy(labels_NC, taught.prepared.labels(rows_N))
