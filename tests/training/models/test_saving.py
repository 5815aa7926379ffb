"""Models in several files: plain transformers reads them as it reads one file."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.training.conftest import Tiny
from tests.training.model_folders import DECODERS
from w2s_ray.errors import StoreError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Lora, ModelSource, StageSpec
from w2s_ray.store.files import digest_file
from w2s_ray.training.models import saving
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.models.saving import ExportFolder


def network_of(tiny: Tiny, folder: Path, **changes: object) -> Network:
    stage = tiny.chain().find("ceiling", "large")
    assert stage is not None
    source = ModelSource(name=str(folder), revision="tiny")
    spec: StageSpec = stage.spec.model_copy(update={"starts_from": source, **changes})
    network = load_network(spec, folder, load_tokenizer(TOKENIZER, None), Execution())
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    return network


def write_model(name: str, folder: Path) -> Path:
    tokenizer, config = load_tokenizer(TOKENIZER, None), DECODERS[name]()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save(network: Network, folder: Path) -> dict[str, str]:
    return ExportFolder(folder, load_tokenizer(TOKENIZER, None), 64).save_alone(network)


def read(folder: Path) -> dict[str, torch.Tensor]:
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return dict(model.state_dict())


@pytest.mark.parametrize("trainable", ["all", "lora"])
@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_a_model_in_several_files_equals_one_in_one_file(
    tiny: Tiny, tmp_path: Path, name: str, trainable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"trainable": Lora(rank=2)} if trainable == "lora" else {}
    network = network_of(tiny, write_model(name, tmp_path / "source"), **changes)
    assert save(network, tmp_path / "one").keys() == {"model.safetensors"}
    monkeypatch.setattr(saving, "FILE_BYTES", 20_000)
    digests = save(network, tmp_path / "several")
    assert len(digests) >= 3
    assert digests == {name: digest_file(tmp_path / "several" / name) for name in digests}
    index = json.loads((tmp_path / "several" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == digests.keys()
    assert index["weight_map"].keys() == load_file(tmp_path / "one" / "model.safetensors").keys()
    one, several = read(tmp_path / "one"), read(tmp_path / "several")
    assert one.keys() == several.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(several[key], tensor, rtol=0, atol=0)


def test_a_full_disk_while_a_file_is_written_is_an_error_of_the_store(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(tiny, write_model("gpt2", tmp_path / "source"))
    monkeypatch.setattr(saving, "FILE_BYTES", 20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))  # the embeddings are larger
    try:
        with pytest.raises(StoreError, match="safetensors"):
            save(network, tmp_path / "several")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
