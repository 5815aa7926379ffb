"""Two references for our training: a plain PyTorch loop, and Hugging Face `Trainer`."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from w2s_ray.training.feed import LabelledExamples, MicroBatch
from w2s_ray.training.models.network import Network


class BareLoop:
    """A plain loop over prepared micro-batches, without logs and checks."""

    def __init__(self, network: Network, targets_NC: torch.Tensor, learning_rate: float) -> None:
        self._network, self._targets_NC = network.train(), targets_NC
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, fused=True)

    def step(self, batches: Sequence[MicroBatch]) -> None:
        """Take one optimizer step."""
        num_examples = sum(len(batch.positions) for batch in batches)
        for batch in batches:
            target_BC = self._targets_NC[batch.positions]
            log_probs_BC = torch.log_softmax(self._network(*batch.inputs), dim=-1)
            loss = -(target_BC * log_probs_BC).sum() / num_examples
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Clock(TrainerCallback):
    """Notes when a `Trainer` begins its first step and when it ends each step, in seconds."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.marks:
            self._mark()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._mark()

    def _mark(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())


class CountingCollator(DataCollatorWithPadding):
    """Pads texts, and notes the real tokens of each batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self.num_tokens: list[int] = []

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        self.num_tokens.append(sum(len(row["input_ids"]) for row in features))
        return super().__call__(features)


@contextmanager
def in_one_process() -> Iterator[None]:
    """Let a `Trainer` train alone, although the worker has a process group: without `DistributedDataParallel`."""
    with patch.dict(os.environ):
        for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            os.environ.pop(variable, None)
        yield


def rows_of(examples: LabelledExamples) -> list[dict[str, Any]]:
    """Return tokens and the class of each example."""
    classes_N = examples.targets_NC.argmax(axis=1)
    return [
        {"input_ids": row.tolist(), "labels": int(label)} for row, label in zip(examples.tokens, classes_N, strict=True)
    ]


def trainer_of(
    hf: PreTrainedModel,
    rows: list[dict[str, Any]],
    collate: DataCollatorWithPadding,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    **settings: Any,
) -> Trainer:
    """Return a `Trainer` with these settings that prints and saves nothing."""
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        optim="adamw_torch_fused",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    trainer = Trainer(hf, arguments, collate, rows, callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)
    return trainer
