"""The command line: help, and errors before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, environment, fails, w2s
from w2s_ray.cli.main import app
from w2s_ray.cli.terminal import MAX_ROWS

VERBS = ("plan", "run", "status", "report", "export", "submit", "logs", "gc", "doctor", "tasks", "bench")
HEAVY = ("torch", "ray", "transformers", "pandas", "numpy", "pyarrow", "wandb", "pydantic")


def test_help_names_every_verb() -> None:
    done = w2s("--help")
    assert done.code == 0
    for verb in VERBS:
        assert f" {verb} " in done.out


def test_help_imports_neither_torch_nor_ray_nor_another_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['w2s', '--help']\n"
        "from w2s_ray.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {name.partition(".")[0] for name in done.stderr.split()} & set(HEAVY)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help_text(verb: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("laddr.small=2", "did you mean 'ladder'?"),
        ("seeds=zero", "seeds"),
        ("ladder={small: models/small}", "small"),
        ("ladder.small.model=./none", "does not exist"),
        ("ladder.small.model=w2s:smal", "did you mean w2s:small?"),
        ("ladder.small.pad_token=<none>", "is not a token"),
        ("tasks.moods.files=none.jsonl", "none.jsonl"),
        ("tasks.moods.text=sentense", "sentense"),
        ("tasks.moods.classes=[up, sideways]", "unknown label 'down'"),
        ("splits.train_examples=100000", "100000"),
        ("tasks.moods.test_examples=5000", "test_examples"),
        ("tasks.moods.builtin=code_continuation", "exactly one of builtin, hub, files"),
        ("nonsense", "path.to.key=value"),
    ],
)
def test_an_error_in_the_study_is_reported_before_anything_runs(
    home: Path, tmp_path: Path, override: str, part: str
) -> None:
    done = w2s("plan", "tiny.yaml", "--store", tmp_path, "--set", override, cwd=home)
    fails(done, 2, part)
    assert all(line.startswith("store ") for line in done.out.splitlines())


def test_a_missing_study_file_is_reported(tmp_path: Path) -> None:
    fails(w2s("run", tmp_path / "none.yaml"), 2, "none.yaml")


def test_a_study_that_is_not_yaml_is_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: [unclosed")
    fails(w2s("run", tmp_path / "bad.yaml"), 2, "bad.yaml")


def test_a_store_that_cannot_be_written_is_reported(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(w2s("run", "tiny.yaml", "--store", tmp_path / "file" / "store", cwd=home), 2, "store")


def test_reading_from_a_missing_store_is_reported(home: Path, tmp_path: Path) -> None:
    fails(w2s("status", "tiny.yaml", "--store", tmp_path / "none", cwd=home), 2, "none")


def test_more_workers_than_the_machine_has_are_refused(home: Path, tmp_path: Path) -> None:
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--set", "ladder.large.execution.workers=500", cwd=home)
    fails(done, 2, "500 workers", "log:")


def test_an_address_without_a_cluster_is_refused(home: Path, tmp_path: Path) -> None:
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--address", "127.0.0.1:1", cwd=home)
    fails(done, 2, "127.0.0.1:1")


def test_very_large_studies_need_yes(home: Path, tmp_path: Path) -> None:
    values = ", ".join(f"{number / 1e6:g}" for number in range(1, 401))
    space = f"{{optimisation.learning_rate: [{values}], optimisation.weight_decay: [{values}]}}"
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--set", f"search={{space: {space}}}", cwd=home)
    fails(done, 2, "320,000 chains", "100,000", "--yes")


def test_a_long_list_is_cut_and_its_rest_is_counted(home: Path, tmp_path: Path) -> None:
    seeds = f"seeds=[{', '.join(map(str, range(120)))}]"
    done = w2s("plan", "tiny.yaml", "--store", tmp_path, "--set", seeds, cwd=home)
    assert done.code == 0 and "… and 40 more chains" in done.out
    assert sum(" → " in line for line in done.out.splitlines()) == MAX_ROWS


def test_an_unexpected_error_is_one_line_with_its_traceback_in_a_log(home: Path) -> None:
    code = (
        "import sys; from w2s_ray.cli import main, plan\n"
        "def broken(*_a, **_k): raise ZeroDivisionError('a bug')\n"
        "plan.print_plan = broken; sys.argv = ['w2s', 'plan', 'tiny.yaml']; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home, env=environment())
    assert done.returncode == 1
    first, second = done.stderr.strip().splitlines()
    assert first == "unexpected ZeroDivisionError: a bug"
    log = Path(second.split()[-1])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_threads_that_ray_leaves_running_do_not_change_the_exit_code() -> None:
    code = (
        "import atexit, os, sys, types; sys.modules['ray'] = types.ModuleType('ray'); atexit.register(os.abort)\n"
        "from w2s_ray.cli.main import main; sys.argv = ['w2s', 'plan', sys.argv[1]]; main()"
    )
    for file, expected in (("no-such.yaml", 2), ("--help", 0)):
        ended = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
        assert ended.returncode == expected, ended.stderr
        assert ended.stdout or ended.stderr
