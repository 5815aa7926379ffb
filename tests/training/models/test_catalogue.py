"""Resolving models: built in, local folders, and the hub."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import save_file

from w2s_ray import hub
from w2s_ray.errors import ModelError
from w2s_ray.hub import HubUnreachable
from w2s_ray.spec.stage import Architecture
from w2s_ray.spec.study import LevelSpec
from w2s_ray.training.models import catalogue, files
from w2s_ray.training.models.catalogue import model_folder, resolve_model

TOKENIZER = catalogue.LADDER / "tokenizer"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of 10 + 6 parameters with the built-in tokenizer."""
    made = tmp_path / "model"
    shutil.copytree(TOKENIZER, made)
    (made / "config.json").write_text('{"model_type": "llama"}')
    save_file({"a": np.zeros((2, 5), np.float32), "b": np.zeros(6, np.float16)}, made / "model.safetensors")
    return made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, and an empty cache at the returned path."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (content | changes).items() if value is not None}))


def resolved(**level: Any) -> Any:
    return resolve_model(LevelSpec(**level))


def test_a_local_folder_resolves_to_a_digest_and_its_size(folder: Path) -> None:
    resolution = resolved(model=str(folder))
    assert len(resolution.revision) == 64
    assert resolution.num_parameters == 16
    assert model_folder(str(folder), resolution.revision) == folder
    assert model_folder(str(folder), resolution.revision, tokenizer=True) == folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_digest_changes_with_every_file(folder: Path, name: str) -> None:
    before = resolved(model=str(folder)).revision
    if name == "model.safetensors":
        save_file({"a": np.ones((2, 5), np.float32), "b": np.zeros(6, np.float16)}, folder / name)
    else:
        (folder / name).write_text((folder / name).read_text() + "\n")
    assert resolved(model=str(folder)).revision != before


def test_the_digest_does_not_depend_on_the_folders_path(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "elsewhere")
    assert resolved(model=str(copied)) == resolved(model=str(folder))


def test_sharded_weights_are_counted_together(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    save_file({"c": np.zeros(4, np.float32)}, folder / "model-2.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert resolved(model=str(folder)).num_parameters == 20


def test_attention_masks_stored_by_gpt2_are_no_parameters(folder: Path) -> None:
    tensors = {"h.0.attn.bias": np.zeros((1, 1, 8, 8), np.float32), "h.0.attn.c_attn.bias": np.zeros(3, np.float32)}
    save_file(tensors, folder / "model.safetensors")
    assert resolved(model=str(folder)).num_parameters == 3


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_of_a_model_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        resolved(model=str(folder))


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0 not json at all "])
def test_a_file_that_is_not_safetensors_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        resolved(model=str(folder))


@pytest.mark.parametrize(
    "content", ["[]", "7", '{"model_type": 7, "hidden_size": 0, "num_layers": 1, "vocab_size": 3}']
)
def test_a_configuration_that_describes_no_model_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        resolved(model=str(folder))


def test_an_index_without_a_map_is_refused(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="weight_map"):
        resolved(model=str(folder))


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        resolved(model=str(tmp_path / "none"))


def test_an_unknown_builtin_size_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ModelError, match="did you mean w2s:large"):
        resolved(model="w2s:lage")


def test_the_revision_of_a_model_from_scratch_is_its_tokenizers(folder: Path) -> None:
    shape = Architecture(hidden_size=64, num_layers=2, num_heads=4, intermediate_size=128)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    resolution = resolved(model=str(folder), architecture=shape)
    builtin = resolved(model="w2s:small", architecture=shape)
    assert resolution == builtin
    assert resolution.revision == files.digest(files.tokenizer_files(TOKENIZER))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_size_of_a_model_from_scratch_is_exact(layers: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = Architecture(hidden_size=32, num_layers=layers, num_heads=2, intermediate_size=48)
    vocabulary = files.vocabulary_size(TOKENIZER)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        tie_word_embeddings=True,
    )
    assert files.num_parameters_of(shape, vocabulary) == LlamaForCausalLM(config).num_parameters()


def test_the_vocabulary_is_the_tokenizers(folder: Path) -> None:
    from transformers import AutoTokenizer

    assert files.vocabulary_size(folder) == len(AutoTokenizer.from_pretrained(folder))


def test_a_tokenizer_without_a_padding_token_is_refused_with_a_hint(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)
    with pytest.raises(ModelError, match=r'add `pad_token: "<\|end\|>"` to the level'):
        resolved(model=str(folder))
    assert resolved(model=str(folder), pad_token="<|end|>").num_parameters == 16


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions"])
def test_a_context_beyond_the_models_positions_is_refused(folder: Path, key: str) -> None:
    edit(folder / "config.json", **{key: 64})
    with pytest.raises(ModelError, match=r"context_tokens is 128, and .* has 64 positions"):
        resolved(model=str(folder))
    assert resolved(model=str(folder), optimisation={"context_tokens": 64}).num_parameters == 16


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
def test_positions_that_begin_after_the_padding_token_are_fewer(folder: Path, kind: str) -> None:
    edit(folder / "config.json", model_type=kind, max_position_embeddings=66, pad_token_id=1)
    for context in (65, 66, 67):
        with pytest.raises(ModelError, match="has 64 positions") as caught:
            resolved(model=str(folder), optimisation={"context_tokens": context})
        assert "to 64," in caught.value.hint
    assert resolved(model=str(folder), optimisation={"context_tokens": 64}).num_parameters == 16


def test_a_pad_token_outside_the_vocabulary_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="is not a token"):
        resolved(model=str(folder), pad_token="<|no such token|>")


