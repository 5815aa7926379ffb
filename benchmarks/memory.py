"""Peak memory of each worker while a stage trains, is saved and predicts, compared with the estimate of `w2s plan`.

    python benchmarks/memory.py                          # the cases of docs/memory.md
    python benchmarks/memory.py --model w2s:large --zero 3 --workers 2

Every case runs in new processes on one gloo group, without Ray, which does not change the memory of a worker.
`--trainer` runs Hugging Face's `Trainer` with its ZeRO-3 `auto` settings on the same model, batch and context.

"in all" is the peak of the anonymous memory of all processes together, this one included, sampled every 50 ms. It does
not count pages of files, which the kernel can drop: mapped weights, libraries, and state in files of `nvme_folder`.
`--model billion` (0.98 B parameters) has few and small steps, so that it ends in minutes.
"""

import argparse
import json
import os
import resource
import tempfile
import threading
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from w2s_ray.spec.execution import Execution
from w2s_ray.training.processes import run_on_workers

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

STEPS_SHOWN = (1, 10)
CONTEXT = 128


@dataclass(frozen=True)
class Work:
    """What is trained on and predicted."""

    examples: int = 64
    examples_per_step: int = 16
    epochs: float = 2.5
    test_examples: int = 64


FEW_STEPS = Work(examples=8, examples_per_step=4, epochs=1.0, test_examples=16)
SHAPES = {
    "qwen": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "billion": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
    },
}
"""Random Qwen2-shaped models: 361.6 M and 0.98 B parameters."""


def make_model(folder: Path) -> Path:
    """Write the random model that the folder's name has in `SHAPES`, with the built-in tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from w2s_ray.ladder.tokenizer import FOLDER
    from w2s_ray.training.models.loading import load_tokenizer

    tokenizer = load_tokenizer(FOLDER, None)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        **SHAPES[folder.name],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stage_of(store_folder: Path, model: str, case: "Case") -> tuple[str, int | None]:
    """Return the stage to run, as JSON, and its planned peak in bytes."""
    from w2s_ray.planning.plan import plan
    from w2s_ray.planning.resolve import resolve
    from w2s_ray.spec.compile import compile_study
    from w2s_ray.spec.load import parse_study
    from w2s_ray.store.artifacts import ArtifactStore

    execution = {"workers": case.workers, "zero_stage": case.zero_stage, **json.loads(case.execution)}
    study = parse_study(
        {
            "name": "memory",
            "tasks": {"continuation": {"builtin": "code_continuation", "test_examples": case.work.test_examples}},
            "splits": {"train_examples": case.work.examples, "validation_examples": min(case.work.examples, 16)},
            "optimisation": {
                "examples_per_step": case.work.examples_per_step,
                "epochs": case.work.epochs,
                "context_tokens": CONTEXT,
                "precision": case.precision,
            },
            "ladder": {"small": "w2s:small", "model": {"model": model, "execution": execution}},
            "methods": {"naive": {"arms": ["ceiling"]}},
        }
    )
    store = ArtifactStore(store_folder)
    resolution = resolve(study, store)
    (chain,) = compile_study(study, resolution)
    stage = chain.find("ceiling", "model")
    assert stage is not None
    (planned,) = (entry for entry in plan(study, resolution, store).stages if entry.identity == stage.identity)
    return stage.model_dump_json(), planned.peak_bytes_per_worker


def run_stage_case(workers: "Workers", store: str, stage_json: str) -> dict[str, int]:
    """Run the stage; return this rank's peak in each phase, in bytes."""
    import torch

    from w2s_ray.spec.chain import PlannedStage
    from w2s_ray.store.artifacts import ArtifactStore
    from w2s_ray.training import zero
    from w2s_ray.training.memory import usage as memory
    from w2s_ray.training.progress import NullObserver
    from w2s_ray.training.stage import run_stage

    found: dict[str, int] = {"imports": memory.resident_bytes()}
    take_step, steps = zero.Engine.step, [0]

    def counted_step(engine: zero.Engine, learning_rate: float) -> torch.Tensor:
        norm = take_step(engine, learning_rate)
        steps[0] += 1
        if steps[0] in STEPS_SHOWN:
            found[f"step {steps[0]}"] = memory.peak_bytes(torch.device("cpu"))
        return norm

    zero.Engine.step = counted_step  # type: ignore[assignment,method-assign]
    meter = memory.Meter(torch.device("cpu"))
    run_stage(
        PlannedStage.model_validate_json(stage_json),
        store=ArtifactStore(store),
        workers=workers,
        observer=NullObserver(),
        meter=meter,
    )
    return found | meter.peaks


def run_trainer_case(workers: "Workers", folder: str, settings: str) -> dict[str, int]:
    """Train with Hugging Face's Trainer and the ZeRO-3 settings of its documentation."""
    import deepspeed
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from peers import trainer_of
    from w2s_ray.training.memory import usage as memory

    deepspeed.init_distributed(dist_backend="gloo")
    given = json.loads(settings)
    if given["limit"]:
        resource.setrlimit(resource.RLIMIT_DATA, (given["limit"], given["limit"]))
    config = {
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "sub_group_size": 1e9,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }
    found = {"imports": memory.resident_bytes()}
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    rows = [{"input_ids": row, "labels": index % 2} for index, row in enumerate(given["tokens"])]
    model = AutoModelForSequenceClassification.from_pretrained(
        given["model"], num_labels=2, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )
    trainer = trainer_of(
        model,
        rows,
        DataCollatorWithPadding(tokenizer),
        Path(folder),
        per_device_train_batch_size=given["examples_per_step"] // workers.size,
        num_train_epochs=given["epochs"],
        bf16=given["precision"] == "bf16",
        use_cpu=True,
        deepspeed=config,
        dataloader_pin_memory=False,
    )
    memory.reset_peak(torch.device("cpu"))
    trainer.train()
    found["training"] = memory.peak_bytes(torch.device("cpu"))
    memory.reset_peak(torch.device("cpu"))
    trainer.save_model(f"{folder}/trainer/model")
    return found | {"saving": memory.peak_bytes(torch.device("cpu"))}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    """A model of a ladder, or a random one of `SHAPES`."""
    zero_stage: int
    workers: int
    precision: str = "bf16"
    execution: str = "{}"
    """Further keys of `execution:`, as JSON."""
    is_trainer: bool = False
    limit: int = 0
    """Bytes that a process of `Trainer` may allocate, so that one that needs more ends before the machine is full."""

    @property
    def work(self) -> Work:
        return FEW_STEPS if self.model == "billion" else Work()


