"""The live view: one line per running stage and one line of counts."""

from rich.console import Console

from w2s_ray.cli.live import LiveView, status_lines
from w2s_ray.scheduling.status import RunningStage, StudyStatus

RUNNING = RunningStage(
    identity="a" * 64,
    arm="chain",
    level="large",
    task="code",
    loss_name="confidence0.5",
    activity="training",
    step=12,
    num_steps=90,
    loss=0.6931,
    tokens_per_second=3412.4,
    seconds_left=75.2,
)


def shown(status: StudyStatus) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(status_lines(status))
    return capture.get()


def test_a_running_stage_is_one_line_with_its_numbers() -> None:
    text = shown(StudyStatus(running=(RUNNING,), num_done=2, num_waiting=4, num_shared=3, num_stages=7))
    (line,) = [line for line in text.splitlines() if "chain" in line]
    for part in ("large", "code", "confidence0.5", "12/90", "3,412", "0.6931", "1:15"):
        assert part in line
    assert "2/7 stages done · 3 shared · 1 running · 4 waiting" in text


def test_unknown_numbers_are_left_out() -> None:
    loading = RunningStage("b" * 64, "floor", "small", "code", "naive", activity="loading")
    text = shown(StudyStatus(running=(loading,), num_failed=1))
    assert "loading" in text
    assert "1 failed" in text
    assert "None" not in text


def test_before_the_first_stage_the_worker_group_is_shown() -> None:
    assert "group-1, 2 workers: opening" in shown(StudyStatus(groups=("group-1, 2 workers: opening",)))


def test_the_reason_why_a_run_waits_is_shown() -> None:
    assert "another run" in shown(StudyStatus(notice="waiting for another run"))


def test_the_live_view_takes_updates(capsys: object) -> None:
    with LiveView(Console(force_terminal=True, width=100)) as view:
        view.update(StudyStatus(running=(RUNNING,)))
        view.update(StudyStatus())
