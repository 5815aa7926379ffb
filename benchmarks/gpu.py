"""Training and labelling of 1 B and 7 B models on one GPU, in at most 8 minutes, without Ray.

    python benchmarks/gpu.py --json gpu.json --page docs/gpu.md
    python benchmarks/gpu.py --small                     # tiny models, on a CPU too

Models have random weights, and texts random tokens; their lengths are those of SciQ (for 1 B also of SST-2). Rows run
one after another in one worker process; a row that the time left does not allow is skipped with a line.

Model FLOP utilisation counts what the model needs for real tokens, and nothing for padding or recomputation. For a
model with N weights in its layers' matrices, L layers of width h, and texts of t tokens, training all weights takes

    Σ over texts of  6·N·t + 6·L·h·t²

operations (Chowdhery et al. 2022, PaLM, appendix B, with half of the attention term because attention is causal; the
embedding is a look-up and counts nothing). With LoRA the frozen weights have no gradients, so 6·N becomes 4·N;
labelling is the forward pass alone, a third of the first formula. Utilisation is operations per second over the peak of
the device for dense bf16 (`PEAK_TFLOPS`). Example: N = 1e9 at 50,000 tokens/s takes 3e14 operations/s, .30 of 989e12.
"""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpu_work import Job, Row, Shape, bare, offload, ours, write_models
from pages import START, write_table
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Lora
from w2s_ray.training.processes import run_on_workers

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

SECONDS = 450.0
"""Time for all rows; the rest of 8 minutes is for starting."""
STOPPED_AFTER = 4
HEAD = "| what | real tokens/s | padding | MFU | peak GB | plan GB | ratio | note |"
SHAPES = {
    False: (Shape("1B", 22, 2048, 5632, 32, 4), Shape("7B", 32, 4096, 11008, 32, 32)),
    True: (Shape("tiny", 2, 64, 128, 2, 1), Shape("small", 2, 96, 192, 2, 2)),
}


