"""What needs no understanding: always the majority, or the length of the text.

A student is worth little that beats neither. Lengths leak where one class's texts are longer, as with preferred
answers; the baseline fits on the training examples, with ground truth, what length alone tells.
"""

import numpy as np


def majority(train_N: np.ndarray) -> int:
    """Return the most frequent label; of equally frequent ones the lowest."""
    labels, counts = np.unique(train_N, return_counts=True)
    return int(labels[counts.argmax()])


def by_length(train_lengths_N: np.ndarray, train_labels_N: np.ndarray, lengths_M: np.ndarray) -> np.ndarray:
    """Return the classes (M) that logistic regression on a length alone predicts.

    Args:
        train_lengths_N: a number for each training example: the characters of its text, or of a pair the first text's
            less the second's.
        train_labels_N: its class.
        lengths_M: the same number for each example to be predicted.
    """
    from sklearn.linear_model import LogisticRegression  # loaded only where it is used: it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_labels_N)) < 2:
        return np.full(len(lengths_M), train_labels_N[0])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(train_lengths_N[:, None], train_labels_N)
    return np.asarray(model.predict(lengths_M[:, None]))
