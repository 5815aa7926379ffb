"""The real W&B client with a stub server and without one."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from stub_server import StubServer

from w2s_ray.spec.study import TrackingSpec
from w2s_ray.tracking.tracker import RunInfo
from w2s_ray.tracking.wandb import MAX_TAG_CHARS, WandbTracker, choose_mode, fit_tag, has_key


@pytest.fixture(autouse=True)
def fresh_service(no_account: None) -> Iterator[None]:
    """Start a new service process per test, because it remembers the server."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def messages() -> list[str]:
    return []


def tracker_of(folder: Path, messages: list[str], mode: str = "auto", timeout: float = 2.0) -> WandbTracker:
    spec = TrackingSpec(wandb=mode, project="w2s_ray", entity="us")
    return WandbTracker(spec, folder, init_timeout_seconds=timeout, finish_timeout_seconds=timeout, say=messages.append)


def read_run(folder: Path) -> list[dict[str, Any]]:
    """The records of an offline run folder, read with W&B's own reader."""
    (path,) = folder.glob("*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The history of an offline run folder, without W&B's own keys."""
    items = [record["history"]["item"] for record in read_run(folder) if record["type"] == "history"]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]


def offline_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def sync(folder: Path) -> None:
    command = [str(Path(sys.executable).parent / "wandb"), "sync", "--yes", "--include-online"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=True)


