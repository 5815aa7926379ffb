"""The view without a terminal, and the errors of an outcome."""

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.scheduling.status import EventKind, PlainView, StageEvent, StudyStatus
from w2s_ray.scheduling.study import ChainOutcome, StudyOutcome
from w2s_ray.spec.chain import distinct_stages


def test_without_a_terminal_each_stage_prints_two_lines() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    long, short, unseen = list(distinct_stages(chains_of(small_study())).values())[:3]
    for done, events in (
        (0, (StageEvent(EventKind.ASSIGNED, long, 0),)),
        (0, ()),
        (
            2,
            (
                StageEvent(EventKind.ENDED, long, 1),
                StageEvent(EventKind.ASSIGNED, short, 0),
                StageEvent(EventKind.ENDED, short, 1),
            ),
        ),
        (2, (StageEvent(EventKind.ENDED, unseen, 1),)),  # a worker group that died before the stage reached it
    ):
        view.update(StudyStatus(events=events, num_done=done, num_stages=3))
    assert [line.split()[0] for line in lines] == ["started", "ended", "started", "ended"]
    assert "2/3 done" in lines[-1]


def test_without_a_terminal_the_step_from_which_a_stage_continues_is_printed() -> None:
    lines: list[str] = []
    stage = chains_of(small_study())[0].stages[0]
    PlainView(lines.append).update(StudyStatus(events=(StageEvent(EventKind.RESUMED, stage, 0, step=28),)))
    assert lines[0].startswith("resumed ") and lines[0].endswith("from step 28")


def test_without_a_terminal_the_reason_why_the_run_waits_is_printed_once() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    for notice in ("waiting for another run", "waiting for another run", ""):
        view.update(StudyStatus(notice=notice))
    assert lines == ["waiting for another run"]


def test_chains_that_failed_for_one_reason_are_one_error() -> None:
    outcomes = {"a": ("failed", "full"), "b": ("done", None), "c": ("failed", "full"), "d": ("failed", "lost")}
    outcome = StudyOutcome({name: ChainOutcome(*ended) for name, ended in outcomes.items()})  # type: ignore[arg-type]
    assert outcome.errors == ["failed: a, c\nfull", "failed: d\nlost"]


def test_a_chain_of_a_sweep_that_failed_is_named_with_its_values() -> None:
    outcome = StudyOutcome({"a-p1": ChainOutcome("failed", "full", label="a-p1 (learning_rate 0.1)")})
    assert outcome.errors == ["failed: a-p1 (learning_rate 0.1)\nfull"]


def test_without_a_terminal_a_stage_that_fails_is_named_with_its_error() -> None:
    lines: list[str] = []
    view = PlainView(lines.append)
    stage = chains_of(small_study())[0].stages[0]
    failures = {stage.identity: "the loss is nan\n  hint: lower the rate"}
    view.update(StudyStatus(events=(StageEvent(EventKind.ASSIGNED, stage, 0),)))
    view.update(StudyStatus(events=(StageEvent(EventKind.ENDED, stage, 1),), num_failed=1, failures=failures))
    assert lines[1].startswith("failed ") and "1 failed" in lines[1] and lines[2] == "  the loss is nan"
