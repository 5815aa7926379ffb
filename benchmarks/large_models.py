"""The memory of each stage of the studies in docs/large-models.md, by the estimate of `w2s plan`.

    python benchmarks/large_models.py                    # the table of the page: 1, 8 and 64 GPUs of 141 GB
    python benchmarks/large_models.py --gpu-gb 80 --host-gb 1000 study.yaml --gpus 16

Nothing is downloaded and nothing measured: the shapes of the models are here, and texts fill the context. A study of
your own can have the models of `MODELS` only.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pages import write_table
from w2s_ray.errors import W2SError
from w2s_ray.planning.estimate import ADAM_BYTES, WEIGHT_BYTES
from w2s_ray.planning.memory import MemoryFit, fit_memory
from w2s_ray.planning.nodes import Node
from w2s_ray.spec.chain import ModelShape, Resolution, ResolvedModel, ResolvedTask, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study, parse_study
from w2s_ray.spec.stage import Lora, Prompt
from w2s_ray.spec.study import Study
from w2s_ray.training.memory.footprint import num_trained

PAGE = Path(__file__).parents[1] / "docs" / "large-models.md"
GPUS_PER_NODE = 8


def _model(size: float, hidden: int, layers: int, inner: int, keys: int, vocabulary: int) -> ResolvedModel:
    shape = ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        inner_size=inner,
        key_size=keys,
        vocabulary=vocabulary,
        activation="silu",
        gated=True,
    )
    return ResolvedModel(revision="0", num_parameters=round(size * 1e9), shape=shape)


MODELS = {
    "Qwen/Qwen2.5-1.5B": _model(1.54, 1536, 28, 8960, 256, 151_936),
    "Qwen/Qwen2.5-7B": _model(7.62, 3584, 28, 18_944, 512, 152_064),
    "Qwen/Qwen2.5-72B": _model(72.7, 8192, 80, 29_568, 1024, 152_064),
}
"""By hub id, as their config.json has them."""


def studies(page: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the studies of a page, each with the number of GPUs in the heading above it."""
    text = page.read_text(encoding="utf-8")
    for gpus, section in re.findall(r"^## (\d+) GPUs?\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL):
        for block in re.findall(r"^```yaml\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            yield int(gpus), yaml.safe_load(block)


def cluster(gpus: int, gpu_gb: float, host_gb: float) -> list[Node]:
    """Return nodes of at most eight GPUs; a node with fewer has as much less memory on the host."""
    sizes = [min(GPUS_PER_NODE, gpus - first) for first in range(0, gpus, GPUS_PER_NODE)]
    return [
        Node(
            cpus=12 * size,
            gpus=size,
            memory_bytes=round(host_gb * 1e9 * size / GPUS_PER_NODE),
            gpu_bytes=round(gpu_gb * 1e9),
        )
        for size in sizes
    ]


def fits(study: Study, nodes: Sequence[Node]) -> Iterator[MemoryFit]:
    """Yield what each distinct way of training a level needs and has, from the weakest level to the strongest."""
    tasks = {name: ResolvedTask(fingerprint=name, num_classes=2, num_test=2000) for name in study.tasks}
    resolution = Resolution(tasks=tasks, models={name: MODELS[level.model] for name, level in study.ladder.items()})
    known: set[tuple[str, str]] = set()
    for stage in distinct_stages(compile_study(study, resolution)).values():
        way = (stage.level, stage.spec.trainable.label)
        if way not in known and not isinstance(stage.spec.trainable, Prompt):
            known.add(way)
            yield fit_memory(stage, resolution, nodes, None)


def row_of(gpus: int, fit: MemoryFit) -> str:
    """Return the row of a stage; sizes are in GB (10^9 bytes)."""
    stage, need = fit.stage, fit.need
    assert need is not None
    spec, execution, model = stage.spec, stage.execution, MODELS[stage.spec.starts_from.name]
    assert model.num_parameters is not None and model.shape is not None
    trained = num_trained(spec, model.num_parameters, model.shape)
    if stage.keeps_adapters:
        saved = 4 * trained  # adapters are stored in fp32
    else:
        saved = model.num_parameters * (2 if spec.optimisation.saved_precision == "bf16" else 4)
    cells = [
        str(gpus),
        f"{stage.level}, {'LoRA' if isinstance(spec.trainable, Lora) else 'all weights'}",
        str(execution.workers),
        execution.memory_settings,
        f"{need.peak / 1e9:.0f}" + ("" if fit.fits else " (too much)"),
        f"{need.host / 1e9:.0f}",
        "–" if fit.file_bytes is None else f"{need.files / 1e9:.0f}",
        f"{(WEIGHT_BYTES + ADAM_BYTES) * trained / 1e9:.1f}",
        f"{saved / 1e9:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table(page: Path, gpu_gb: float, host_gb: float) -> str:
    """Return the table of a page's studies."""
    head = ("GPUs", "level", "workers", "`auto` chooses", "GPU", "host", "files", "checkpoint", "saved model")
    lines = ["| " + " | ".join(head) + " |", "| ---: | --- | ---: | --- |" + " ---: |" * 5]
    for gpus, raw in studies(page):
        lines += [row_of(gpus, fit) for fit in fits(parse_study(raw), cluster(gpus, gpu_gb, host_gb))]
    return "\n".join(lines)


def rows_of_own(path: Path, gpus: int, gpu_gb: float, host_gb: float) -> list[str]:
    """Return the rows of the study in a file."""
    try:
        study = load_study(path)
        for name, level in study.ladder.items():
            if level.model not in MODELS:
                raise typer.BadParameter(f"ladder.{name}.model = {level.model} is none of {', '.join(MODELS)}")
        return [row_of(gpus, fit) for fit in fits(study, cluster(gpus, gpu_gb, host_gb))]
    except W2SError as error:
        raise typer.BadParameter(str(error)) from None


def main(
    gpu_gb: Annotated[float, typer.Option(min=1, help="Memory of a GPU in GB (10^9 bytes).")] = 141.0,
    host_gb: Annotated[float, typer.Option(min=1, help="Memory of a machine with eight GPUs in GB.")] = 2000.0,
    study: Annotated[Path | None, typer.Argument(help="A study of your own, instead of those of the page.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs for a study of your own; 8 by default.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the table into the page.")] = False,
) -> None:
    """Print what the stages of studies of large models need."""
    if study is not None:
        if write:
            raise typer.BadParameter("--write is for the studies of the page; leave it out")
        print("\n".join(rows_of_own(study, gpus or 8, gpu_gb, host_gb)))
        return
    if gpus is not None:
        raise typer.BadParameter("--gpus is for a study of your own; name its file too")
    text = table(PAGE, gpu_gb, host_gb)
    print(text)
    if write:
        write_table(PAGE, text)


if __name__ == "__main__":
    typer.run(main)
