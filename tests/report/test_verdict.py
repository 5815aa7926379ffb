"""The verdict is true in every case: PGR undefined, negative, around 0 and positive; one and several students."""

from typing import Any

import pytest

from w2s_ray.report.findings import AcrossTasks, ArmSummary, Estimate
from w2s_ray.report.verdict import last_student, study_verdict, task_verdict

MIN_GAP = 0.02
REMEDY = "train longer, add data, or take models that know the task"


def around(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half)


def arm(label: str = "chain", *, level: str = "large", **fields: Any) -> ArmSummary:
    """A finished arm over one seed."""
    plain = {
        "task": "code",
        "level": level,
        "arm": label.partition(" ")[0],
        "also": (),
        "label": label,
        "methods": ("naive",),
        "paths": (("small", level),),
        "loss": "naive",
        "setting": "",
        "oracle": False,
        "stages": {0: "a"},
        "seeds": (0,),
        "pgr_seeds": (0,),
        "few_seeds": True,
        "accuracy": around(0.75, 0.02),
    }
    return ArmSummary.model_validate({**plain, **fields})


def student(
    label: str = "chain", pgr: float | None = 0.5, *, gap: float = 0.2, half: float = 0.1, **fields: Any
) -> ArmSummary:
    """A student with floor .7; without a PGR because of its gap where `pgr` is None."""
    return arm(
        label,
        **{
            "floor": around(0.7, 0.02),
            "ceiling": around(0.7 + gap, 0.02),
            "gap": around(gap, 0.03),
            "pgr": around(pgr, half) if pgr is not None else None,
            "pgr_undefined": "its lower 95 % bound is too low" if pgr is None else None,
            **fields,
        },
    )


def verdict(*arms: ArmSummary) -> tuple[str, str]:
    """The two sentences."""
    first, separator, second = task_verdict(arms, MIN_GAP).partition(". ")
    assert separator and second.endswith("."), "two sentences"
    return first, second


FLOOR = arm("floor", level="small")


def test_a_positive_pgr_is_given_with_its_gap() -> None:
    first, second = verdict(FLOOR, student("chain", 0.42))
    assert first == (
        "The large student (chain) recovers .42 [.32, .52] of the gap of .200 between floor (.700) and ceiling (.900)"
    )
    assert second == "With one seed the intervals do not cover other seeds."


def test_a_bound_near_0_has_a_third_digit() -> None:
    first, _ = verdict(FLOOR, student("chain", 0.102))
    assert "recovers .102 [.002, .202] of" in first


@pytest.mark.parametrize(
    ("others", "second"),
    [
        ((0.6,), "The other student does too (large direct 0, .60 [.50, .70])"),
        ((0.0,), "The other student does not"),
        ((0.6, 0.3, 0.0), "2 of 3 other students do too (the best, and so optimistic: large direct 0, .60 [.50, .70])"),
        ((0.6, 0.0), "1 of 2 other students does too (large direct 0, .60 [.50, .70])"),
        ((-0.3, 0.05), "None of 2 other students does"),
    ],
)
def test_the_other_students_are_counted_beside_a_positive_one(others: tuple[float, ...], second: str) -> None:
    arms = [student(f"direct {number}", pgr) for number, pgr in enumerate(others)]
    assert verdict(FLOOR, student("chain"), *arms)[1].startswith(second + ";")


def test_students_below_their_floor_recover_nothing() -> None:
    first, second = verdict(FLOOR, student("chain", -0.33), student("direct", -0.25))
    assert first == (
        "No student recovers any of the gap of .200 between floor (.700) and ceiling (.900): the PGR of the large "
        "student (chain) is −.33 [−.43, −.23]"
    )
    assert second.startswith("2 of 2 students end reliably below the floor;")


def test_one_student_below_its_floor_is_not_counted() -> None:
    first, second = verdict(FLOOR, student("chain", -0.33))
    assert first.startswith("No student recovers any of the gap") and second.startswith(
        "It is reliably below the floor;"
    )


def test_a_positive_pgr_whose_interval_contains_0_is_not_reliable() -> None:
    first, second = verdict(FLOOR, student("chain", 0.05), student("direct", -0.3))
    assert first.startswith("No student reliably recovers any of the gap of .200")
    assert second.startswith("1 of 2 students ends reliably below the floor;")


