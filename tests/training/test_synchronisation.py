"""The training loop waits for the device once in a step; on a GPU each further wait leaves it idle."""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.conftest import Onlooker, Tiny
from tests.training.test_feed import feeder_of
from w2s_ray.spec.losses import ConfidenceLoss
from w2s_ray.training.loop import Loop
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal")
"""Operations whose result the host needs before it goes on."""
METHODS = ("tolist", "cpu", "numpy")
"""Methods of tensors that copy from the device; those of a tensor on the CPU dispatch nothing."""
OF_DEEPSPEED = {0: 0, 1: 3, 2: 3}
"""Waits in DeepSpeed's step: whether norms of the two parameter groups, and of both together, are finite."""


class Waits(TorchDispatchMode):
    """Counts waits by whether our code, or a library's, asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.others = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITING:
            self.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def add(self, name: str) -> None:
        callers = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename][:-2]
        if callers[-1].name == "_text_by_text":
            return  # the kernel of CPUs
        place = f"{name} in {callers[-1].filename}:{callers[-1].lineno}"
        (self.ours if "w2s_ray/" in callers[-1].filename else self.others)[place] += 1


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Count the waits of the training loops inside the block."""
    waits, run = Waits(), Loop.run

    def watched(loop: Loop, *args: Any) -> Any:
        with monkeypatch.context() as patches:
            for name in METHODS:
                original = getattr(torch.Tensor, name)

                def method(tensor: torch.Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
                    waits.add(_name)
                    return _original(tensor, *args)

                patches.setattr(torch.Tensor, name, method)
            with waits:
                return run(loop, *args)

    with monkeypatch.context() as patches:
        patches.setattr(Loop, "run", watched)
        yield waits


@pytest.mark.parametrize(
    ("zero_stage", "reads_predictions", "attention"),
    [(0, False, "varlen"), (0, True, "varlen"), (1, False, "varlen"), (2, False, "varlen"), (0, False, "sdpa")],
)
def test_a_step_waits_for_the_device_once(
    tiny: Tiny,
    alone: Workers,
    monkeypatch: pytest.MonkeyPatch,
    zero_stage: int,
    reads_predictions: bool,
    attention: str,
) -> None:
    stage = tiny.chain(zero_stage=zero_stage, attention=attention, checkpoint_every_seconds=3600).stages[0]
    if reads_predictions:
        stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"loss": ConfidenceLoss()})})
    with counted(monkeypatch) as waits:
        result = run_stage(
            stage.model_copy(update={"predicts": ()}), store=tiny.store, workers=alone, observer=Onlooker()
        )
    steps = int(result.metrics["num_steps"])
    # A loss that reads the predictions for the whole batch waits for these, and copies them: cpu() and numpy().
    assert waits.ours.total() == steps * (3 if reads_predictions else 1), waits.ours
    padded = steps * (attention == "sdpa")  # transformers looks whether each micro-batch is packed
    assert waits.others.total() == steps * OF_DEEPSPEED[zero_stage] + padded, waits.others


def test_the_inputs_of_the_next_step_are_prepared_while_one_is_taken() -> None:
    feeder = feeder_of([[5, 6], [7, 8, 9], [5], [6, 7, 8, 9]])
    steps = [np.array([0, 1]), np.array([2, 3])]
    prepared = feeder.in_advance(steps)
    first = next(prepared)
    assert feeder.largest.tokens == first[0].tokens_RT.numel() == 6, "that of the step that is taken"
    second = next(prepared)
    assert feeder.largest.tokens == second[0].tokens_RT.numel() == 8
    assert next(prepared, None) is None
    for batches, positions_N in zip((first, second), steps, strict=True):
        (expected,) = feeder.micro_batches(positions_N)
        assert torch.equal(batches[0].tokens_RT, expected.tokens_RT)


def test_an_error_while_inputs_are_prepared_is_raised_at_their_step() -> None:
    prepared = feeder_of([[5, 6]]).in_advance([np.array([0]), np.array([1])])
    assert len(next(prepared)) == 1
    with pytest.raises(IndexError):
        next(prepared)


def test_a_feeder_without_steps_prepares_nothing() -> None:
    assert list(feeder_of([[5, 6]]).in_advance([])) == []