def test_without_the_hub_the_missing_files_are_named(offline: Path) -> None:
    with pytest.raises(HubUnreachable) as caught:
        resolved(model="gpt2")
    assert caught.value.files == ("gpt2/tokenizer.json", "gpt2/config.json", "gpt2/model.safetensors")


def test_an_error_of_a_name_on_the_hub_names_where_no_folder_has_it(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubUnreachable) as unreachable:
        resolved(model="m/good")
    monkeypatch.setattr(hub, "look_up", Mock(side_effect=ModelError("no such model", "check the name")))
    with pytest.raises(ModelError) as unknown:
        resolved(model="m/good")
    for error in (unreachable.value, unknown.value):
        assert f"no folder m/good in {tmp_path}" in error.hint
    with pytest.raises(ModelError) as missing:
        resolved(model="./m/good")
    assert str(tmp_path / "m/good") in missing.value.hint


def cache(offline: Path, folder: Path, commit: str = "c0ffee") -> None:
    """Copy `folder` into the hub cache as owner/name."""
    root = offline / "models--owner--name"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    shutil.copytree(folder, root / "snapshots" / commit)


def test_without_the_hub_a_cached_model_resolves_to_its_commit(offline: Path, folder: Path) -> None:
    cache(offline, folder)
    resolution = resolved(model="owner/name")
    assert (resolution.revision, resolution.num_parameters) == ("c0ffee", 16)


def test_without_the_hub_a_commit_that_is_not_cached_is_unresolved(offline: Path, folder: Path) -> None:
    cache(offline, folder)
    with pytest.raises(HubUnreachable):
        resolve_model(LevelSpec(model="owner/name"), pinned="another")


def test_without_the_hub_a_missing_shard_is_named(offline: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001.safetensors"}}')
    cache(offline, folder)
    with pytest.raises(HubUnreachable) as caught:
        resolved(model="owner/name")
    assert caught.value.files == ("owner/name/model-00001.safetensors",)


def test_a_model_that_is_not_on_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from httpx2 import Request, Response
    from huggingface_hub.errors import RepositoryNotFoundError

    def answer(_self: object, name: str, **_arguments: object) -> None:
        raise RepositoryNotFoundError("404", response=Response(404, request=Request("GET", "http://hub")))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", answer)
    with pytest.raises(ModelError, match="does not exist on the hub"):
        resolved(model="owner/nmae")


def test_a_name_that_is_neither_hub_id_nor_folder_is_refused() -> None:
    with pytest.raises(ModelError, match="hub id"):
        hub.look_up("a b c?", None, "model")


def test_the_catalogue_needs_neither_torch_nor_transformers() -> None:
    import subprocess

    code = (
        "import sys; from w2s_ray.training.models.catalogue import resolve_model\n"
        "from w2s_ray.spec.study import LevelSpec\n"
        "from w2s_ray.spec.stage import Architecture as A\n"
        "shape = A(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)\n"
        "resolve_model(LevelSpec(model='w2s:small', architecture=shape))\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("builtin", [True, False])
def test_a_revision_of_a_local_or_built_in_model_is_refused(folder: Path, builtin: bool) -> None:
    with pytest.raises(ModelError, match="drop `revision:`"):
        resolved(model="w2s:small" if builtin else str(folder), revision="main")