def trainer(name: str, job: Job) -> list[Row]:
    """Train with Hugging Face's Trainer: padded batches, grouped by length, of the same number of examples."""
    from transformers import AutoTokenizer

    from peers import Clock, CountingCollator, in_one_process, rows_of, trainer_of

    network, clock = job.load(), Clock()
    collate = CountingCollator(AutoTokenizer.from_pretrained(job.folder / job.shape.name))
    batches = max(1, job.examples_per_step // 32)
    num_steps = 4 if job.is_small else 12
    with tempfile.TemporaryDirectory() as scratch, in_one_process():
        trainer_of(
            network.hf,
            rows_of(job.examples),
            collate,
            Path(scratch),
            [clock],
            per_device_train_batch_size=job.examples_per_step // batches,
            gradient_accumulation_steps=batches,
            max_steps=num_steps,
            bf16=network.precision == "bf16",
            train_sampling_strategy="group_by_length",
            use_cpu=job.workers.device.type == "cpu",
        ).train()
    real = sum(collate.num_tokens[batches : batches * num_steps])  # those of the first step warm up
    speed = real / (clock.marks[-1] - clock.marks[1])
    return [Row(name=name, tokens_per_second=speed, note=f"sdpa, {num_steps - 1} steps")]


def resumed(name: str, job: Job) -> list[Row]:
    """Stop a stage of a built-in model, resume it, and compare its losses with those of an uninterrupted one."""
    from w2s_ray.planning.resolve import resolve
    from w2s_ray.spec.compile import compile_study
    from w2s_ray.spec.load import parse_study
    from w2s_ray.store.artifacts import ArtifactStore
    from w2s_ray.training.progress import NullObserver
    from w2s_ray.training.stage import run_stage

    class Preempts(NullObserver):
        polls = 0

        def should_stop(self) -> bool:
            self.polls += 1
            return self.polls == STOPPED_AFTER

    def losses(folder: Path, observers: Sequence[NullObserver]) -> list[float]:
        texts = [{"text": f"text {number} " + "word " * (number % 40), "label": number % 2} for number in range(400)]
        folder.mkdir()
        (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
        study = parse_study(
            {
                "name": "resumed",
                "tasks": {"texts": {"files": str(folder / "texts.jsonl"), "text": "text", "label": "label"}},
                "splits": {"train_examples": 80, "validation_examples": 10},
                "optimisation": {
                    "examples_per_step": 8,
                    "precision": "bf16" if job.workers.all_compute_bf16() else "fp32",
                },
                "ladder": {"small": "w2s:small", "large": "w2s:small" if job.is_small else "w2s:large"},
                "methods": {"naive": {"arms": ["ceiling"]}},
            }
        )
        store = ArtifactStore(folder / "store")
        stage = compile_study(study, resolve(study, store))[0].find("ceiling", "large")
        assert stage is not None
        for observer in observers:
            stage = stage.model_copy(update={"predicts": ()})
            run_stage(stage, store=store, workers=job.workers, observer=observer)
        record = store.find(stage.identity)
        assert record is not None
        lines = (store.verify(record) / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "loss" in line]

    with tempfile.TemporaryDirectory() as scratch:
        whole = losses(Path(scratch) / "whole", [NullObserver()])
        stopped = losses(Path(scratch) / "stopped", [Preempts(), NullObserver()])
    gap = max(abs(one - other) / abs(other) for one, other in zip(stopped, whole, strict=True))
    losses_text = f"the largest relative difference of losses is {gap:.1e}" if gap else "all losses are equal"
    return [Row(name=name, note=f"{len(whole)} steps, stopped after {STOPPED_AFTER}; {losses_text}")]


def all_rows(workers: "Workers", folder: Path, is_small: bool) -> Iterator[tuple[float, str, Callable[[], list[Row]]]]:
    """Yield the least seconds, the name and the measurement of each row, the most important first."""
    large, larger = SHAPES[is_small]
    one = partial(Job, folder=folder, workers=workers, is_small=is_small)
    sciq = partial(one, large, "SciQ")
    names = {kind: f"{large.name}, all weights, SciQ, {kind}" for kind in ("auto", "sdpa", "varlen", "flash")}
    yield 40, names["auto"], partial(ours, names["auto"], sciq(), labels=True)
    yield 30, "bare loop", partial(bare, f"{large.name}, bare loop over the same batches", sciq())
    yield 30, "Trainer", partial(trainer, f"{large.name}, Hugging Face Trainer, padded", sciq(attention="sdpa"))
    yield 30, names["sdpa"], partial(ours, names["sdpa"], sciq(attention="sdpa"))
    on_cpu = workers.device.type == "cpu"
    if on_cpu:
        yield 30, names["varlen"], partial(ours, names["varlen"], sciq(attention="varlen"))
    else:
        yield 30, names["flash"], partial(ours, names["flash"], sciq(attention="flash"))
    lora = f"{larger.name}, LoRA, SciQ"
    yield 50, lora, partial(ours, lora, one(larger, "SciQ", trainable=Lora(rank=16)))
    yield 20, "resumed", partial(resumed, "a stage that was preempted and resumed", sciq())
    sst2 = f"{large.name}, all weights, SST-2"
    yield 30, sst2, partial(ours, sst2, one(large, "SST-2"), labels=True)
    offloaded = (("zero_stage", 3), ("offload_optimizer", True), ("offload_parameters", True))
    name = f"{larger.name}, all weights, offloaded, SciQ"
    yield 240, name, partial(offload, name, one(larger, "SciQ", execution=offloaded))


def run_rows(workers: "Workers", *, folder: Path, is_small: bool, seconds: float) -> dict[str, Any]:
    """Measure all rows for which there is time; return the result as JSON."""
    import torch

    began = time.perf_counter()
    write_models(folder, SHAPES[is_small])
    rows: list[Row] = []
    print(f"elapsed  {HEAD}", flush=True)
    for least, name, measure in all_rows(workers, folder, is_small):
        left = seconds - (time.perf_counter() - began)
        if left < (1 if is_small else least):
            new = [Row(name=name, note=f"skipped: {left:.0f} s are left, and it needs {least:.0f}")]
        else:
            new = attempt(name, measure)
        rows += new
        for row in new:
            print(f"{time.perf_counter() - began:5.0f} s  {line_of(row)}", flush=True)
    with_ratios = compared(rows)
    device = torch.cuda.get_device_name(workers.device) if workers.device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    return {"device": device, **versions, "small": is_small, "rows": [row.model_dump() for row in with_ratios]}


def attempt(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """Measure a row; one that fails (no memory, no kernel) is noted, and the next goes on."""
    import torch

    try:
        return measure()
    except Exception as error:
        return [Row(name=name, note=f"failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}")]
    finally:
        gc.collect()
        with suppress(Exception):
            torch.cuda.empty_cache()


def compared(rows: Sequence[Row]) -> list[Row]:
    """Add to the bare loop and to the Trainer the ratio of our first training to them."""
    first = rows[0].tokens_per_second
    result = []
    for row in rows:
        is_reference = "bare loop" in row.name or "Trainer" in row.name
        if is_reference and first and row.tokens_per_second:
            row = row.model_copy(update={"ratio": first / row.tokens_per_second, "against": "ours ÷ this"})
        result.append(row)
    return result


def line_of(row: Row) -> str:
    """Return the row as one of the Markdown table."""
    cells = [
        row.name,
        "–" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}",
        "–" if row.padding is None else f"{row.padding:.1%}",
        "–" if row.mfu is None else f"{row.mfu:.1%}",
        "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.1f}",
        "–" if row.planned_bytes is None else f"{row.planned_bytes / 1e9:.1f}",
        "–" if row.ratio is None else f"{row.ratio:.2f} ({row.against})",
        row.note,
    ]
    return "| " + " | ".join(cells) + " |"


def table(result: dict[str, Any]) -> str:
    """Return the result as a Markdown table under a line on the device."""
    rows = [line_of(Row.model_validate(row)) for row in result["rows"]]
    lines = [HEAD, "| --- |" + " ---: |" * 6 + " --- |", *rows]
    return f"{result['device']}, torch {result['torch']}, CUDA {result['cuda']}.\n\n" + "\n".join(lines)


def check_outputs(json_path: Path | None, page: Path | None) -> None:
    """Refuse files that the result cannot be written to, before anything is measured."""
    if json_path is not None and (json_path.is_dir() or not os.access(json_path.absolute().parent, os.W_OK)):
        raise typer.BadParameter(f"--json {json_path} cannot be written; name a file in an existing folder")
    if page is not None and not (page.is_file() and START in page.read_text(encoding="utf-8")):
        raise typer.BadParameter(f"--page {page} is not a file with the line {START}; name docs/gpu.md or a copy")


def main(
    small: Annotated[bool, typer.Option(help="Tiny models, on a CPU too.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for the result as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Page with marks that the table is put between.")] = None,
    seconds: Annotated[float, typer.Option(help="Time for all rows.")] = SECONDS,
) -> None:
    """Measure training and labelling on one GPU."""
    from w2s_ray.planning.nodes import this_machine

    check_outputs(json_path, page)
    gpus = this_machine().gpus
    if not gpus and not small:
        raise typer.BadParameter("this machine has no GPU; --small runs tiny models on a CPU")
    execution = Execution(gpus_per_worker=1.0 if gpus else 0.0, cpus_per_worker=1.0 if small else os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="w2s-gpu-") as folder:
        work = partial(run_rows, folder=Path(folder), is_small=small, seconds=seconds)
        (result,) = run_on_workers(work, execution, Path(folder))
    print(table(result))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        write_table(page, table(result))


if __name__ == "__main__":
    typer.run(main)
