"""The data frame: a row per stage of a chain, from real records, with figures that are known beforehand."""

from collections.abc import Callable
from typing import Any

import pytest
from synthetic import SyntheticStudy

from w2s_ray.errors import DataError
from w2s_ray.report.results import COLUMNS, is_oracle, read_results
from w2s_ray.report.summary import summarise
from w2s_ray.report.wording import contest, marked_label, ours, seed_mark
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.labels import GroundTruth
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import EarlyStopping

Skill = Callable[[PlannedStage], float]


def test_each_stage_of_each_chain_has_a_row_with_its_figures(finished: SyntheticStudy) -> None:
    frame = read_results(finished.study, finished.resolution, finished.store)
    assert tuple(frame.columns[: len(COLUMNS)]) == COLUMNS
    assert len(frame) == 7 + 5, "the naive chain's seven stages and the confident chain's five"
    floors = frame[frame.arm == "floor"]
    assert len(floors) == 2 and floors.stage.nunique() == 1, "a shared stage stands under each chain"
    num = frame.num_test.iloc[0]
    assert floors.accuracy.tolist() == pytest.approx([round(0.6 * num) / num] * 2)
    chain = frame[(frame.method == "naive") & (frame.arm == "chain") & (frame.level == "large")].iloc[0]
    assert chain.accuracy == pytest.approx(0.7, abs=1e-3)
    # The supervisor is right on the first 65 %, the student on the first 70 %: they differ on 5 %, all of them errors.
    assert chain.agreement == pytest.approx(0.95, abs=1e-3)
    assert chain.agreement_supervisor_right == 1.0
    assert chain.agreement_supervisor_wrong == pytest.approx(0.30 / 0.35, abs=1e-2)
    assert chain.label_accuracy == pytest.approx(0.65)
    assert chain.ece == pytest.approx(0.1, abs=1e-3), "sure of 80 %, right in 70 %"
    assert (chain.seconds, chain.tokens_per_second, chain["train/num_steps"]) == (10.0, 4000.0, 50.0)
    assert not frame.oracle.any()


def test_a_floor_has_no_supervisor_and_no_agreement(finished: SyntheticStudy) -> None:
    frame = read_results(finished.study, finished.resolution, finished.store)
    truth = frame[frame.arm.isin(["floor", "ceiling"])]
    assert truth[["supervisor", "agreement", "label_accuracy"]].isna().all(axis=None)


def test_what_is_not_finished_is_absent(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic()
    assert read_results(study.study, study.resolution, study.store).empty
    study.finish(skill, leave_out=lambda stage: stage.level == "large")
    frame = read_results(study.study, study.resolution, study.store)
    assert set(frame.level) == {"small", "medium"}


@pytest.mark.parametrize("change", ["one missing", "one more", "one replaced"])
def test_a_stage_judged_on_other_examples_is_an_error(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, change: str
) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.arm == "ceiling" and stage.level == "large")
    (odd,) = (stage for stage in study.stages.values() if stage.arm == "ceiling" and stage.level == "large")
    assert odd.test_prediction is not None
    ids, probs_NC = study.predictions(odd, odd.test_prediction, 0.8)
    other = next(id_ for id_ in (f"e{n}" for n in range(4000)) if id_ not in set(ids))
    if change == "one missing":
        ids, probs_NC = ids[1:], probs_NC[1:]
    elif change == "one more":
        ids, probs_NC = [*ids, other], probs_NC[[*range(len(ids)), 0]]
    else:
        ids = [other, *ids[1:]]
    study.store.write_predictions(odd.test_prediction, ids, probs_NC)
    with pytest.raises(DataError, match=r"test predictions of large \(ceiling"):
        read_results(study.study, study.resolution, study.store)


def test_the_order_of_stored_predictions_does_not_matter(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.arm == "floor")
    (floor,) = (stage for stage in study.stages.values() if stage.arm == "floor")
    assert floor.test_prediction is not None
    ids, probs_NC = study.predictions(floor, floor.test_prediction, 0.6)
    study.store.write_predictions(floor.test_prediction, ids[::-1], probs_NC[::-1])
    frame = read_results(study.study, study.resolution, study.store)
    assert frame[frame.arm == "floor"].accuracy.iloc[0] == pytest.approx(0.6, abs=1e-3)