def test_another_student_that_recovers_is_named_after_one_that_does_not() -> None:
    first, second = verdict(FLOOR, student("chain", 0.05), student("direct", 0.4), student("direct 2", -0.4))
    assert first.startswith("The large student (chain) does not reliably recover any of the gap of .200")
    assert first.endswith("its PGR is .05 [−.05, .15]")
    assert second.startswith("1 of 2 other students does (large direct, .40 [.30, .50]);")


@pytest.mark.parametrize(
    ("gap", "wanted"),
    [
        (0.01, "The ceiling of large is not reliably above the floor (ceiling − floor = .010 [−.020, .040])"),
        (-0.1, "The ceiling of large is below the floor (ceiling − floor = −.100 [−.130, −.070])"),
        (0.04, "The gap between the floor and the ceiling of large is too small to measure a PGR"),
    ],
)
def test_without_a_sure_gap_there_is_nothing_to_recover(gap: float, wanted: str) -> None:
    first, _ = verdict(FLOOR, student("chain", None, gap=gap), student("direct", None, gap=gap))
    assert first.startswith(wanted) and first.endswith(REMEDY)


@pytest.mark.parametrize(
    "undefined",
    [
        student("chain", None, gap=0.2),
        arm("chain", pgr_undefined="its lower 95 % bound is too low"),
    ],
)
def test_any_other_reason_for_no_pgr_is_given_as_it_is(undefined: ArmSummary) -> None:
    first, _ = verdict(FLOOR, undefined)
    assert first == "The large student (chain) has no PGR: its lower 95 % bound is too low"


def test_students_below_their_untrained_models_are_counted() -> None:
    below = {"untrained": around(0.9), "above_untrained": around(-0.15, 0.03)}
    _, second = verdict(FLOOR, student("chain", **below), student("direct", above_untrained=around(-0.01, 0.03)))
    assert "; 1 student is reliably below the untrained model;" in second


def test_several_seeds_and_open_arms_are_part_of_the_verdict() -> None:
    _, second = verdict(FLOOR, student("chain", pgr_seeds=(0, 1, 2)), arm("ceiling", accuracy=None))
    assert second == "The figures are means over 3 seeds; 1 of 3 arms are not finished."


def test_a_study_without_a_finished_student_has_no_result() -> None:
    assert task_verdict([FLOOR, arm("ceiling")], MIN_GAP) == ""
    assert (
        task_verdict([FLOOR, arm("chain", accuracy=None)], MIN_GAP)
        == "No student is finished, so there is no result yet."
    )


def test_the_verdict_is_about_the_longest_chain_and_never_an_oracle() -> None:
    short = student("chain · a", paths=(("small", "large"),))
    long = student("chain · b", paths=(("small", "medium", "large"),))
    oracle = student("chain · c", oracle=True, paths=(("small", "medium", "large"),))
    arms = [FLOOR, student("chain", level="medium"), student("direct"), oracle, short, long, arm("self", level="small")]
    assert last_student(arms) is long
    assert last_student([FLOOR, oracle]) is oracle and "oracle" in verdict(FLOOR, oracle)[1]
    assert last_student([FLOOR]) is None


def test_an_oracle_is_not_among_the_others() -> None:
    _, second = verdict(FLOOR, student("chain"), student("direct", 0.9, oracle=True))
    assert second == "With one seed the intervals do not cover other seeds."


def test_several_tasks_are_counted_by_their_last_students() -> None:
    across = AcrossTasks(
        level="large",
        arm="chain",
        label="chain",
        oracle=False,
        few_seeds=True,
        accuracy=around(0.7),
        pgrs={"a": 0.4, "b": 0.1, "c": None},
        median=0.3,
        num_undefined=1,
        pooled=around(0.3),
        pooled_undefined=None,
        num_pooled=3,
    )
    tasks = {"a": [FLOOR, student("chain", 0.4)], "b": [FLOOR, student("chain", 0.05)], "c": [student("chain", None)]}
    assert study_verdict(tasks, [across]) == (
        "Of 3 tasks, the last student reliably recovers part of the gap on 1 (a), does not on 1 (b) and has no PGR on "
        "1 (c). The PGR of large, pooled over 3 tasks, is .30 [.20, .40]."
    )
    none = study_verdict({"b": tasks["b"], "c": tasks["c"]}, [across.model_copy(update={"pooled": None})])
    assert none.startswith("The last student reliably recovers part of the gap on none of 2 tasks.")
    assert "pooled over the tasks, is undefined" in none
    assert study_verdict({"a": [FLOOR]}, []) == ""
