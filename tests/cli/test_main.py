"""The command before it does anything, and how it says no."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, command, environment, fails, w2s
from w2s_ray.cli.main import app
from w2s_ray.cli.terminal import MOST_ROWS

VERBS = ("plan", "run", "status", "report", "export", "submit", "logs", "gc", "doctor", "tasks")
HEAVY = ("torch", "ray", "transformers", "pandas", "numpy", "pyarrow", "wandb", "pydantic")


def test_help_names_every_verb() -> None:
    done = w2s("--help")
    assert done.code == 0
    for verb in VERBS:
        assert f" {verb} " in done.out


def test_help_takes_less_than_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run(command("--help"), capture_output=True, check=True, env=environment(), cwd=ROOT)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.5, seconds


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['w2s', '--help']\n"
        "from w2s_ray.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {name.partition(".")[0] for name in done.stderr.split()} & set(HEAVY)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("laddr.small=2", "did you mean 'ladder'?"),
        ("seeds=zero", "write seeds as"),
        ("ladder={small: models/small}", "weak-to-strong needs a supervisor and a student"),
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
def test_what_a_study_gets_wrong_is_said_before_anything_runs(
    home: Path, tmp_path: Path, override: str, says: str
) -> None:
    done = w2s("plan", "tiny.yaml", "--store", tmp_path, "--set", override, cwd=home)
    fails(done, 2, says)
    assert done.out == ""


def test_a_study_that_is_not_there_is_said(tmp_path: Path) -> None:
    fails(w2s("run", tmp_path / "none.yaml"), 2, "none.yaml does not exist")


def test_a_study_that_is_not_yaml_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: [unclosed")
    fails(w2s("run", tmp_path / "bad.yaml"), 2, "is not readable YAML")


def test_a_store_that_cannot_be_written_is_said(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(w2s("run", "tiny.yaml", "--store", tmp_path / "file" / "store", cwd=home), 2, "choose another folder")


def test_reading_from_no_store_is_said(home: Path, tmp_path: Path) -> None:
    fails(w2s("status", "tiny.yaml", "--store", tmp_path / "none", cwd=home), 2, "no store at")


def test_more_workers_than_the_machine_has_are_refused(home: Path, tmp_path: Path) -> None:
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--set", "ladder.large.execution.workers=500", cwd=home)
    fails(done, 2, "500 workers", "log:")


def test_an_address_without_a_cluster_is_refused(home: Path, tmp_path: Path) -> None:
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--address", "127.0.0.1:1", cwd=home)
    fails(done, 2, "127.0.0.1:1")


def test_very_many_chains_are_refused_until_they_are_said_to_be_meant(home: Path, tmp_path: Path) -> None:
    values = ", ".join(f"{number / 1e6:g}" for number in range(1, 401))
    space = f"{{optimisation.learning_rate: [{values}], optimisation.weight_decay: [{values}]}}"
    done = w2s("run", "tiny.yaml", "--store", tmp_path, "--set", f"search={{space: {space}}}", cwd=home)
    fails(done, 2, "320,000 chains", "more than 100,000", "--yes")


def test_a_list_too_long_to_read_is_cut_and_says_so(home: Path, tmp_path: Path) -> None:
    seeds = f"seeds=[{', '.join(map(str, range(120)))}]"
    done = w2s("plan", "tiny.yaml", "--store", tmp_path, "--set", seeds, cwd=home)
    assert done.code == 0 and "… and 40 more chains; --json lists every one" in done.out
    assert sum(" → " in line for line in done.out.splitlines()) == MOST_ROWS


def test_an_unexpected_error_is_one_line_and_a_log(home: Path) -> None:
    code = (
        "import sys; from w2s_ray.cli import main, plan\n"
        "def broken(*_a, **_k): raise ZeroDivisionError('nobody thought of this')\n"
        "plan.print_plan = broken; sys.argv = ['w2s', 'plan', 'tiny.yaml']; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home, env=environment())
    assert done.returncode == 1
    first, second = done.stderr.strip().splitlines()
    assert first == "unexpected ZeroDivisionError: nobody thought of this"
    log = Path(second.split()[-1])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_what_ray_leaves_running_does_not_change_the_exit_code() -> None:
    code = (
        "import atexit, os, sys, types; sys.modules['ray'] = types.ModuleType('ray'); atexit.register(os.abort)\n"
        "from w2s_ray.cli.main import main; sys.argv = ['w2s', 'plan', sys.argv[1]]; main()"
    )
    for file, expected in (("no-such.yaml", 2), ("--help", 0)):
        ended = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True)
        assert ended.returncode == expected, ended.stderr
        assert ended.stdout or ended.stderr
