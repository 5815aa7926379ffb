"""A label is trusted where a linear reading of the features, fitted to the labels of other examples, agrees."""

import numpy as np

from w2s_ray.errors import DataError
from w2s_ray.science.relabelling.label_set import FloatArray, LabelSet
from w2s_ray.science.relabelling.trust import trust
from w2s_ray.spec.transforms import Logistic

NUM_FOLDS = 5
_MAX_ITERATIONS = 1000


def logistic(transform: Logistic, examples: LabelSet) -> LabelSet:
    """Propose for each fold what a regression on the other folds says of it.

    Raises:
        DataError: when there are fewer examples than folds.
    """
    assert examples.features_ND is not None
    count = len(examples.ids)
    if count < NUM_FOLDS:
        raise DataError(
            f"a logistic regression on {count} examples",
            f"each of {NUM_FOLDS} folds is judged by the others",
            "keep more examples before it, or train on more",
        )
    fold_N = np.argsort(np.argsort(examples.coins(transform.kind))) % NUM_FOLDS
    proposed_NC = np.empty_like(examples.targets_NC)
    for fold in range(NUM_FOLDS):
        inside_N = fold_N == fold
        proposed_NC[inside_N] = _fitted(
            examples.features_ND[~inside_N],
            examples.targets_NC[~inside_N],
            examples.features_ND[inside_N],
            transform.l2_penalty,
        )
    return trust(transform, examples, proposed_NC)


def _fitted(features_ND: FloatArray, targets_NC: FloatArray, asked_MD: FloatArray, l2_penalty: float) -> FloatArray:
    """Fit on soft labels: an example stands there once for each class, weighted by that class's probability."""
    from sklearn.linear_model import LogisticRegression  # slow to load, as in trust.py
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count, num_classes = targets_NC.shape
    proposed_MC = np.zeros((len(asked_MD), num_classes))
    present = np.flatnonzero(targets_NC.sum(axis=0) > 0)
    if len(present) == 1:
        proposed_MC[:, present] = 1.0
        return proposed_MC
    # scikit-learn minimises ½‖W‖² + C Σ loss.
    regression = LogisticRegression(C=1 / (2 * count * l2_penalty), max_iter=_MAX_ITERATIONS)
    model = make_pipeline(StandardScaler(), regression)
    model.fit(
        np.tile(features_ND, (len(present), 1)),
        np.repeat(present, count),
        logisticregression__sample_weight=targets_NC[:, present].T.reshape(-1),
    )
    proposed_MC[:, present] = model.predict_proba(asked_MD)
    return proposed_MC
