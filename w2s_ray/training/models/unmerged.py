"""LoRA adapters that are stored apart from the model that they were trained on (`execution.keep_adapters`).

    model/adapter_model.safetensors   adapters and head in fp32, by peft's names
          adapter_config.json         peft's, which names the base
          and the tokenizer

The stage's record names the base, its revision and the SHA-256 of its files (`Base`). peft's `AutoPeftModelFor…` loads
the folder. Stages and exports read the merged model, which `merge` writes into a folder beside the artifacts.
"""

from pathlib import Path

import torch
from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from w2s_ray.errors import ModelError
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Lora, ModelSource, StageSpec
from w2s_ray.store.files import digest_file, require_space, sync_file, writing
from w2s_ray.store.record import Base
from w2s_ray.training.models.adapters import ADAPTER
from w2s_ray.training.models.catalogue import is_on_hub
from w2s_ray.training.models.exports import read_only_ids
from w2s_ray.training.models.files import weight_files
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.models.saving import ExportFolder, Gather, disk_errors
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, gathered

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
"""peft's, before the names of a model's weights."""


def describe_base(spec: StageSpec, folder: Path) -> Base:
    """Return the base of a stage's adapters, whose files are in `folder`; those of another stage have a record."""
    source = spec.starts_from
    if not isinstance(source, ModelSource):
        return Base(name=source.name, revision=source.stage, files={})
    digests = {path.name: digest_file(path) for path in weight_files(folder)}
    return Base(name=source.name, revision=source.revision, files=digests)


def check_base(base: Base, folder: Path) -> None:
    """Compare the base in `folder` with the one that the adapters were trained on.

    Raises:
        ModelError: with the first file that is missing or has changed.
    """
    for name, digest in base.files.items():
        path = folder / name
        if not path.is_file() or digest_file(path) != digest:
            raise ModelError(
                f"{path} is not the file that the adapters of {base.name} were trained on: its SHA-256 is not "
                f"{digest[:12]}…",
                f"put revision {base.revision} back, or remove the stage's folder from the store to train it again",
            )


def save_adapters(
    goal: ExportFolder, network: Network, base: Path, spec: StageSpec, gather: Gather, workers: Workers
) -> None:
    """Write adapters, head and tokenizer; collective.

    Args:
        goal: the folder.
        network: with adapters.
        base: folder of the model that they were trained on.
        spec: of the stage.
        gather: returns the network's weights by name.
        workers: the ranks that call this.

    Raises:
        StoreError: on every rank, when the disk has no room for it.
    """
    names = [name for name, weight in network.named_parameters() if weight.requires_grad]
    held = gather(names, keeps=workers.is_rank_0)

    def write() -> None:
        require_space(goal.path, sum(tensor.nbytes for tensor in held.values()))
        state = {_peft_name(name): tensor.contiguous() for name, tensor in held.items()}
        with writing(goal.path), disk_errors():
            save_file(state, goal.path / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            sync_file(goal.path / ADAPTER_WEIGHTS)
            _config(network.hf, base, spec).save_pretrained(str(goal.path))
            goal.tokenizer.model_max_length = goal.context_tokens
            goal.tokenizer.save_pretrained(goal.path)
        read_only_ids(goal.path)

    workers.on_rank_0(write)


def merge(spec: StageSpec, base: Path, adapters: Path, target: Path, execution: Execution, workers: Workers) -> None:
    """Write the merged model of a stage into `target`, as the stage would have saved it; collective.

    Args:
        spec: of the stage that trained the adapters.
        base: folder of the model that they were trained on.
        adapters: folder of the adapters.
        target: a folder, which may not exist.
        execution: how the model is loaded: under ZeRO-3 the ranks share it.
        workers: the ranks that call this.
    """
    tokenizer = load_tokenizer(adapters, None, trust_remote_code=spec.trusts_code)
    network = load_network(spec, base, tokenizer, execution)
    with safe_open(adapters / ADAPTER_WEIGHTS, framework="pt") as stored:
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                with gathered([weight]), torch.no_grad():
                    weight.copy_(stored.get_tensor(_peft_name(name)))
    settings = spec.optimisation
    goal = ExportFolder(target, tokenizer, settings.context_tokens, settings.saved_precision)
    engine = Engine(network.to(workers.device) if execution.zero_stage == 3 else network, execution, None)
    try:
        goal.save(network, engine.saved_bytes, engine.gather, workers)
    finally:
        engine.destroy()


def _peft_name(name: str) -> str:
    return _PREFIX + name.removeprefix("hf.").replace(f".{ADAPTER}.weight", ".weight")


def _config(hf: PreTrainedModel, base: Path, spec: StageSpec) -> LoraConfig:
    """Return peft's configuration of the adapters of `hf`."""
    assert isinstance(spec.trainable, Lora)
    layers = {name: module for name, module in hf.named_modules() if isinstance(module, LoraLayer)}
    trained = (name for name, weight in hf.named_parameters() if weight.requires_grad)
    source = spec.starts_from
    is_hub = isinstance(source, ModelSource) and is_on_hub(source.name)
    return LoraConfig(
        r=spec.trainable.rank,
        lora_alpha=spec.trainable.alpha,  # type: ignore[arg-type] # peft divides it by the rank, integer or not
        lora_dropout=spec.trainable.dropout,
        target_modules=sorted(layers),
        modules_to_save=sorted({name.split(".")[0] for name in trained if ".lora_" not in name}) or None,
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        task_type=TaskType.CAUSAL_LM if spec.is_language_model else TaskType.SEQ_CLS,
        base_model_name_or_path=source.name if is_hub else str(base.absolute()),
        revision=source.revision if isinstance(source, ModelSource) and is_hub else None,
        inference_mode=True,
    )