def test_a_stage_is_one_run_with_metrics_and_configuration(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.log(info.run_id, 3, {"loss": 0.25})
    tracker.finish(info.run_id, {"accuracy": 0.75}, ended_well=True)
    tracker.close()
    assert messages == []
    assert server.history(info.run_id) == [{"loss": 0.5, "step": 1}, {"loss": 0.25, "step": 3}]
    run = server.runs[info.run_id]
    assert run["complete"] and run["exitcode"] == 0 and run["summary"]["accuracy"] == 0.75
    assert (run["project"], run["entity"], run["groupName"], run["jobType"]) == ("w2s_ray", "us", "demo", "floor")
    assert run["tags"] == list(info.tags)
    config = json.loads(run["config"])
    assert config["spec"]["value"] == {"loss": {"kind": "naive"}}
    defined = {metric.get("1") or metric.get("2"): metric for metric in config["_wandb"]["value"]["m"]}
    assert set(defined) == {"step", "*"}, "step is a defined metric, and the x-axis of all others"
    assert defined["*"]["5"] == 1


def test_a_resumed_stage_continues_its_run(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    for steps in ((1, 2), (3,)):
        tracker = tracker_of(tmp_path, messages)
        tracker.begin(info)
        for step in steps:
            tracker.log(info.run_id, step, {"loss": 1 / step})
        tracker.close()
        wandb.teardown()
    assert list(server.runs) == [info.run_id]
    assert [line["step"] for line in server.history(info.run_id)] == [1, 2, 3]
    assert [line["_step"] for _, line in sorted(server.runs[info.run_id]["history"].items())] == [0, 1, 2]
    assert messages == []


def test_a_run_that_is_cut_short_is_not_marked_finished(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    assert server.runs[info.run_id]["complete"] and server.runs[info.run_id]["exitcode"] == 1


@pytest.mark.parametrize(("summary", "kept"), [({}, None), ({"failed": 1.0}, 1.0)])
def test_a_stopped_or_failed_run_is_closed_with_exit_code_1(
    summary: dict[str, float],
    kept: float | None,
    server: StubServer,
    tmp_path: Path,
    info: RunInfo,
    messages: list[str],
) -> None:
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.finish(info.run_id, summary, ended_well=False)
    run = server.runs[info.run_id]
    assert run["complete"] and run["exitcode"] == 1 and run["summary"].get("failed") == kept


def test_a_stopped_stage_continues_its_run_and_finishes_it(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    tracker = tracker_of(tmp_path, messages)
    for step, ended_well in ((1, False), (2, True)):
        tracker.begin(info)
        tracker.log(info.run_id, step, {"loss": 1 / step})
        tracker.finish(info.run_id, {"accuracy": 0.75} if ended_well else {}, ended_well=ended_well)
    run = server.runs[info.run_id]
    assert list(server.runs) == [info.run_id] and [line["step"] for line in server.history(info.run_id)] == [1, 2]
    assert run["exitcode"] == 0 and run["summary"]["accuracy"] == 0.75 and messages == []


def test_several_runs_are_open_at_once(server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]) -> None:
    runs = [info.model_copy(update={"run_id": f"run{number}"}) for number in range(4)]
    tracker = tracker_of(tmp_path, messages)
    for run in runs:
        tracker.begin(run)
    for step in range(3):
        for number, run in enumerate(runs):
            tracker.log(run.run_id, step, {"loss": float(number)})
    tracker.close()
    assert {run_id: len(server.history(run_id)) for run_id in server.runs} == {run.run_id: 3 for run in runs}
    assert all(server.history(run.run_id)[0]["loss"] == number for number, run in enumerate(runs))


def test_without_a_key_runs_are_kept_in_the_folder(tmp_path: Path, info: RunInfo, messages: list[str]) -> None:
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info)
    tracker.log(info.run_id, 7, {"loss": 0.5})
    tracker.finish(info.run_id, {"accuracy": 0.75}, ended_well=True)
    (folder,) = offline_folders(tmp_path)
    assert metrics_of(folder) == [{"loss": 0.5, "step": 7}]
    records = read_run(folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_id"], run["run_group"], run["job_type"]) == (info.run_id, "demo", "floor")
    assert {"name": "step", "options": {"defined": True}} in [r["metric"] for r in records if r["type"] == "metric"]
    assert messages == [], "`auto` without a key means offline: no message"


def test_wandb_sync_uploads_a_stage_resumed_offline_as_one_run(
    tmp_path: Path, info: RunInfo, messages: list[str], request: pytest.FixtureRequest
) -> None:
    for steps in ((1, 2), (3,)):
        tracker = tracker_of(tmp_path, messages)
        tracker.begin(info)
        for step in steps:
            tracker.log(info.run_id, step, {"loss": 1 / step})
        tracker.close()
        wandb.teardown()
        time.sleep(1.1)  # the names of run folders have one-second resolution
    assert len(offline_folders(tmp_path)) == 2
    server = request.getfixturevalue("server")
    sync(tmp_path)
    assert list(server.runs) == [info.run_id]
    assert [line["step"] for line in server.history(info.run_id)] == [1, 2, 3]
    assert [line["_step"] for _, line in sorted(server.runs[info.run_id]["history"].items())] == [0, 1, 2]


def test_a_refusing_server_costs_a_bounded_wait_and_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    began = time.monotonic()
    tracker = tracker_of(tmp_path, messages)
    for number in range(3):
        run = info.model_copy(update={"run_id": f"run{number}"})
        tracker.begin(run)
        tracker.log(run.run_id, 1, {"loss": 0.5})
    tracker.close()
    assert time.monotonic() - began < 10
    assert len(messages) == 1 and "wandb sync" in messages[0]
    folders = offline_folders(tmp_path)
    assert [metrics_of(folder) for folder in folders] == [[{"loss": 0.5, "step": 1}]] * 3


def test_an_unresponsive_server_costs_a_bounded_wait(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    server.answering.clear()
    began = time.monotonic()
    tracker = tracker_of(tmp_path, messages, timeout=2.0)
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    assert time.monotonic() - began < 15
    assert len(messages) == 1
    assert metrics_of(offline_folders(tmp_path)[0]) == [{"loss": 0.5, "step": 1}]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # threads of the client
def test_a_server_that_stops_responding_delays_neither_metrics_nor_the_end(
    server: StubServer, tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    runs = [info.model_copy(update={"run_id": f"run{number}"}) for number in range(3)]
    tracker = tracker_of(tmp_path, messages, timeout=2.0)
    for run in runs:
        tracker.begin(run)
        tracker.log(run.run_id, 1, {"loss": 0.5})
    server.answering.clear()
    began = time.monotonic()
    for step in range(2, 200):
        tracker.log(runs[0].run_id, step, {"loss": 0.5})
    assert time.monotonic() - began < 2, "metrics never wait for the server"
    tracker.finish(runs[0].run_id, {"accuracy": 0.5}, ended_well=True)
    tracker.log(runs[1].run_id, 2, {"loss": 0.25})
    tracker.close()
    assert time.monotonic() - began < 20
    assert len(messages) == 1
    later = {folder.name.split("-")[-1]: metrics_of(folder) for folder in offline_folders(tmp_path)}
    assert later == {"run0": [], "run1": [{"loss": 0.25, "step": 2}]}, "later metrics are kept offline"
    wandb.teardown()
    server.answering.set()
    sync(tmp_path)
    assert [line["step"] for line in server.history("run0")] == list(range(1, 200)), "nothing was lost"
    assert [line["step"] for line in server.history("run1")] == [1, 2]
    assert server.runs["run0"]["summary"]["accuracy"] == 0.5


def test_a_run_without_metrics_leaves_nothing(tmp_path: Path, info: RunInfo, messages: list[str]) -> None:
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info)
    tracker.log("another run", 1, {"loss": 0.5})
    tracker.finish(info.run_id, {}, ended_well=True)
    tracker.close()
    tracker.close()
    assert not (tmp_path / "wandb").exists()


def test_a_long_tag_is_shortened_and_stays_unique(server: StubServer, tmp_path: Path, info: RunInfo) -> None:
    messages: list[str] = []
    long = tuple("very-long-task-name-" * 4 + end for end in "ab")
    tracker = tracker_of(tmp_path, messages)
    tracker.begin(info.model_copy(update={"tags": long}))
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    tags = server.runs[info.run_id]["tags"]
    assert messages == [] and len(set(tags)) == 2 and {len(tag) for tag in tags} == {MAX_TAG_CHARS}
    assert fit_tag("short") == "short"
    assert json.loads(server.runs[info.run_id]["config"])["chains"]["value"] == list(long)


def test_auto_is_online_if_there_is_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    auto = TrackingSpec()
    assert not has_key() and choose_mode(auto) == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "b" * 40 + "\n")
    assert has_key() and choose_mode(auto) == "online"
    (tmp_path / "netrc").write_text("machine elsewhere.org login user password " + "b" * 40 + "\n")
    assert choose_mode(auto) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "c" * 40)
    assert choose_mode(auto) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode(auto) == "offline", "WANDB_MODE overrides auto"
    assert choose_mode(TrackingSpec(wandb="online")) == "online", "the study overrides WANDB_MODE"


def test_online_without_a_key_falls_back_to_offline_with_one_message(
    tmp_path: Path, info: RunInfo, messages: list[str]
) -> None:
    tracker = tracker_of(tmp_path, messages, mode="online")
    tracker.begin(info)
    tracker.log(info.run_id, 1, {"loss": 0.5})
    tracker.close()
    assert len(messages) == 1 and "key" in messages[0]
    assert len(offline_folders(tmp_path)) == 1
