"""A run by the command, and the other verbs on its store."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.cli.conftest import Ran, command, environment, fails, stage_rows, w2s
from w2s_ray import load_study, read_results
from w2s_ray.planning.resolve import locked
from w2s_ray.spec.compile import compile_study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import clear_run_status, write_run_status

NUM_STAGES = 4
"""Floor; chain = direct; chain with the confidence loss; ceiling."""


def test_a_run_succeeds(ran: Ran) -> None:
    assert ran.done.code == 0, ran.done.err + ran.log


def test_only_our_own_lines_reach_the_terminal(ran: Ran) -> None:
    starts = "store |preparing |checking |models predict |started |ended |finished |written:"
    ours = re.compile(rf"({starts}|  \S|warning| *$)")
    report = set(ran.w2s("report").out.splitlines())
    for line in ran.done.out.splitlines():
        assert line in report or ours.match(line), line
    assert ran.done.err == ""


def test_each_stage_prints_a_line_when_it_starts_and_when_it_ends(ran: Ran) -> None:
    lines = ran.done.out.splitlines()
    assert sum(line.startswith("started ") for line in lines) == NUM_STAGES
    assert sum(line.startswith("ended ") for line in lines) == NUM_STAGES
    assert f"finished {NUM_STAGES} of {NUM_STAGES} stages; sharing saved 2 trainings" in lines


def test_the_files_that_a_run_lists_exist(ran: Ran) -> None:
    lines = ran.done.out.splitlines()
    files = [ran.home / line.strip() for line in lines[lines.index("written:") + 1 :]]
    assert {"report.html", "results.json", "accuracy.png", "study.yaml"} <= {file.name for file in files}
    assert all(file.stat().st_size for file in files)


def test_the_study_in_the_store_is_the_one_that_ran(ran: Ran) -> None:
    kept, own = load_study(ran.store / "studies" / "tiny" / "study.yaml"), load_study(ran.home / "tiny.yaml")
    assert kept.model_dump() == own.model_dump()


def test_a_second_run_trains_nothing(ran: Ran) -> None:
    before = ran.attempts()
    assert len(before) == NUM_STAGES and set(before.values()) == {1}
    done = ran.w2s("run")
    assert done.code == 0
    assert f"nothing to train: the store has {NUM_STAGES} stages of 2 chains" in done.out
    assert ran.attempts() == before


def test_the_plan_of_a_finished_study_has_everything_in_the_store(ran: Ran) -> None:
    plan = json.loads(ran.w2s("plan", "--json").out)
    assert plan["num_to_train"] == 0
    assert (plan["num_chain_stages"], plan["num_shared"]) == (6, 2)
    assert all(stage["in_store"] and not stage["missing_predictions"] for stage in plan["stages"])
    assert not any(stage["other_versions"] for stage in plan["stages"])


def test_status_counts_the_stages(ran: Ran) -> None:
    done = ran.w2s("status")
    assert f"{NUM_STAGES} of {NUM_STAGES} stages done" in done.out
    assert len(stage_rows(done.out)) == NUM_STAGES
    statuses = json.loads(ran.w2s("status", "--json").out)
    assert {status["state"] for status in statuses} == {"done"}
    assert {status["steps"] for status in statuses} == {4}


def test_status_shows_worker_groups_and_why_stages_wait(ran: Ran) -> None:
    study, store = load_study(ran.home / "tiny.yaml"), ArtifactStore(ran.store)
    write_run_status(
        ("group 1: 1 worker, training large",), {"chain:large": "its labels are not there yet"}, study, store
    )
    try:
        lines = ran.w2s("status").out.splitlines()
    finally:
        clear_run_status(study, store)
    assert lines[-2:] == ["group 1: 1 worker, training large", "waiting: chain:large: its labels are not there yet"]
    assert "waiting:" not in ran.w2s("status").out


def test_the_report_is_a_table_and_json_and_a_page(ran: Ran) -> None:
    assert "ceiling" in ran.w2s("report").out
    summary = json.loads(ran.w2s("report", "--format", "json").out)
    assert summary["study"] == "tiny" and summary["num_stages_finished"] == NUM_STAGES
    pages = ran.w2s("report", "--format", "html").out.split()
    assert any(page.endswith("report.html") and Path(page).is_file() for page in pages)


def test_results_are_a_data_frame(ran: Ran) -> None:
    study = load_study(ran.home / "tiny.yaml")
    students = read_results(study, ran.store)
    assert set(students.arm) == {"chain", "direct"}
    stages = read_results(study, ran.store, per="stage")
    assert set(stages.arm) == {"floor", "chain", "direct", "ceiling"}
    assert stages.stage.nunique() == NUM_STAGES


def test_logs_show_the_steps_of_a_stage(ran: Ran) -> None:
    floor = next(name for name in ran.attempts() if name.startswith("small-S"))
    digest = floor.rpartition("-")[2]
    done = w2s("logs", digest[:6], "--store", ran.store, "-n", "2", cwd=ran.home)
    assert ".log" in done.out and "MiB between stages" in done.out, "its log is printed"
    assert done.code == 0 and "started: " in done.out
    assert [line.split()[0] for line in done.out.splitlines()[-2:]] == ["3", "4"]
    by_name = w2s("logs", "floor:small", "--study", "tiny.yaml", "--store", ran.store, "--json", cwd=ran.home)
    assert [json.loads(line)["step"] for line in by_name.out.splitlines()] == [1, 2, 3, 4]
    named = ("logs", "floor:small", "--study", "tiny.yaml", "--store", ran.store)
    fails(w2s(*named, "--set", "seeds=[9]", cwd=ran.home), 2, "floor:small")


def test_an_exported_model_predicts_what_its_stage_predicted(ran: Ran, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    target = tmp_path / "model"
    assert ran.w2s("export", "chain:large:confident", target).code == 0
    model = AutoModelForSequenceClassification.from_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(target)

    study, store = load_study(ran.home / "tiny.yaml"), ArtifactStore(ran.store)
    chain = next(each for each in compile_study(study, locked(study, store)) if each.method == "confident")
    stage = chain.find("chain", "large")
    assert stage is not None and stage.test_prediction is not None
    names = locked(study, store).tasks[stage.task].class_names
    assert model.config.id2label == dict(enumerate(names)) and names[0] != "LABEL_0"
    kept = store.read_predictions(stage.test_prediction.identity)
    texts = _texts(store, stage.spec.train[0].split.task)
    batch = tokenizer([texts[id_] for id_ in kept.ids], padding=True, return_tensors="pt")
    with torch.no_grad():
        probs_NC = model(**batch).logits.softmax(-1).numpy()
    np.testing.assert_allclose(probs_NC, kept.probs_NC, atol=1e-5)


def test_an_export_has_a_model_card_and_the_permissions_of_new_files(ran: Ran, tmp_path: Path) -> None:
    target, before = tmp_path / "exported", os.umask(0o027)
    try:
        assert ran.w2s("export", "chain:large:confident", target).code == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (target, *target.rglob("*"))}
    assert modes.pop("exported") == 0o750 and set(modes.values()) == {0o640}
    _, head, body = (target / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "text-classification" and "base_model" not in yaml.safe_load(head)
    record = next(json.loads(path.read_text()) for path in ran.store.glob("artifacts/*conf*/record.json"))
    for part in ("tiny", "chain", "down, up", "learning rate | 0.01", record["identity"]):
        assert part in body
    assert str(ran.home) not in body


def test_another_file_of_the_same_name_is_warned_about_before_it_runs(ran: Ran) -> None:
    other = ran.home / "other.yaml"
    other.write_text((ran.home / "tiny.yaml").read_text() + "seeds: [5]\n")
    done = w2s("plan", other, "--store", ran.store, cwd=ran.home)
    store, warning, *_ = done.out.splitlines()
    assert store == f"store {ran.store} ({NUM_STAGES} stages)"
    assert warning.startswith("warning") and str(ran.home / "tiny.yaml") in warning and str(other) in warning
    fails(ran.w2s("report", "--version", "1"), 2, "no former version 1")


def test_a_stage_named_by_its_place_needs_its_study(ran: Ran) -> None:
    fails(w2s("logs", "chain:large", "--store", ran.store), 2, "--study", "identity")


def test_a_snapshot_is_exported_by_its_share_of_training(ran: Ran, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    assert ran.w2s("export", "floor:small", tmp_path / "last").code == 0
    assert ran.w2s("export", "floor:small", tmp_path / "half", "--at", "0.5").code == 0
    last, half = (load_file(tmp_path / name / "model.safetensors") for name in ("last", "half"))
    assert last.keys() == half.keys() and not all((last[name] == half[name]).all() for name in last)
    fails(ran.w2s("export", "floor:small", tmp_path / "x", "--at", "0.3"), 2, "0.5", "keep_at: [0.3]")


def test_an_export_overwrites_nothing(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    fails(ran.w2s("export", "floor:small", tmp_path), 2, str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_an_ambiguous_name_lists_the_matching_stages(ran: Ran, tmp_path: Path) -> None:
    fails(ran.w2s("export", "chain:large", tmp_path / "x"), 2, "2 stages", "chain:large:confident:0")


def test_a_damaged_artifact_is_not_exported(ran: Ran, tmp_path: Path) -> None:
    floor = next(name for name in ran.attempts() if name.startswith("small-S"))
    weights = ran.store / "artifacts" / floor / "model" / "model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert ran.w2s("export", "floor:small", tmp_path / "x").code == 2
        assert not (tmp_path / "x").exists()
    finally:
        weights.write_bytes(whole)


def test_gc_finds_nothing_in_a_store_whose_studies_name_everything(ran: Ran) -> None:
    done = w2s("gc", "--store", ran.store, cwd=ran.home)
    assert done.code == 0 and "nothing to remove" in done.out


def test_gc_asks_before_it_removes(ran: Ran) -> None:
    left = ran.store / "artifacts" / "large-T9-gt-naive-0123456789ab"
    (left / "checkpoints").mkdir(parents=True)
    (left / "checkpoints" / "weights").write_bytes(b"0" * 5000)
    done = subprocess.run(
        command("gc", "--store", ran.store), input="n\n", capture_output=True, text=True, env=environment()
    )
    assert "unfinished" in done.stdout and "nothing was removed" in done.stdout
    assert left.exists()
    assert "removed 4.9 KiB" in w2s("gc", "--yes", "--store", ran.store).out
    assert not left.exists()


def test_new_report_settings_train_nothing(ran: Ran) -> None:
    done = ran.w2s("run", "--set", "report.min_gap=0.5", "--set", "report.bootstrap_samples=50")
    assert "nothing to train" in done.out


@pytest.fixture(scope="module")
def interrupted(ran: Ran) -> tuple[str, int, Ran]:
    """A longer study on a terminal, stopped with Ctrl-C in its large stage: screen, exit code and study."""
    arguments = [*LONG, "--store", ran.home / "stopped"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command("run", "tiny.yaml", *arguments),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        cwd=ran.home,
        env={**environment(), "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it in background jobs
    )
    os.close(follower)
    screen = ""
    asked = False
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if select.select([leader], [], [], 0.5)[0]:
            try:
                screen += os.read(leader, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        if not asked and re.search(r"large.*?\b\d+/4000", screen):
            asked = True
            os.killpg(process.pid, signal.SIGINT)
    os.close(leader)
    return screen, process.wait(timeout=30), Ran(ran.home, ran.done)


LONG = ("--set", "name=long", "--set", "ladder.large.optimisation.epochs=1000")


def test_the_first_ctrl_c_stops_with_a_checkpoint_and_prints_how_to_resume(interrupted: tuple[str, int, Ran]) -> None:
    screen, code, ran = interrupted
    assert code == 1, screen[-2000:]
    assert "stopping at the next step, with a checkpoint" in screen
    assert "Traceback" not in screen
    assert re.search(r"resume with: .* run tiny\.yaml .*--store", screen.replace("\r\n", " "))
    assert list((ran.home / "stopped").glob("artifacts/large-*/checkpoints/*"))


def test_the_live_view_shows_the_running_stage(interrupted: tuple[str, int, Ran]) -> None:
    screen, _, _ = interrupted
    assert "tokens/s" in screen
    assert re.search(r"1/4 stages done · 2 shared · [123] running · [012] waiting", screen)


def test_status_shows_a_stopped_stage(interrupted: tuple[str, int, Ran]) -> None:
    ran = interrupted[2]
    done = w2s("status", "tiny.yaml", *LONG, "--json", "--store", ran.home / "stopped", cwd=ran.home)
    states = [status["state"] for status in json.loads(done.out)]
    assert states.count("done") == 1 and "stopped" in states and "running" not in states


def test_a_smoke_run_takes_two_steps_of_every_stage_and_leaves_no_store(ran: Ran) -> None:
    before = {file.name for file in ran.home.iterdir()}
    done = w2s("run", "tiny.yaml", "--smoke", "--set", "ladder.large.optimisation.epochs=500", cwd=ran.home)
    assert done.code == 0, done.err
    assert f"smoke: {NUM_STAGES} of {NUM_STAGES} stages took their few steps" in done.out
    assert {file.name for file in ran.home.iterdir()} == before


def _texts(store: ArtifactStore, fingerprint: str) -> dict[str, str]:
    from w2s_ray.data.prepare import load_prepared

    table = load_prepared(store, fingerprint).table()
    return dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
