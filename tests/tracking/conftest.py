"""No W&B account, a stub server, and a run to track."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_server import StubServer

from w2s_ray.spec.chain import Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.tracking.tracker import RunInfo


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubServer]:
    stub = StubServer()
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield stub
    stub.close()


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the W&B account of the user who runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def info() -> RunInfo:
    return RunInfo(
        run_id="0123456789ab",
        study="demo",
        name="code small floor",
        job_type="floor",
        tags=("code-small-large-naive-s0", "code-small-large-confidence-s0"),
        config='{"level": "small", "spec": {"loss": {"kind": "naive"}}}',
        group="demo",
    )


@pytest.fixture
def study() -> Study:
    return parse_study(
        {
            "name": "demo",
            "tasks": {"code": {"builtin": "code_continuation"}},
            "ladder": {"small": "w2s:small", "large": "w2s:large"},
            "methods": {"naive": {}, "confident": {"losses": {"large": {"kind": "confidence"}}}},
            "seeds": [0, 1],
        }
    )


@pytest.fixture
def resolution() -> Resolution:
    model = ResolvedModel(revision="1", num_parameters=1)
    task = ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=100)
    return Resolution(tasks={"code": task}, models={"small": model, "large": model})
