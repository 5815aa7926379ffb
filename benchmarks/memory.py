"""Peak memory of each worker while one stage trains, is saved and predicts, beside what `w2s plan` said.

    python benchmarks/memory.py                          # the cases of docs/memory.md
    python benchmarks/memory.py --model w2s:large --zero 3 --workers 2

Every case runs in fresh processes on one gloo group, without Ray: what a worker holds does not depend on who started
it. `--trainer` runs Hugging Face's `Trainer` with its ZeRO-3 `auto` settings on the same model, batch and context.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

STEPS_SHOWN = (1, 10)
EXAMPLES, EXAMPLES_PER_STEP, EPOCHS, CONTEXT = 64, 16, 3, 128
GIB = 2**30


def make_model(folder: Path) -> Path:
    """Write a random Qwen2-shaped model of 361.6 M parameters with the built-in tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from w2s_ray.ladder.tokenizer import FOLDER
    from w2s_ray.training.models import load_tokenizer

    tokenizer = load_tokenizer(FOLDER, None)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=896,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        intermediate_size=4864,
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


def stage_of(store_folder: Path, model: str, arguments: argparse.Namespace) -> tuple[str, dict[str, int] | None]:
    """Return the stage to run, as JSON, and what its plan says."""
    from w2s_ray.scheduling.plan import plan
    from w2s_ray.scheduling.resolve import resolve
    from w2s_ray.spec.compile import compile_study
    from w2s_ray.spec.load import parse_study
    from w2s_ray.store.artifacts import ArtifactStore

    execution = {
        "workers": arguments.workers,
        "zero_stage": arguments.zero,
        "tokens_per_micro_batch": arguments.micro_batch,
        **json.loads(arguments.execution),
    }
    study = parse_study(
        {
            "name": "memory",
            "tasks": {"continuation": {"builtin": "code_continuation", "test_examples": 200}},
            "splits": {"train_examples": EXAMPLES, "validation_examples": 16},
            "optimisation": {
                "examples_per_step": EXAMPLES_PER_STEP,
                "epochs": EPOCHS,
                "context_tokens": CONTEXT,
                "precision": arguments.precision,
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
    planned = next(each for each in plan(study, resolution, store).stages if each.identity == stage.identity)
    return stage.model_dump_json(), getattr(planned, "peak_bytes", None)


def run_stage_case(rank: int, size: int, folder: str, stage_json: str) -> dict[str, int]:
    """Run the stage; return the peak of each phase of this rank, in bytes."""
    import torch

    from w2s_ray.spec.chain import PlannedStage
    from w2s_ray.store.artifacts import ArtifactStore
    from w2s_ray.training import memory, stage, zero
    from w2s_ray.training.progress import NullObserver
    from w2s_ray.training.workers import Workers

    found: dict[str, int] = {"imports": memory.resident_bytes()}
    take_step, steps = zero.Engine.step, [0]

    def counted_step(engine: zero.Engine, learning_rate: float) -> float:
        norm = take_step(engine, learning_rate)
        steps[0] += 1
        if steps[0] in STEPS_SHOWN:
            found[f"step {steps[0]}"] = memory.peak_bytes(torch.device("cpu"))
        return norm

    zero.Engine.step = counted_step  # type: ignore[method-assign]
    run = stage._StageRun(
        PlannedStage.model_validate_json(stage_json),
        ArtifactStore(Path(folder) / "store"),
        Workers(rank, size, torch.device("cpu")),
        NullObserver() if rank == 0 else None,
    )
    run.run()
    return found | run.meter.peaks


def run_trainer_case(rank: int, size: int, folder: str, settings: str) -> dict[str, int]:
    """Train with Hugging Face's Trainer and DeepSpeed, as its documentation sets ZeRO-3 up."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    from w2s_ray.training import memory

    given = json.loads(settings)
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
    arguments = TrainingArguments(
        output_dir=f"{folder}/trainer",
        per_device_train_batch_size=EXAMPLES_PER_STEP // size,
        num_train_epochs=EPOCHS,
        bf16=given["precision"] == "bf16",
        optim="adamw_torch_fused",
        use_cpu=True,
        deepspeed=config,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        given["model"], num_labels=2, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    memory._reset(torch.device("cpu"))
    trainer.train()
    found["training"] = memory.peak_bytes(torch.device("cpu"))
    memory._reset(torch.device("cpu"))
    trainer.save_model(f"{folder}/trainer/model")
    return found | {"saving": memory.peak_bytes(torch.device("cpu"))}


def on_workers(case: Callable[[int, int], dict[str, int]], size: int, folder: Path) -> list[dict[str, int]]:
    """Run `case` on `size` fresh processes; return what each found, by rank."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    meeting = str(folder / f"meeting-{os.urandom(4).hex()}")
    workers = [context.Process(target=_worker, args=(rank, size, meeting, case, results)) for rank in range(size)]
    for worker in workers:
        worker.start()
    found: dict[int, dict[str, int]] = {}
    taking = threading.Thread(target=lambda: [found.update([results.get()]) for _ in range(size)], daemon=True)
    taking.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        sys.exit(f"a worker ended with {[worker.exitcode for worker in workers]}")
    taking.join()
    return [found[rank] for rank in range(size)]


def _worker(rank: int, size: int, meeting: str, case: Callable[[int, int], dict[str, int]], results: Any) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29577}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"DS_ACCELERATOR": "cpu"}
    from w2s_ray.training.machine import use_huge_pages

    use_huge_pages()
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    results.put((rank, case(rank, size)))
    dist.destroy_process_group()


def main() -> None:
    """Run one case, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen", help="a model of a ladder, or `qwen` for the one of 361.6 M")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--zero", type=int, default=3)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--micro-batch", type=int, default=4096)
    parser.add_argument("--execution", default="{}", help="further keys of `execution:`, as JSON")
    parser.add_argument("--trainer", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="w2s-memory-") as name:
        folder = Path(name)
        model = str(make_model(folder / "qwen361")) if arguments.model == "qwen" else arguments.model
        stage, planned = stage_of(folder / "store", model, arguments)
        if arguments.trainer:
            raise SystemExit("not yet")
        found = on_workers(partial(run_stage_case, folder=name, stage_json=stage), arguments.workers, folder)
    for rank, peaks in enumerate(found):
        shown = "  ".join(f"{phase} {num_bytes / GIB:.2f}" for phase, num_bytes in peaks.items())
        print(f"rank {rank}: peak {max(peaks.values()) / GIB:.2f} GiB   {shown}", flush=True)
    print(planned)


if __name__ == "__main__":
    main()
