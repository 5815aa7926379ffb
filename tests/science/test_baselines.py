"""What the majority and the length of a text alone can tell."""

import numpy as np

from w2s_ray.science.metrics import by_length, majority


def test_the_majority_is_the_most_frequent_label_and_of_equal_ones_the_lowest() -> None:
    assert majority(np.array([2, 0, 2, 1])) == 2
    assert majority(np.array([1, 0, 0, 1])) == 0


def test_a_class_of_longer_texts_is_found_by_length_alone() -> None:
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 2, 400)
    lengths_N = 100 + 400 * labels_N + random.integers(0, 50, 400)
    assert by_length(lengths_N, labels_N, np.array([90, 120, 300 + 250, 9000])).tolist() == [0, 0, 1, 1]
    assert by_length(lengths_N, 1 - labels_N, np.array([90, 9000])).tolist() == [1, 0]


def test_a_length_that_says_nothing_predicts_about_half() -> None:
    random = np.random.default_rng(1)
    train_N, test_N = random.integers(10, 900, 1000), random.integers(10, 900, 1000)
    predicted_N = by_length(train_N, np.arange(1000) % 2, test_N)
    assert 0.42 < (predicted_N == np.arange(1000) % 2).mean() < 0.58


def test_training_examples_of_one_class_leave_nothing_to_fit() -> None:
    assert by_length(np.array([1, 2]), np.array([1, 1]), np.array([5, 6, 7])).tolist() == [1, 1, 1]
