"""The losses give the paper's values, computed here independently."""

import numpy as np
import pytest
import torch

from w2s_ray.spec.stage import ConfidenceLoss
from w2s_ray.training.losses import (
    alpha_at,
    confidence_targets,
    hardened,
    next_token_cross_entropy,
    share_above,
    soft_cross_entropy,
)


def test_soft_cross_entropy_is_minus_the_sum_of_target_times_log_probability() -> None:
    logits = np.array([[0.3, -1.2], [2.0, 0.5]])
    target = np.array([[0.9, 0.1], [0.25, 0.75]])
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(target * log_probs).sum()
    assert float(soft_cross_entropy(torch.tensor(logits), torch.tensor(target))) == pytest.approx(expected, rel=1e-6)


def test_next_token_loss_ignores_filler_rows() -> None:
    torch.manual_seed(0)
    logits, tokens = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    one = next_token_cross_entropy(logits[:1], tokens[:1], torch.ones(1))
    both = next_token_cross_entropy(logits, tokens, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(one, both)


def test_alpha_rises_linearly_over_the_first_fifth_and_does_not_jump() -> None:
    loss = ConfidenceLoss(alpha_max=0.75)
    values = [alpha_at(loss, step, 100) for step in range(100)]
    assert values[0] == 0.0
    assert values[10] == pytest.approx(0.375)
    assert max(np.diff(values)) == pytest.approx(0.75 / 20)
    assert values[20:] == [0.75] * 80


def test_the_threshold_puts_half_of_the_batch_above_whatever_the_level_of_the_probabilities() -> None:
    p1 = np.linspace(0.9, 0.99, 10)
    probs = np.stack([1 - p1, p1], axis=1).astype(np.float32)
    classes = hardened(probs, np.arange(10), 0.5).argmax(axis=1)
    assert classes.tolist() == [0] * 5 + [1] * 5


def test_ties_are_broken_by_the_hash_of_the_example_and_not_by_its_place() -> None:
    probs = np.full((6, 2), 0.5, dtype=np.float32)
    ties = np.array([5, 3, 1, 0, 2, 4])
    classes = hardened(probs, ties, 0.5).argmax(axis=1)
    assert classes.tolist() == [0, 0, 1, 1, 1, 0]
    order = np.array([3, 0, 5, 1, 4, 2])
    assert hardened(probs[order], ties[order], 0.5).argmax(axis=1).tolist() == classes[order].tolist()


def test_the_weak_prior_splits_by_the_mean_soft_label() -> None:
    assert share_above(ConfidenceLoss(prior="weak"), 0.3) == 0.3
    assert share_above(ConfidenceLoss(prior="half"), 0.3) == 0.5


def test_more_than_two_classes_harden_to_the_most_probable() -> None:
    probs = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=np.float32)
    assert hardened(probs, np.arange(2), 0.5).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_targets_mix_weak_labels_and_own_predictions_by_alpha() -> None:
    probs = np.array([[0.8, 0.2], [0.1, 0.9]], dtype=np.float32)
    weak = np.array([[0.4, 0.6], [0.3, 0.7]], dtype=np.float32)
    mixed = confidence_targets(probs, weak, np.arange(2), alpha=0.5, share=0.5)
    np.testing.assert_allclose(mixed, [[0.7, 0.3], [0.15, 0.85]], rtol=1e-6)
