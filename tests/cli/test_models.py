"""The command on a study whose model is refused, and the verdicts that it keeps."""

import json
import shutil
import time
from pathlib import Path

import yaml

from tests.cli.conftest import fails, w2s


def lock_of(store: Path) -> dict[str, dict[str, float]]:
    lock = yaml.safe_load((store / "studies" / "tiny" / "study.lock.yaml").read_text())
    return dict(lock["checks"])


def test_plan_refuses_a_model_that_cannot_be_used_and_keeps_the_verdict_of_others(home: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(home / "models" / "large", tmp_path / "large")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "qwen9"}))
    store, level = tmp_path / "store", f"ladder.large.model={folder}"
    for verb in ("plan", "run"):
        done = w2s(verb, "tiny.yaml", "--store", store, "--set", level, cwd=home)
        fails(done, 2, "level large", "qwen9")
    assert len(lock_of(store)) == 1, "the small model passed"
    assert not list((store / "artifacts").iterdir())


def test_plan_checks_each_model_once(home: Path, tmp_path: Path) -> None:
    first = w2s("plan", "tiny.yaml", "--store", tmp_path, cwd=home)
    assert first.code == 0 and "checking " in first.out, first
    checks = lock_of(tmp_path)
    assert len(checks) == 2 and all(difference <= 1 for ways in checks.values() for difference in ways.values())
    began = time.monotonic()
    again = w2s("plan", "tiny.yaml", "--store", tmp_path, cwd=home)
    assert again.code == 0 and "checking " not in again.out and lock_of(tmp_path) == checks
    assert time.monotonic() - began < 60
