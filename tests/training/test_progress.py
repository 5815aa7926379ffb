import json
import os
from pathlib import Path

from w2s_ray.training.progress import Journal, NullObserver, StageProgress


def test_a_history_is_rewritten_beside_the_old_one_so_that_a_killed_worker_loses_none(tmp_path: Path) -> None:
    history, old = tmp_path / "history.jsonl", tmp_path / "old"
    history.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo')
    os.link(history, old)
    before = old.read_text()
    Journal("identity", history, NullObserver(), 10).resume_at(3)
    assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == [1, 2, 3]
    assert old.read_text() == before


def test_a_stage_reports_the_step_from_which_it_continues(tmp_path: Path) -> None:
    class Reports(NullObserver, list[StageProgress]):
        report = list.append

    reports = Reports()
    for step in (0, 28):
        Journal("identity", tmp_path / "none.jsonl", reports, 40).resume_at(step)
    assert [(report.activity, report.step, report.saved_step) for report in reports] == [("loading", 28, 28)]