def test_a_student_stopped_by_ground_truth_is_an_oracle(finished: SyntheticStudy) -> None:
    student = next(stage for stage in finished.stages.values() if stage.arm == "chain")
    assert student.spec.validation is not None
    truth = student.spec.validation.model_copy(update={"labels": GroundTruth()})
    stopping = student.spec.optimisation.model_copy(update={"early_stopping": EarlyStopping()})
    spec = student.spec.model_copy(update={"validation": truth, "optimisation": stopping})
    oracle = student.model_copy(update={"spec": spec})
    study = finished.study
    stages = finished.stages
    assert is_oracle(study, stages, oracle) and not is_oracle(study, stages, student)
    ceiling = next(stage for stage in finished.stages.values() if stage.arm == "ceiling")
    spec = ceiling.spec.model_copy(update={"optimisation": stopping})
    stopped = ceiling.model_copy(update={"spec": spec})
    assert not is_oracle(study, stages, stopped), "ground truth is the ceiling's own"
    search = SearchSpec.model_validate({"space": {"splits.train_examples": [1, 2]}, "choose_by": "oracle"})
    chosen = study.model_copy(update={"search": search})
    assert is_oracle(chosen, stages, student), "its settings were chosen by ground truth"


STOPPED: dict[str, Any] = {
    "optimisation": {"early_stopping": {}},
    "methods": {"naive": {"arms": ["chain", "direct", "ceiling"], "oracle": ["medium"]}},
}
MIXED: dict[str, Any] = {
    "methods": {
        "naive": {
            "arms": ["chain", "direct", "ceiling"],
            "labels": {"medium": {"transforms": [{"kind": "mix_ground_truth", "fraction": 0.5}]}},
        }
    }
}


@pytest.mark.parametrize("keys", [STOPPED, MIXED])
def test_trap_14_whoever_learns_from_an_oracle_is_one(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, keys: dict[str, Any]
) -> None:
    study = synthetic(**keys)
    study.finish(skill)
    frame = read_results(study.study, study.resolution, study.store)
    marked = {(row.arm, row.level) for row in frame[frame.oracle].itertuples()}
    assert marked == {("chain", "medium"), ("direct", "medium"), ("chain", "large")}, "large learns from medium"
    arms = summarise(study.study, study.resolution, study.store).arms
    assert [(arm.arm, arm.level) for arm in arms if arm.oracle] == [("chain", "medium"), ("chain", "large")]


def test_every_table_marks_oracles_and_few_seeds(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    reference = {"source": "them", "setting": "theirs", "figure": "accuracy", "values": {"naive": 0.7}}
    study = synthetic(
        tasks=("easy", "harder"),
        chains=[["small", "large"], ["small", "medium", "large"]],
        methods={**MIXED["methods"], "plain": {"arms": ["chain", "direct", "ceiling"]}},
        report={
            "bootstrap_samples": 200,
            "compare": [["naive", "plain"], ["plain/chain", "plain/direct"]],
            "references": [reference],
        },
    )
    study.finish(skill)
    found = summarise(study.study, study.resolution, study.store)
    oracles = {(arm.task, arm.level, arm.label) for arm in found.arms if arm.oracle}
    assert 0 < len(oracles) < sum(arm.is_student for arm in found.arms)
    for rows in (found.across, found.steps):
        assert {row.oracle for row in rows} == {True, False} and all(row.seed_conditional for row in rows)
    for step in found.steps:
        assert step.oracle == ((step.task, step.level, step.label) in oracles)
    for pair in found.comparisons:
        assert pair.oracle == any((pair.task, pair.level, name) in oracles for name in (pair.first, pair.second))
    assert [row.oracle for row in found.declared] == [True, False] and found.references[0].oracle
    shown = [marked_label(row) + seed_mark(row) for row in (*found.across, *found.steps)]
    assert sum(label.endswith(" (oracle)†") for label in shown) == sum(
        row.oracle for row in (*found.across, *found.steps)
    )
    assert contest(found.declared[0]).endswith("(oracle)") and ours(found.references[0]).startswith(".")
    assert "(oracle)" in ours(found.references[0])


def test_a_truth_chain_is_an_oracle_and_a_chain_beside_it_is_none(synthetic: Callable[..., SyntheticStudy]) -> None:
    """A probe's full ceiling comes first and is the same stage as the intermediate that learned the truth."""
    probe = {"trainable": {"medium": {"kind": "probe"}}}
    study = synthetic(methods={"probe": probe, "plain": {"arms": ["chain", "truth_chain", "ceiling"]}})
    study.finish(lambda stage: 0.7)
    frame = read_results(study.study, study.resolution, study.store)
    assert set(frame[frame.oracle].arm) == {"truth_chain"}
