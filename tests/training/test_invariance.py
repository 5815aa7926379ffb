"""Execution never changes a result: workers, ZeRO stage, micro-batches give the same losses (design: identity)."""

from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import Tiny, make_tiny
from tests.training.group import run_cases

ROOMY, TIGHT = 100_000, 64
LOSSES = ("naive", "confidence")
ONE_WORKER = [(0, ROOMY), (0, TIGHT)]
TWO_WORKERS = [(0, ROOMY), (1, ROOMY), (2, ROOMY), (3, ROOMY), (1, TIGHT), (2, TIGHT), (3, TIGHT)]


def cases(tiny: Tiny, shapes: list[tuple[int, int]]) -> dict[str, str]:
    found = {}
    for method in LOSSES:
        for zero_stage, tokens in shapes:
            chain = tiny.chain(method, zero_stage=zero_stage, tokens_per_micro_batch=tokens)
            student = chain.find("chain", "large")
            assert student is not None
            found[f"{method}-{zero_stage}-{tokens}"] = student.model_copy(update={"predicts": ()}).model_dump_json()
    return found


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    folder: Path = tmp_path_factory.mktemp("invariance")
    tiny = make_tiny(folder)
    floor = tiny.chain("naive").stages[0]
    run_cases({"floor": floor.model_dump_json()}, tiny.store.root, 1, folder, reset=False)
    (folder / "meeting1").unlink(missing_ok=True)
    one = run_cases(cases(tiny, ONE_WORKER), tiny.store.root, 1, folder, reset=True)
    two = run_cases(cases(tiny, TWO_WORKERS), tiny.store.root, 2, folder, reset=True)
    return {"1": one, "2": two}


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize(
    ("workers", "zero_stage", "tokens"),
    [("1", *shape) for shape in ONE_WORKER[1:]] + [("2", *shape) for shape in TWO_WORKERS],
)
def test_the_same_stage_gives_the_same_losses_however_it_is_executed(
    losses: dict[str, dict[str, list[float]]], method: str, workers: str, zero_stage: int, tokens: int
) -> None:
    reference = losses["1"][f"{method}-0-{ROOMY}"]
    found = losses[workers][f"{method}-{zero_stage}-{tokens}"]
    np.testing.assert_allclose(found, reference, rtol=1e-5)


def test_the_two_losses_are_told_apart_by_this_test(losses: dict[str, dict[str, list[float]]]) -> None:
    naive, confidence = (losses["1"][f"{method}-0-{ROOMY}"] for method in LOSSES)
    assert not np.allclose(naive, confidence, rtol=1e-3)
