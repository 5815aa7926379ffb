"""Copy the models of a finished pretraining study into the package: bf16 safetensors, configuration, model card.

    python tools/publish_ladder.py tune_configs/pretrain_ladder.yaml --store w2s-store

The weights are rounded to bf16 to save space (20 MB for the whole ladder); every stage loads them into fp32.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file

from w2s_ray.errors import StoreError
from w2s_ray.planning.resolve import resolve
from w2s_ray.spec.chain import PlannedStage, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record

LADDER = Path(__file__).parents[1] / "w2s_ray" / "ladder"


def publish(study_file: Path, store: ArtifactStore, ladder: Path = LADDER) -> None:
    """Copy each level's model from the store into `ladder/<level>` and write the card.

    Raises:
        StoreError: when a level has not been trained.
    """
    study = load_study(study_file)
    rows = []
    for stage in distinct_stages(compile_study(study, resolve(study, store))).values():
        record = store.find(stage.identity)
        if record is None:
            raise StoreError(f"level {stage.level} is not trained", f"run `w2s run {study_file}`")
        _copy(store.verify(record) / "model", ladder / stage.level)
        rows.append(_row(stage, record))
    (ladder / "MODEL_CARD.md").write_text(CARD + "\n".join(rows) + "\n")


def _copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}, indent=2, sort_keys=True) + "\n")


def _row(stage: PlannedStage, record: Record) -> str:
    source = stage.spec.starts_from
    assert isinstance(source, ModelSource) and source.architecture is not None
    shape = source.architecture
    millions = record.metrics["train_tokens"] / 1e6
    return (
        f"| {stage.level} | {shape.hidden_size} × {shape.num_layers} | {millions:.1f} M "
        f"| {record.metrics['held_out_loss']:.2f} | `{stage.identity[:12]}` |"
    )


CARD = """# The built-in ladder

Three decoders of one family (Llama-shaped, tied embeddings, byte-level BPE of 4,096 tokens), trained from scratch by
w2s_ray on the functions of its own pinned dependencies (`python_source`), next-token prediction in contexts of 128.
They exist so that a weak-to-strong study runs anywhere without a download. They are far too small to write code.

- **Reproduce**: `w2s run tune_configs/pretrain_ladder.yaml`, then
  `python tools/publish_ladder.py tune_configs/pretrain_ladder.yaml`.
- **Excluded from the training text**: every file that the tasks `code_continuation` and `code_continuation_hard` use,
  for any seed, and near-duplicates of their functions.
- **Format**: safetensors in bf16; every stage loads them into fp32 master weights.
- **Licence**: Apache-2.0 for the weights. The text is the source of packages under permissive licences
  (Apache-2.0, BSD, MIT, PSF).

| level | width × layers | training tokens | held-out loss (nats) | stage |
| --- | --- | --- | --- | --- |
"""


def main(study: Path, store: Annotated[Path, typer.Option()] = Path("w2s-store")) -> None:
    publish(study, ArtifactStore(store))


if __name__ == "__main__":
    typer.run(main)
