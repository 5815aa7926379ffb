"""What students take over, per link: against values worked out by hand from nested models.

On the test set the floor is right on the first 60 %, the medium student on 65 %, the large one on 70 %, its ceiling on
80 %. So the large student mends 5 of the medium's 35 points of error, repeats 30, and makes no new one.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from synthetic import SyntheticStudy

from w2s_ray.report.arm_findings import ArmSummary, Link
from w2s_ray.report.results import read_results
from w2s_ray.report.summary import summarise
from w2s_ray.spec.chain import PlannedStage

Skill = Callable[[PlannedStage], float]


def arms_of(study: SyntheticStudy) -> dict[tuple[str, str], ArmSummary]:
    return {(arm.level, arm.label): arm for arm in summarise(study.study, study.resolution, study.store).arms}


def link_of(study: SyntheticStudy, level: str, label: str) -> Link:
    link = arms_of(study)[level, label].link
    assert link is not None
    return link


def phi(first_wrong: float, second_wrong: float, both_wrong: float) -> float:
    spread = first_wrong * (1 - first_wrong) * second_wrong * (1 - second_wrong)
    return (both_wrong - first_wrong * second_wrong) / math.sqrt(spread)


def test_errors_are_inherited_corrected_or_new(finished: SyntheticStudy) -> None:
    link = link_of(finished, "large", "chain · naive")
    assert link.supervisors == ("medium (chain)",) and link.split == "T2" and link.num_examples == 100
    assert link.agreement == pytest.approx(0.95, abs=2e-3)
    assert link.agreement_supervisor_right == 1 and link.new_errors == 0
    assert link.inherited == link.agreement_supervisor_wrong == pytest.approx(30 / 35, abs=5e-3)
    assert link.corrected == pytest.approx(5 / 35, abs=5e-3)
    worse = link_of(finished, "large", "chain · confident")  # right on 55 %
    assert worse.inherited == 1 and worse.corrected == 0
    assert worse.new_errors == pytest.approx(10 / 65, abs=5e-3)


def test_errors_correlate_along_the_chain_and_with_level_0(finished: SyntheticStudy) -> None:
    link = link_of(finished, "large", "chain · naive")
    assert link.error_correlation == pytest.approx(phi(0.35, 0.30, 0.30), abs=5e-3)
    assert link.error_correlation_first == pytest.approx(phi(0.40, 0.30, 0.30), abs=5e-3)
    first = link_of(finished, "medium", "chain = direct")
    assert first.error_correlation == first.error_correlation_first


def test_the_ceilings_agreement_with_the_supervisor_stands_beside_the_students(finished: SyntheticStudy) -> None:
    assert link_of(finished, "large", "chain · naive").ceiling_agreement == pytest.approx(0.85, abs=2e-3)
    assert link_of(finished, "large", "direct").ceiling_agreement == pytest.approx(0.80, abs=2e-3)


def test_labels_are_judged_by_what_was_learned_from(finished: SyntheticStudy) -> None:
    link = link_of(finished, "large", "chain · naive")
    assert link.label_accuracy == pytest.approx(0.65)
    assert link.label_majority_share == pytest.approx(0.5, abs=0.02) and not link.degenerate
    assert link.label_entropy_bits == pytest.approx(1, abs=1e-2)
    assert link.label_allowed_share is None and link.label_distinct_share is None


def test_trap_20_a_degenerate_supervisor_is_marked_at_its_link_and_at_no_other(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = synthetic()
    plain = study.predictions

    def constant_medium(stage: PlannedStage, spec: object, accuracy: float) -> tuple[list[str], np.ndarray]:
        ids, probs_NC = plain(stage, spec, accuracy)  # type: ignore[arg-type]
        return ids, np.tile([[0.9, 0.1]], (len(ids), 1)) if stage.level == "medium" else probs_NC

    monkeypatch.setattr(study, "predictions", constant_medium)
    study.finish(skill)
    large = link_of(study, "large", "chain")
    assert large.degenerate == {0: "100% are one class (entropy 0.00 bits)"} and large.label_entropy_bits == 0
    assert not link_of(study, "medium", "chain").degenerate


def test_several_supervisors_are_judged_as_the_one_that_they_are_together(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    """Of three voters right on 50, 60 and 70 % in nested order, the second decides."""
    study = synthetic(chains=[["small", "large"]], methods={"vote": {"supervisors": {"num": 3, "combine": "vote"}}})
    members = [stage.identity for stage in study.stages.values() if stage.level == "small"]
    skills = dict(zip(members, (0.5, 0.6, 0.7), strict=True))
    study.finish(lambda stage: skills.get(stage.identity, 0.8 if stage.arm == "ceiling" else 0.65))
    arms = arms_of(study)
    link = arms["large", "chain"].link
    assert link is not None and link.supervisors == ("small (floor)", "small (member)", "small (member)")
    assert link.label_accuracy == pytest.approx(0.6)
    assert link.agreement == pytest.approx(0.95, abs=2e-3)
    assert [label for level, label in arms if level == "small"] == ["floor", "member 1", "member 2"]
    floor, of_link = arms["large", "chain"].floor, arms["large", "chain"].pgr_link
    assert floor is not None and floor.value == pytest.approx(0.5, abs=1e-3), "level 0 alone"
    assert of_link is not None and of_link.value == pytest.approx((0.65 - 0.6) / (0.8 - 0.6), abs=0.02)


def test_what_a_student_rests_on_is_counted_in(finished: SyntheticStudy) -> None:
    arms = arms_of(finished)
    costs = {key: arms[key].cost for key in arms}
    own, chain, direct = (costs["large", "ceiling"], costs["large", "chain · naive"], costs["large", "direct"])
    assert own is not None and chain is not None and direct is not None
    assert (own.seconds, own.seconds_in_all, own.tokens, own.num_parameters) == (10, 10, 40000, 1000)
    assert (chain.seconds, chain.seconds_in_all, chain.tokens_in_all) == (10, 30, 120000), "floor, medium, large"
    assert direct.seconds_in_all == 20


def test_the_frame_has_the_same_figures(finished: SyntheticStudy) -> None:
    frame = read_results(finished.study, finished.resolution, finished.store)
    row = frame[(frame.method == "naive") & (frame.arm == "chain") & (frame.level == "large")].iloc[0]
    link = link_of(finished, "large", "chain · naive")
    for name in ("inherited", "corrected", "new_errors", "error_correlation", "ceiling_agreement", "label_accuracy"):
        assert row[name] == getattr(link, name), name
    assert row.seconds_in_all == 30 and row.num_parameters == 1000
