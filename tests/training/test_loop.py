"""The loop's learning rate; the loop itself is tested through whole stages."""

import numpy as np
import pytest

from w2s_ray.spec.stage import Optimisation
from w2s_ray.training.loop import learning_rate_at


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_learning_rate_warms_up_in_a_line_and_falls_in_a_cosine_to_its_floor(floor: float) -> None:
    optimisation = Optimisation(learning_rate=2e-3, warmup_fraction=0.2, final_lr_fraction=floor)
    rates = [learning_rate_at(optimisation, step, 50) for step in range(51)]
    np.testing.assert_allclose(rates[:10], 2e-4 * np.arange(1, 11))
    assert rates[10] == pytest.approx(2e-3)
    assert rates[30] == pytest.approx(2e-3 * (1 + floor) / 2), "half way down after half of the steps"
    assert rates[50] == pytest.approx(2e-3 * floor)
    assert np.all(np.diff(rates[10:]) < 0)


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert learning_rate_at(Optimisation(learning_rate=1e-3, warmup_fraction=0), 0, 10) == pytest.approx(1e-3)
