"""The package from outside: light to import, complete when installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import w2s_ray

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "transformers", "pandas", "deepspeed", "wandb", "datasets", "pyarrow")
PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def modules_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not modules_after("import w2s_ray") & {*HEAVY, "pydantic", "numpy"}


def test_reading_a_study_loads_neither_torch_nor_ray() -> None:
    assert not modules_after("from w2s_ray import load_study") & set(HEAVY)


def test_registering_a_task_loads_neither_torch_nor_ray() -> None:
    assert not modules_after("from w2s_ray import register_task") & {"torch", "ray", "transformers"}


@pytest.mark.parametrize("name", w2s_ray.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert callable(getattr(w2s_ray, name))
    assert name in dir(w2s_ray)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="run_sudy"):
        _ = w2s_ray.run_sudy


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[><=~! ;]", requirement)[0].lower() for requirement in wanted}
    assert names <= {name.lower() for name in PINS}


def test_no_pin_is_tied_to_one_kind_of_machine() -> None:
    assert not [version for version in PINS.values() if "+" in version]
    assert PINS["torch"] == "2.13.0"


def test_every_package_that_embedded_tasks_read_is_a_dependency() -> None:
    from w2s_ray.tasks.embedded.corpus import PACKAGES

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[><=~! ;]", requirement)[0].replace("_", "-") for requirement in project["dependencies"]}
    assert {package.replace("_", "-") for package in PACKAGES} <= names


def test_data_files_are_installed() -> None:
    """Every file below the package that is not Python matches a pattern of the package data."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["w2s_ray"]
    package = ROOT / "w2s_ray"
    matched = {file for pattern in patterns for file in package.glob(pattern)}
    loose = [file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert not [str(file.relative_to(package)) for file in loose if file not in matched]


def test_the_built_in_models_are_small() -> None:
    size = sum(file.stat().st_size for file in (ROOT / "w2s_ray" / "ladder").rglob("*") if file.suffix != ".pyc")
    assert size <= 20 * 2**20
