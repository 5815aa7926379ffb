"""The hub client, with a faked or unreachable hub."""

import pickle
from typing import Any

import pytest
from httpx2 import ConnectError, Request, Response
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo, ModelInfo

from w2s_ray import hub
from w2s_ray.errors import DataError, ModelError, W2SError
from w2s_ray.hub import HubUnreachable, RepoType

METHODS = {"model": "model_info", "dataset": "dataset_info"}
REQUEST = Request("GET", "http://hub")
NOT_FOUND = Response(404, request=REQUEST)
both = pytest.mark.parametrize(("repo_type", "kind"), [("model", ModelError), ("dataset", DataError)])


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def answer(monkeypatch: pytest.MonkeyPatch, repo_type: RepoType, result: object) -> None:
    """Fake the hub's answer; exceptions are raised."""

    def ask(_self: object, _name: str, **_options: Any) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(HfApi, METHODS[repo_type], ask)


@both
@pytest.mark.parametrize(
    ("error", "value"),
    [
        (RepositoryNotFoundError("404", response=NOT_FOUND), "owner/nmae"),
        (RevisionNotFoundError("404", response=NOT_FOUND), "'next'"),
    ],
)
def test_an_unknown_name_or_revision_is_refused(
    monkeypatch: pytest.MonkeyPatch, repo_type: RepoType, kind: type[W2SError], error: Exception, value: str
) -> None:
    answer(monkeypatch, repo_type, error)
    with pytest.raises(kind, match=value):
        hub.look_up("owner/nmae", "next", repo_type)


@both
def test_a_name_that_is_not_a_hub_id_is_refused(repo_type: RepoType, kind: type[W2SError]) -> None:
    with pytest.raises(kind, match=r"a b c\?"):
        hub.look_up("a b c?", None, repo_type)


@both
def test_an_unreachable_hub_gives_none(
    monkeypatch: pytest.MonkeyPatch, repo_type: RepoType, kind: type[W2SError]
) -> None:
    answer(monkeypatch, repo_type, ConnectError("no route", request=REQUEST))
    assert hub.look_up("owner/name", None, repo_type) is None


@both
def test_offline_the_hub_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, repo_type: RepoType, kind: type[W2SError]
) -> None:
    answer(monkeypatch, repo_type, AssertionError("asked"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.look_up("owner/name", None, repo_type) is None


def test_the_answer_has_commit_files_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]
    safetensors = {"parameters": {"F32": 16}, "total": 16}
    answer(monkeypatch, "model", ModelInfo(id="owner/name", sha="c0ffee", siblings=siblings, safetensors=safetensors))
    assert hub.look_up("owner/name", None, "model") == hub.HubRepo("c0ffee", ("config.json", "model.safetensors"), 16)
    answer(monkeypatch, "dataset", DatasetInfo(id="owner/name", sha="c0ffee", siblings=siblings[:1]))
    assert hub.look_up("owner/name", None, "dataset") == hub.HubRepo("c0ffee", ("config.json",), None)


def test_an_unreachable_hub_pickles_with_its_files() -> None:
    error = HubUnreachable("the hub is unreachable", "connect", files=("owner/name/config.json",))
    copy = pickle.loads(pickle.dumps(error))
    assert copy.files == error.files and str(copy) == str(error)