PHASES = ("imports", "loading", "step 1", "step 10", "training", "evaluating", "saving", "predicting")
ALL = (
    *(Case("qwen", zero, 1 if zero == 0 else 2) for zero in (3, 0, 1, 2)),
    Case("qwen", 3, 2, execution='{"activation_checkpointing": true}'),
    Case("qwen", 3, 2, is_trainer=True),
    *(Case(f"w2s:{size}", zero, 1 if zero == 0 else 2) for size in ("small", "medium", "large") for zero in range(4)),
)


def measure(case: Case, folder: Path) -> tuple[list[dict[str, int]], int | None, int]:
    """Return the peaks of each rank, the planned peak, and the peak of the anonymous memory of all processes."""
    model = str(folder / case.model) if case.model in SHAPES else case.model
    store = folder / f"store-{os.urandom(4).hex()}"
    stage, planned = stage_of(store, model, case)
    if not case.is_trainer:
        run = partial(run_stage_case, store=str(store), stage_json=stage)
        with Anonymous() as anonymous:
            peaks = run_on_workers(run, Execution(workers=case.workers), folder)
        return peaks, planned, anonymous.peak
    given = {"model": model, "precision": case.precision, "tokens": tokens_of(stage, store), "limit": case.limit}
    given |= asdict(case.work)
    settings = json.dumps(given)
    trainer = partial(run_trainer_case, folder=str(folder), settings=settings)
    with Anonymous() as anonymous:
        peaks = run_on_workers(trainer, Execution(workers=case.workers), folder)
    return peaks, None, anonymous.peak


class Anonymous:
    """Samples the anonymous memory of this process and all below it; `peak` is the largest sum, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Anonymous":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.05):
            pids = [own.pid, *(child.pid for child in own.children(recursive=True))]
            self.peak = max(self.peak, sum(map(anonymous_bytes, pids)))


def anonymous_bytes(pid: int) -> int:
    """Return the resident anonymous memory of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def tokens_of(stage_json: str, store: Path) -> list[list[int]]:
    """Return the tokens of the stage's examples, truncated as in the stage."""
    from w2s_ray.data.prepare import load_prepared
    from w2s_ray.data.splits import rows_of_split
    from w2s_ray.ladder.tokenizer import FOLDER
    from w2s_ray.spec.chain import PlannedStage
    from w2s_ray.store.artifacts import ArtifactStore
    from w2s_ray.training.models.loading import load_tokenizer

    (part,) = PlannedStage.model_validate_json(stage_json).spec.train
    prepared = load_prepared(ArtifactStore(store), part.split.task)
    texts = prepared.texts(rows_of_split(prepared, part.split))
    return [row[-CONTEXT:] for row in load_tokenizer(FOLDER, None)(texts)["input_ids"]]


def row_of(case: Case, found: list[dict[str, int]], planned: int | None, in_all: int) -> str:
    """Return the case as a row of the table, in gigabytes (10^9 bytes); the largest peak of any rank."""
    peak = max(max(peaks.values()) for peaks in found)
    cells = [f"{max(peaks.get(phase, 0) for peaks in found) / 1e9:.2f}" for phase in PHASES]
    cells = ["–" if cell == "0.00" else cell for cell in cells]
    name = f"{case.model}, `Trainer`" if case.is_trainer else case.model
    name += ", recomputed" if "activation_checkpointing" in case.execution else ""
    estimate = "–" if planned is None else f"{planned / 1e9:.2f}"
    ratio = "–" if planned is None else f"{planned / peak:.2f}"
    shape = f"{case.zero_stage} × {case.workers}"
    return (
        f"| {name} | {shape} | "
        + " | ".join([*cells, f"{peak / 1e9:.2f}", estimate, ratio, f"{in_all / 1e9:.2f}"])
        + " |"
    )


def main() -> None:
    """Run one case, or all of them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model of a ladder, or `qwen` or `billion`")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--zero", type=int, default=3)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--execution", default="{}", help="further keys of `execution:`, as JSON")
    parser.add_argument("--trainer", action="store_true")
    parser.add_argument("--limit", type=float, default=0.0, help="GB that a process of `Trainer` may allocate")
    given = parser.parse_args()
    cases = ALL
    if given.model is not None:
        cases = (
            Case(
                given.model,
                given.zero,
                given.workers,
                given.precision,
                given.execution,
                given.trainer,
                int(given.limit * 1e9),
            ),
        )
    print("| model | ZeRO × workers | " + " | ".join(PHASES) + " | peak | plan | plan ÷ peak | in all |")
    print("| --- | --- |" + " ---: |" * (len(PHASES) + 4))
    with tempfile.TemporaryDirectory(prefix="w2s-memory-") as name:
        for model in SHAPES.keys() & {case.model for case in cases}:
            make_model(Path(name) / model)
        for case in cases:
            print(row_of(case, *measure(case, Path(name))), flush=True)


if __name__ == "__main__":
    main()
