"""Numerics that change without a new recipe: the losses of a few steps, pinned.

If a change of ours moves them, the same spec no longer gives the same weights: raise `RECIPE` in `spec/stage.py`, and
pin the new ones. A new version of torch or transformers may move them as well; say so where you pin them.
"""

import json

import numpy as np
import pytest

from tests.training.conftest import Onlooker, Tiny
from w2s_ray.spec.stage import RECIPE
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

PINNED_RECIPE = 2
PINNED: dict[tuple[str, str], list[float]] = {
    ("naive", "floor"): [0.678358, 0.663712, 0.619035, 0.600753, 0.546831, 0.534162, 0.486456],
    ("naive", "chain"): [0.689326, 0.676824, 0.675429, 0.675941, 0.67754, 0.67336, 0.673293],
    ("confidence", "chain"): [0.689326, 0.604708, 0.542467, 0.463694, 0.473313, 0.432728, 0.391268],
}


def losses_of(tiny: Tiny, alone: Workers, method: str, arm: str) -> list[float]:
    for stage in tiny.chain(method).stages:
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        if stage.arm == arm:
            record = tiny.store.find(stage.identity)
            assert record is not None
            lines = (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()
            return [json.loads(line)["loss"] for line in lines]
    raise AssertionError(arm)


@pytest.mark.parametrize(("method", "arm"), [("naive", "floor"), ("naive", "chain"), ("confidence", "chain")])
def test_losses_change_only_with_the_recipe(tiny: Tiny, alone: Workers, method: str, arm: str) -> None:
    assert RECIPE == PINNED_RECIPE, "a new recipe: pin its losses"
    np.testing.assert_allclose(losses_of(tiny, alone, method, arm), PINNED[method, arm], rtol=1e-4)
