"""The JSON lines tracker, the fan-out, and the ids of runs."""

import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from tests.tracking.null_tracker import NullTracker
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.study import Study, TrackingSpec
from w2s_ray.tracking.fanout import POINTS, Fanout, open_tracker
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import RunInfo, Tracker, chain_run, stage_run, stage_run_id


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_resumed_run_appends_to_its_json_lines(tmp_path: Path, info: RunInfo) -> None:
    for step in (1, 2):
        tracker = JsonLinesTracker(tmp_path / "points")
        tracker.begin(info)
        tracker.begin(info)
        tracker.log(info.run_id, step, {"loss": 0.5 / step})
        if step == 2:
            tracker.finish(info.run_id, {"accuracy": 0.75}, ended_well=True)
        tracker.close()
    lines = lines_of(tmp_path / "points" / f"{info.run_id}.jsonl")
    assert [line["kind"] for line in lines] == ["run", "point", "run", "point", "summary"]
    assert [line["step"] for line in lines if line["kind"] == "point"] == [1, 2]
    assert lines[0]["config"] == info.settings and lines[0]["tags"] == list(info.tags)
    assert lines[-1]["values"] == {"accuracy": 0.75}


def test_a_stopped_run_has_no_summary(tmp_path: Path, info: RunInfo) -> None:
    for summary, ended_well in (({}, False), ({"accuracy": 0.75}, True)):
        tracker = JsonLinesTracker(tmp_path)
        tracker.begin(info)
        tracker.finish(info.run_id, summary, ended_well=ended_well)
    assert [line["kind"] for line in lines_of(tmp_path / f"{info.run_id}.jsonl")] == ["run", "run", "summary"]


def test_values_that_are_not_finite_become_null(tmp_path: Path, info: RunInfo) -> None:
    tracker = JsonLinesTracker(tmp_path)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": float("nan"), "lr": 0.1})
    tracker.close()
    assert lines_of(tmp_path / f"{info.run_id}.jsonl")[1]["values"] == {"loss": None, "lr": 0.1}


def test_a_torn_line_of_a_killed_writer_does_not_damage_the_next(tmp_path: Path, info: RunInfo) -> None:
    path = tmp_path / f"{info.run_id}.jsonl"
    path.write_text('{"kind": "point", "st')
    tracker = JsonLinesTracker(tmp_path)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    readable = path.read_text().splitlines()
    assert [json.loads(line)["kind"] for line in readable] == ["run", "point"]


def test_metrics_of_an_unknown_run_are_dropped(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "points")
    tracker.log("unknown", 1, {"loss": 0.5})
    tracker.finish("unknown", {}, ended_well=True)
    assert not (tmp_path / "points").exists()


class Broken(NullTracker):
    """A tracker with a full disk."""

    def log(self, run_id: str, step: int, values: object) -> None:
        raise OSError("no space left on device")


def test_a_failing_tracker_does_not_stop_the_others(tmp_path: Path, info: RunInfo) -> None:
    lines: list[str] = []
    tracker = Fanout([Broken(), JsonLinesTracker(tmp_path)], lines.append)
    tracker.begin(info)
    for step in (1, 2):
        tracker.log(info.run_id, step, {"loss": 0.5})
    tracker.finish(info.run_id, {}, ended_well=True)
    tracker.close()
    assert len(lines_of(tmp_path / f"{info.run_id}.jsonl")) == 4
    assert len(lines) == 1 and "Broken has lost metrics: no space left on device" in lines[0]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_study_gets_json_lines_and_wandb_unless_disabled(mode: str, tmp_path: Path, info: RunInfo) -> None:
    factory = partial(open_tracker, TrackingSpec.model_validate({"wandb": mode}), tmp_path)
    tracker: Tracker = pickle.loads(pickle.dumps(factory))([].append)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    assert (tmp_path / POINTS / f"{info.run_id}.jsonl").exists()
    assert bool(list(tmp_path.glob("wandb/offline-run-*"))) == (mode == "offline")


def test_run_ids_depend_on_content_only(study: Study, resolution: object) -> None:
    first, again = (compile_study(study, resolution) for _ in range(2))  # type: ignore[arg-type]
    assert [chain_run(chain) for chain in first] == [chain_run(chain) for chain in again]
    ids = {chain_run(chain).run_id for chain in first}
    stages = {
        stage.identity: stage_run(study.name, stage, ["a", "b", "a"]) for chain in first for stage in chain.stages
    }
    assert len(ids) == len(first) and not ids & {run.run_id for run in stages.values()}
    for identity, run in stages.items():
        assert run.run_id == stage_run_id(identity) and identity.startswith(run.run_id)
        assert run.tags == ("a", "b") and run.group == study.name
        assert run.settings["spec"]["optimisation"]["learning_rate"] > 0
    assert {run.job_type for run in stages.values()} == {"floor", "chain", "ceiling"}
