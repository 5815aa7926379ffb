"""Parts of the command that need no run."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from tests.cli.conftest import ROOT, Done, command, environment, fails, w2s
from tests.scheduling.dispatcher.test_dispatcher import commit
from tests.scheduling.studies import chains_of, small_study
from w2s_ray import read_results
from w2s_ray.cli.inputs import describe, find_stage, import_file
from w2s_ray.cli.run import SMOKE_STEPS, _exit_code, _print_trained, shrink
from w2s_ray.cli.status import stage_status
from w2s_ray.cli.submit import STUDY_NAME, _client, _submit, entrypoint, pack
from w2s_ray.cli.terminal import bytes_text, count_text, seconds_text, terminal
from w2s_ray.errors import DataError, ResourceError, StoreError, StudyError
from w2s_ray.planning.estimate import num_steps
from w2s_ray.planning.resolve import resolve
from w2s_ray.scheduling.session import PASSED_ON
from w2s_ray.scheduling.study import StudyOutcome
from w2s_ray.spec import losses
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.checks import check_together
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.places import find_files
from w2s_ray.training.memory.usage import ALLOCATOR


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (300 * 2**20, "300 MiB"), (3 * 2**40, "3.0 TiB"), (None, "?")],
)
def test_bytes_have_a_unit(amount: int | None, text: str) -> None:
    assert bytes_text(amount) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(0.2, "0 s"), (89, "89 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (None, "?")]
)
def test_seconds_have_a_unit(amount: float | None, text: str) -> None:
    assert seconds_text(amount) == text


def test_a_stage_that_failed_in_the_last_run_is_shown_as_failed(store: ArtifactStore) -> None:
    floor, student, *_ = chains_of(small_study())[0].stages
    errors = {floor.identity: "no room", student.identity: "no room"}
    commit(store, student)
    shown = [stage_status(store, stage, "", errors) for stage in (floor, student)]
    assert [(status.state, status.error) for status in shown] == [("failed", "no room"), ("done", None)]
    assert stage_status(store, floor, "", {}).state == "waiting"


def test_counts_have_a_noun() -> None:
    assert [count_text(count, "stage") for count in (0, 1, 2)] == ["0 stages", "1 stage", "2 stages"]


def test_a_stage_is_found_by_the_first_digits_of_its_identity() -> None:
    chains = chains_of(small_study())
    for identity, stage in distinct_stages(chains).items():
        assert find_stage(chains, identity[:12]) == stage
        assert find_stage(chains, identity) == stage


def test_a_stage_is_found_by_its_place() -> None:
    chains = chains_of(small_study(seeds=[0, 7]))
    stage = find_stage(chains, "chain:l:half:7")
    assert stage.spec.loss.label == "confidence0.5"
    assert stage == find_stage(chains, "chain:l:7:half") == find_stage(chains, "chain:l:half:7:code")


@pytest.mark.parametrize("name", ["chain:l", "chain:m", "floor:l", "abc", "chain:l:other", "ffffffffffff"])
def test_a_name_of_no_stage_or_several_lists_the_candidates(name: str) -> None:
    chains = chains_of(small_study())
    with pytest.raises(StudyError) as found:
        find_stage(chains, name)
    assert "chain:l:half:0" in found.value.hint


def test_every_description_finds_its_stage_again() -> None:
    chains = chains_of(
        small_study(
            methods={"naive": {"arms": ["chain", "ceiling"]}, "half": {"losses": {"l": {"kind": "confidence"}}}}
        )
    )
    for stage in distinct_stages(chains).values():
        digits, place = describe(chains, stage).rstrip(")").split(" (")
        assert find_stage(chains, digits) == find_stage(chains, place) == stage


def test_a_snapshot_after_an_early_stop_is_not_exported(home: Path, tmp_path: Path) -> None:
    study, store = load_study(home / "tiny.yaml", ["optimisation.keep_at=[0.1,0.5]"]), ArtifactStore(tmp_path / "store")
    floor = compile_study(study, resolve(study, store))[0].stages[0]
    folder = store.begin("stage", floor.spec.slug, floor.identity)
    for name in ("model", "ages/0.1"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps({"kept": name}))
    metrics = {"num_steps": 40.0, "planned_steps": 100.0}
    store.commit(
        kind="stage", slug=floor.spec.slug, spec=floor.spec, identity=floor.identity, parents=(), metrics=metrics
    )

    def exported(share: str) -> Done:
        arguments = ("floor:small", tmp_path / share, "--at", share, "--set", "optimisation.keep_at=[0.1,0.5]")
        return w2s("export", "tiny.yaml", *arguments, "--store", store.root, cwd=home)

    fails(exported("0.5"), 2, "step 40 of 100", "kept 0.1")
    fails(exported("0.3"), 2, "0.3", "kept 0.1")
    assert exported("0.1").code == 0
    assert json.loads((tmp_path / "0.1" / "config.json").read_text())["kept"] == "ages/0.1"


def test_a_run_whose_search_chose_nothing_fails_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=text))
    failed = Candidate(point=Point.of({"optimisation.epochs": 1}), status="failed", error="the loss is nan")
    assert _exit_code(StudyOutcome({}, search=SearchResult(candidates=(failed,), winners=()))) == 1
    assert "of 1, 1 failed" in text.getvalue() and "the loss is nan" in text.getvalue()


def test_failed_stages_are_not_counted_as_in_the_store(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(terminal, "out", Console(file=text))
    chains = chains_of(small_study(methods={"naive": {}}))
    floor, *_ = stages = tuple(distinct_stages(chains).values())
    for stage in (floor, stages[1]):
        commit(store, stage)
    _print_trained(StudyOutcome({}, trained=(floor.identity,)), chains, store)
    assert "finished 1 of 3 stages; sharing saved 0 trainings; 1 was in the store already" in text.getvalue()


LOSS = "methods.bound.losses.l.kind"


def test_a_smoke_study_has_two_steps_per_stage_for_any_batch_size() -> None:
    study = small_study(
        optimisation={"epochs": 7, "early_stopping": {}},
        ladder={
            "s": {"model": "w2s:small", "optimisation": {"examples_per_step": 5}},
            "l": {"model": "w2s:large", "optimisation": {"examples_per_step": 32}},
        },
    )
    stages = distinct_stages(chains_of(shrink(study))).values()
    assert {num_steps(stage, 50.0) for stage in stages} == {SMOKE_STEPS}
    assert all(stage.spec.optimisation.early_stopping.every_steps == 1 for stage in stages)  # type: ignore[union-attr]


def test_a_smoke_study_keeps_enough_examples_for_its_methods() -> None:
    near = {"kind": "knn", "mode": "relabel", "fraction": 0.5}
    study = small_study(
        optimisation={"examples_per_step": 8, "early_stopping": {}},
        methods={
            "near": {"labels": {"l": {"transforms": [{"kind": "keep_random", "fraction": 0.5}, near]}}},
            "bound": {"oracle": ["l"]},
            "read": {"generative": {"l": {"epochs": 9, "examples_per_step": 8}}},
        },
        splits={"train_examples": 500, "validation_examples": 20},
        search={
            "space": {"splits.train_examples": [300, 400], "ladder.l.optimisation.epochs": [9], LOSS: ["hard", "naive"]}
        },
    )
    small = shrink(study)
    assert small.search is not None and list(small.search.space) == [LOSS]
    check_together(small)
    stages = distinct_stages(chains_of(small)).values()
    assert {num_steps(stage, 50.0) for stage in stages} == {1, SMOKE_STEPS}, (
        "one step if half of the examples are dropped"
    )


def test_a_smoke_study_drops_a_search_over_sizes_only() -> None:
    assert shrink(small_study(search={"space": {"splits.train_examples": [300, 400]}})).search is None


def test_a_smoke_study_keeps_the_execution_settings() -> None:
    study = small_study()
    assert [level.execution for level in shrink(study).ladder.values()] == [
        level.execution for level in study.ladder.values()
    ]


def test_library_output_goes_to_the_log_and_our_lines_to_the_terminal(tmp_path: Path) -> None:
    code = (
        "import os, sys, subprocess; from pathlib import Path\n"
        "from w2s_ray.cli.terminal import terminal\n"
        f"terminal.capture(Path({str(tmp_path / 'logs' / 'x.log')!r}))\n"
        "print('from python'); os.write(1, b'from C\\n'); os.write(2, b'an error from C\\n')\n"
        "subprocess.run(['echo', 'from a child'])\n"
        "print('to stderr', file=sys.stderr)\n"
        "terminal.out.print('our line'); terminal.err.print('our error')\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "our line\n"
    assert done.stderr == "our error\n"
    log = (tmp_path / "logs" / "x.log").read_text()
    for line in ("from python", "from C", "an error from C", "from a child", "to stderr", "after"):
        assert line in log


def test_messages_of_a_run_are_printed_and_logged(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from w2s_ray.cli.run import _print_and_log; from w2s_ray.cli.terminal import terminal\n"
        f"terminal.capture(Path({str(tmp_path / 'run.log')!r})); _print_and_log('`wandb sync` sends them later')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == (tmp_path / "run.log").read_text() == "`wandb sync` sends them later\n"


def test_a_file_that_is_imported_registers_losses_for_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_own", {})
    file = tmp_path / "json.py"  # the name of another module
    file.write_text(
        "from w2s_ray import register_loss\ndef half(logits, labels, progress): return logits\nregister_loss('h', half)"
    )
    import_file(file)
    study = small_study(methods={"m": {"losses": {"l": {"kind": "own", "name": "h"}}}})
    losses.check_registered(study.methods["m"].loss_of("l"))
    assert "def half" in study.methods["m"].loss_of("l").model_dump()["source"]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("none.py", None, "none.py is not a Python file"),
        ("own.txt", "", "own.txt is not a Python file"),
        ("own.py", "a = 1\nb = c", "line 2: NameError"),
        ("own.py", "raise SystemExit(0)", "SystemExit: 0"),
        ("own.py", "a = (", "SyntaxError"),
        ("own.py", "from w2s_ray import register_loss; register_loss('h', lambda: 0)", "<lambda>"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(tmp_path: Path, name: str, text: str | None, part: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(StudyError, match=re.escape(part)):
        import_file(tmp_path / name)


def test_a_job_runs_the_packed_study() -> None:
    plain = f"w2s run {STUDY_NAME} --store '/my store' --address auto"
    assert entrypoint("/my store", retry_failed=False, yes=False) == plain
    assert entrypoint("/my store", retry_failed=True, yes=True) == f"{plain} --retry-failed --yes"
    own = entrypoint("/my store", retry_failed=False, yes=False, imports=[Path("folder/own.py")])
    assert own == plain.replace("w2s run", "w2s --import own.py run")


def test_packing_copies_files_with_relative_paths(home: Path, tmp_path: Path) -> None:
    (home / "elsewhere").mkdir(exist_ok=True)
    raw = yaml.safe_load((home / "tiny.yaml").read_text())
    raw["tasks"]["moods"]["files"] = "../moods.jsonl"
    raw["ladder"]["small"] = "../models/small"
    raw["ladder"]["large"]["model"] = "w2s:large"
    (home / "elsewhere" / "moved.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    pack(home / "elsewhere" / "moved.yaml", tmp_path)
    study = load_study(tmp_path / STUDY_NAME)
    packed = tmp_path / "data" / "moods" / "files" / "moods.jsonl"
    assert study.tasks["moods"].files == str(packed)
    assert packed.read_text() == (home / "moods.jsonl").read_text()
    assert study.ladder["small"].model == str(tmp_path / "models" / "small" / "model" / "small")
    assert study.ladder["large"].model == "w2s:large"


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_packing_keeps_files_with_equal_names_apart(kind: str, tmp_path: Path) -> None:
    text = "{name: x, tasks: {t: {files: train/rows.jsonl, test_files: test/rows.jsonl, text: a, label: b}}, "
    text += "ladder: {s: w2s:small, l: w2s:large}}"
    for key in ("train", "test"):
        rows = tmp_path / "from" / key / "rows.jsonl"
        rows = rows / "part.jsonl" if kind == "folders" else rows
        rows.parent.mkdir(parents=True)
        rows.write_text(key)
    (tmp_path / "from" / "study.yaml").write_text(text)
    pack(tmp_path / "from" / "study.yaml", tmp_path / "to")
    task = load_study(tmp_path / "to" / STUDY_NAME).tasks["t"]
    for key, path in (("train", task.files), ("test", task.test_files)):
        assert path is not None
        assert (Path(path) / "part.jsonl" if kind == "folders" else Path(path)).read_text() == key


@pytest.mark.parametrize("test_files", ["rows/t*/*", "rows/t*"], ids=["of files", "of folders"])
def test_packing_copies_lists_and_patterns(tmp_path: Path, test_files: str) -> None:
    for name in ("a.jsonl", "b.jsonl", "deep/er/c.jsonl", "deep/d.txt", "test/e.jsonl"):
        path = tmp_path / "from" / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    text = "{name: x, tasks: {t: {files: [rows/a.jsonl, 'rows/deep/**/*.jsonl'], text: a, "
    (tmp_path / "from" / "study.yaml").write_text(
        f"{text}test_files: '{test_files}', label: b}}}}, ladder: {{s: w2s:small, l: w2s:large}}}}"
    )
    pack(tmp_path / "from" / "study.yaml", tmp_path / "to")
    task = load_study(tmp_path / "to" / STUDY_NAME).tasks["t"]
    assert task.files is not None
    files = find_files(task.files, task.test_files)
    assert [path.read_text() for path in files.pool] == ["a.jsonl", "deep/er/c.jsonl"]
    assert [path.read_text() for path in files.test] == ["test/e.jsonl"]
    assert all(path.is_relative_to(tmp_path / "to") for path in (*files.pool, *files.test))
    assert len([path for path in (tmp_path / "to").rglob("*") if path.is_file()]) == 4


def test_packing_copies_files_that_overrides_name(home: Path, tmp_path: Path) -> None:
    (home / "beside").mkdir(exist_ok=True)
    (home / "other.jsonl").write_text((home / "moods.jsonl").read_text())
    raw = yaml.safe_load((home / "tiny.yaml").read_text())
    (home / "beside" / "tiny.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    overrides = ["tasks.moods.files=../other.jsonl", "ladder.small.model=../models/small", "seeds=[0, 1]"]
    overrides.append("ladder.large=w2s:large")
    pack(home / "beside" / "tiny.yaml", tmp_path, overrides)
    study = load_study(tmp_path / STUDY_NAME)
    assert study.tasks["moods"].files == str(tmp_path / "data" / "moods" / "files" / "other.jsonl")
    assert (Path(study.ladder["small"].model) / "config.json").is_file() and study.seeds == (0, 1)
    assert (tmp_path / "data" / "moods" / "files" / "other.jsonl").is_file()


def test_packing_leaves_absolute_paths_alone(home: Path, tmp_path: Path) -> None:
    raw = yaml.safe_load((home / "tiny.yaml").read_text())
    raw["tasks"]["moods"]["files"] = str(home / "moods.jsonl")
    raw["ladder"] = {"small": "w2s:small", "large": "w2s:large"}
    (home / "absolute.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    pack(home / "absolute.yaml", tmp_path)
    assert [file.name for file in tmp_path.rglob("*")] == [STUDY_NAME]


def test_packing_refuses_too_much_data(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_ray.cli.submit.MAX_UPLOAD_BYTES", 1000)
    with pytest.raises(DataError, match="1000 B"):
        pack(home / "tiny.yaml", tmp_path)


def test_a_job_gets_the_keys_from_the_submitting_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def submit_job(self, **job: Any) -> str:
            return json.dumps(job["runtime_env"]["env_vars"])

    for name in PASSED_ON:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://ours")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    variables = _submit(Client(), "w2s run", "folder", "tiny")  # type: ignore[arg-type]
    assert json.loads(variables) == {"WANDB_BASE_URL": "https://ours", "WANDB_ENTITY": "us"} | ALLOCATOR


def test_packing_a_linked_study_copies_the_files_beside_its_target(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link.yaml").symlink_to(home / "tiny.yaml")
    pack(tmp_path / "link.yaml", tmp_path / "to")
    assert (tmp_path / "to" / "data" / "moods" / "files" / "moods.jsonl").is_file()


def test_an_address_without_http_is_refused_at_once() -> None:
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:1"):
        _client("127.0.0.1:1")


def test_an_unknown_stage_name_lists_at_most_20_stages() -> None:
    chains = chains_of(
        small_study(
            methods={f"m{n}": {"losses": {"l": {"kind": "confidence", "alpha_max": n / 40}}} for n in range(40)}
        )
    )
    with pytest.raises(StudyError) as refused:
        find_stage(chains, "abcdef")
    assert refused.value.hint.count(";") == 20 and "22 more" in refused.value.hint


def test_submitting_without_a_cluster_is_refused(home: Path) -> None:
    fails(w2s("submit", "tiny.yaml", "--address", "http://127.0.0.1:1", "--store", "/s", cwd=home), 2, "127.0.0.1:1")


def test_a_job_needs_an_absolute_store(home: Path) -> None:
    done = w2s("submit", "tiny.yaml", "--address", "http://127.0.0.1:1", "--store", "w2s-store", cwd=home)
    fails(done, 2, "--store w2s-store", "absolute path")


def test_the_doctor_checks_this_machine_and_leaves_no_folder(tmp_path: Path) -> None:
    done = w2s("doctor", "--store", tmp_path / "new" / "a[/b]c" / "store")
    assert done.code == 0, done.out
    for subject in ("Python", "torch", "memory", "store", "W&B"):
        assert subject in done.out
    assert "a[/b]c" in done.out
    assert not (tmp_path / "new").exists()


def test_output_survives_odd_encodings_and_widths() -> None:
    odd = environment() | {"COLUMNS": "0", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command("tasks"), capture_output=True, env=odd, cwd=ROOT)
    assert done.returncode == 0 and b"hh_rlhf" in done.stdout
    assert b"nothing.yaml" in subprocess.run(command("plan", "nothing.yaml"), capture_output=True, env=odd).stderr


def test_reading_results_from_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mistyped"):
        read_results(small_study(), tmp_path / "mistyped")
    assert not (tmp_path / "mistyped").exists()
