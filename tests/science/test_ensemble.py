"""One label from several supervisors, computed by hand."""

import numpy as np

from w2s_ray.science.ensemble import combine, samme_weights


def test_labels_of_supervisors_are_averaged_or_voted_on() -> None:
    probs_SNC = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.6], [0.3, 0.7]], [[0.45, 0.55], [0.1, 0.9]]])
    np.testing.assert_allclose(combine(probs_SNC, "mean"), [[1.75 / 3, 1.25 / 3], [0.2, 0.8]])
    np.testing.assert_allclose(combine(probs_SNC, "vote"), [[1 / 3, 2 / 3], [0, 1]])


def test_weighted_votes_count_by_samme() -> None:
    probs_SNC = np.array([[[0.9, 0.1]], [[0.4, 0.6]], [[0.4, 0.6]]])
    good, poor = np.log(0.9 / 0.1), np.log(0.7 / 0.3)
    combined = combine(probs_SNC, "weighted", np.array([0.1, 0.3, 0.3]), 100)
    np.testing.assert_allclose(combined, [[good / (good + 2 * poor), 2 * poor / (good + 2 * poor)]])
    assert combined[0, 0] > 0.5, "one good supervisor outvotes two poor ones"


def test_supervisors_at_chance_weigh_nothing_and_perfect_ones_a_finite_weight() -> None:
    np.testing.assert_allclose(samme_weights(np.array([0.5, 0.6, 0.2]), 50, 2), [0, 0, 1])
    np.testing.assert_allclose(samme_weights(np.array([0.5, 0.7]), 50, 2), [0.5, 0.5])
    assert samme_weights(np.array([0.7, 0.5]), 50, 4)[0] > 0, "of four classes chance is 75 % wrong"
    perfect = samme_weights(np.array([0.0, 0.01]), 50, 2)
    assert np.isfinite(perfect).all() and perfect[0] == perfect[1], "half an example of 50 is the least"
