"""The transforms of labels that spec/labels.py defines: pure functions from one set of labelled examples to another.

`apply` applies several one after another. None of them knows where labels or features come from. To add one, write its
class in spec/labels.py (where the formulas and their sources are) and register its function here by `kind`.

Examples of one group are related: a question with its right and its wrong answer has nearly equal features and opposite
labels. A proposal for an example never uses its own group.

Chance is a coin per example, hash(seed, purpose, id): it does not depend on the order of the examples, on which other
examples there are, or on earlier coins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray, FloatArray, IntArray
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import (
    Harden,
    KeepConfident,
    KeepRandom,
    Knn,
    Logistic,
    MixGroundTruth,
    Permute,
    SyntheticErrors,
    Topological,
    Transform,
)

NUM_FOLDS = 5
"""Folds of the logistic transform: each is predicted by a regression on the others."""
_MAX_ITERATIONS = 1000
_DECIMALS = 9
"""Smaller differences between labels are rounding errors, and a coin decides."""
_FUNCTIONS: dict[str, Callable[[Any, "LabelSet"], "LabelSet"]] = {}
"""The function of each kind of transform."""
_AnyFunction = TypeVar("_AnyFunction", bound=Callable[[Any, "LabelSet"], "LabelSet"])


@dataclass(frozen=True)
class LabelSet:
    """N examples and what is known about them."""

    ids: Sequence[str]
    targets_NC: FloatArray
    """The label of each: a probability per class."""
    coin_seed: int = 0
    truth_N: IntArray | None = None
    """True classes, for the transforms that read them."""
    features_ND: FloatArray | None = None
    """The student's hidden states, for the transforms that compare them."""
    groups_N: IntArray | None = None
    """Related examples have the same number; None where each is its own group."""

    @property
    def hard_N(self) -> IntArray:
        """The most probable class of each; between equal ones a coin decides, so that no class gets all ties."""
        is_best_NC = self.targets_NC == self.targets_NC.max(axis=1, keepdims=True)
        chosen_N = self.coins("tie") % is_best_NC.sum(axis=1)
        return np.asarray((is_best_NC.cumsum(axis=1) > chosen_N[:, None]).argmax(axis=1), dtype=np.int64)

    def coins(self, purpose: str) -> IntArray:
        """Return a 63-bit integer per example (N)."""
        return np.array([seeded_hash(self.coin_seed, purpose, id_) for id_ in self.ids], dtype=np.int64)

    @property
    def group_of_N(self) -> IntArray:
        """The group of each, numbered from 0."""
        if self.groups_N is None:
            return np.arange(len(self.ids))
        return np.asarray(np.unique(self.groups_N, return_inverse=True)[1])

    def first(self, num: int, *keys: npt.NDArray[np.generic]) -> BoolArray:
        """Mark the `num` examples that come first by `keys` (N each), the most important key first."""
        chosen_N = np.zeros(len(self.ids), dtype=np.bool_)
        chosen_N[np.lexsort(keys[::-1])[:num]] = True
        return chosen_N

    def num_of(self, fraction: float) -> int:
        """Return how many examples a fraction of them is; all transforms round alike."""
        return round(fraction * len(self.ids))

    def num_kept(self, fraction: float) -> int:
        """Return how many examples a filter keeps: at least one, because a stage needs an example."""
        return max(self.num_of(fraction), 1)

    def only(self, kept_N: BoolArray) -> "LabelSet":
        """Return the marked examples."""
        return LabelSet(
            ids=[id_ for id_, is_kept in zip(self.ids, kept_N, strict=True) if is_kept],
            targets_NC=self.targets_NC[kept_N],
            coin_seed=self.coin_seed,
            truth_N=None if self.truth_N is None else self.truth_N[kept_N],
            features_ND=None if self.features_ND is None else self.features_ND[kept_N],
            groups_N=None if self.groups_N is None else self.groups_N[kept_N],
        )

    def relabelled(self, targets_NC: FloatArray) -> "LabelSet":
        """Return the same examples with other labels."""
        return replace(self, targets_NC=targets_NC)

    def hardened(self, classes_N: IntArray) -> "LabelSet":
        """Return the same examples with all probability on the given classes."""
        return self.relabelled(np.eye(self.targets_NC.shape[1])[classes_N])


def apply(transforms: Sequence[Transform], examples: LabelSet) -> tuple[FloatArray, IntArray]:
    """Apply transforms one after another.

    Returns:
        The labels of the K examples that are kept (K × C), and their places among those given (K), in their order.

    Raises:
        DataError: when a transform gets too few examples.
    """
    left = examples
    for transform in transforms:
        left = _FUNCTIONS[transform.kind](transform, left)
    place = {id_: number for number, id_ in enumerate(examples.ids)}
    return left.targets_NC, np.array([place[id_] for id_ in left.ids], dtype=np.int64)


def _register(kind: str) -> Callable[[_AnyFunction], _AnyFunction]:
    def add(function: _AnyFunction) -> _AnyFunction:
        _FUNCTIONS[kind] = function
        return function

    return add


@_register("harden")
def _harden(_transform: Harden, examples: LabelSet) -> LabelSet:
    return examples.hardened(examples.hard_N)


@_register("keep_confident")
def _keep_confident(transform: KeepConfident, examples: LabelSet) -> LabelSet:
    num = examples.num_kept(transform.fraction)
    return examples.only(examples.first(num, -examples.targets_NC.max(axis=1), examples.coins(transform.kind)))


@_register("keep_random")
def _keep_random(transform: KeepRandom, examples: LabelSet) -> LabelSet:
    """Keep the examples with the lowest coins: a fraction of them, or as many as another filter would."""
    if transform.as_many_as is not None:
        num = len(_topological(transform.as_many_as, examples).ids)
    else:
        num = examples.num_kept(transform.fraction or 1.0)
    return examples.only(examples.first(num, examples.coins(transform.kind)))


@_register("knn")
def _knn(transform: Knn, examples: LabelSet) -> LabelSet:
    """Propose the mean label of each example's k nearest neighbours."""
    assert examples.features_ND is not None
    neighbours_NK = _nearest(examples.features_ND, transform.k, examples.group_of_N)
    return _trust(transform, examples, examples.targets_NC[neighbours_NK].mean(axis=1))


@_register("logistic")
def _logistic(transform: Logistic, examples: LabelSet) -> LabelSet:
    """Propose for each fold the predictions of a regression on the other folds."""
    assert examples.features_ND is not None
    group_of_N = examples.group_of_N
    coins_G = np.full(group_of_N.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(coins_G, group_of_N, examples.coins(transform.kind))  # a group has the lowest coin of its examples
    if len(coins_G) < NUM_FOLDS:
        raise DataError(
            f"the logistic transform of {len(coins_G)} groups of examples needs at least {NUM_FOLDS}, one per fold",
            "keep more examples before it, or train on more",
        )
    fold_N = (np.argsort(np.argsort(coins_G)) % NUM_FOLDS)[group_of_N]
    proposed_NC = np.empty_like(examples.targets_NC)
    for fold in range(NUM_FOLDS):
        inside_N = fold_N == fold
        proposed_NC[inside_N] = _regress(
            examples.features_ND[~inside_N],
            examples.targets_NC[~inside_N],
            examples.features_ND[inside_N],
            transform.l2_penalty,
        )
    return _trust(transform, examples, proposed_NC)


def _regress(features_ND: FloatArray, targets_NC: FloatArray, queries_MD: FloatArray, l2_penalty: float) -> FloatArray:
    """Return the class probabilities (M × C) of a logistic regression on N soft labels.

    An example occurs once per class, weighted by the probability of that class.
    """
    from sklearn.linear_model import LogisticRegression  # imported here because it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    num_examples, num_classes = targets_NC.shape
    proposed_MC = np.zeros((len(queries_MD), num_classes))
    present = np.flatnonzero(targets_NC.sum(axis=0) > 0)
    if len(present) == 1:
        proposed_MC[:, present] = 1.0
        return proposed_MC
    # scikit-learn minimises ½‖W‖² + C Σ loss.
    regression = LogisticRegression(C=1 / (2 * num_examples * l2_penalty), max_iter=_MAX_ITERATIONS)
    model = make_pipeline(StandardScaler(), regression)
    model.fit(
        np.tile(features_ND, (len(present), 1)),
        np.repeat(present, num_examples),
        logisticregression__sample_weight=targets_NC[:, present].T.reshape(-1),
    )
    proposed_MC[:, present] = model.predict_proba(queries_MD)
    return proposed_MC


@_register("topological")
def _topological(transform: Topological, examples: LabelSet) -> LabelSet:
    """Trust members of the components alone; propose the mean label of the k nearest members (Wu et al. 2020)."""
    assert examples.features_ND is not None
    group_of_N = examples.group_of_N
    members_N = _components(examples.features_ND, examples.hard_N, transform.k, group_of_N)
    features_MD, targets_MC = examples.features_ND[members_N], examples.targets_NC[members_N]
    group_of_M = group_of_N[members_N]
    k = min(transform.k, len(group_of_M) - int(np.bincount(group_of_M).max()))
    if k < 1:
        raise DataError(
            "the components of the topological transform have the examples of a single group",
            "raise its k, keep more examples before it, or train on more",
        )
    proposed_NC = np.empty_like(examples.targets_NC)
    proposed_NC[members_N] = targets_MC[_nearest(features_MD, k, group_of_M)].mean(axis=1)
    if not members_N.all():
        outside = (examples.features_ND[~members_N], group_of_N[~members_N])
        proposed_NC[~members_N] = targets_MC[_nearest(features_MD, k, group_of_M, *outside)].mean(axis=1)
    return _trust(transform, examples, proposed_NC, members_N)


def _components(features_ND: FloatArray, hard_N: IntArray, k: int, group_of_N: IntArray) -> BoolArray:
    """Mark each class's largest component of the mutual k-nearest-neighbour graph; of equal ones the first."""
    num_examples = len(features_ND)
    rows, columns = np.repeat(np.arange(num_examples), k), _nearest(features_ND, k, group_of_N).reshape(-1)
    points_to_NN = csr_array((np.ones(num_examples * k), (rows, columns)), shape=(num_examples, num_examples))
    mutual_NN = csr_array(points_to_NN.multiply(points_to_NN.T))
    members_N = np.zeros(num_examples, dtype=np.bool_)
    for hard_class in np.unique(hard_N):
        of_class = np.flatnonzero(hard_N == hard_class)
        _, component = connected_components(mutual_NN[of_class][:, of_class], directed=False)
        members_N[of_class[component == np.bincount(component).argmax()]] = True
    return members_N


@_register("mix_ground_truth")
def _mix_ground_truth(transform: MixGroundTruth, examples: LabelSet) -> LabelSet:
    """Give the lowest coins their true label, so a larger fraction includes a smaller one's examples."""
    assert examples.truth_N is not None
    is_true_N = examples.first(examples.num_of(transform.fraction), examples.coins(transform.kind))
    truth_NC = examples.hardened(examples.truth_N).targets_NC
    return examples.relabelled(np.where(is_true_N[:, None], truth_NC, examples.targets_NC))


@_register("synthetic_errors")
def _synthetic_errors(transform: SyntheticErrors, examples: LabelSet) -> LabelSet:
    """Shuffle the supervisor's hard labels by coins among the examples of one true class.

    If a student recovers more from these labels than from the supervisor's own hard labels, what limits it is the kind
    of example that the supervisor gets wrong, and not the number of errors.
    """
    assert examples.truth_N is not None
    coins_N, hard_N = examples.coins(transform.kind), examples.hard_N
    classes_N = np.empty_like(hard_N)
    for truth in np.unique(examples.truth_N):
        members_M = np.flatnonzero(examples.truth_N == truth)
        classes_N[members_M[np.argsort(coins_N[members_M])]] = np.sort(hard_N[members_M])
    return examples.hardened(classes_N)


@_register("permute")
def _permute(transform: Permute, examples: LabelSet) -> LabelSet:
    """Give the labels in the order of one coin to the examples in the order of another."""
    targets_NC = np.empty_like(examples.targets_NC)
    taken_from_N = np.argsort(examples.coins(f"{transform.kind} from"))
    targets_NC[np.argsort(examples.coins(f"{transform.kind} to"))] = examples.targets_NC[taken_from_N]
    return examples.relabelled(targets_NC)


def _trust(
    transform: Knn | Logistic | Topological,
    examples: LabelSet,
    proposed_NC: FloatArray,
    eligible_N: BoolArray | None = None,
) -> LabelSet:
    """Trust the labels that differ least from those proposed; drop or relabel the others.

    The difference is d(p, q) = ½ Σ_c |p_c − q_c|, in [0, 1]. Only eligible labels are trusted, if `eligible_N` is
    given, even if these are fewer than the transform's fraction.
    """
    is_filter = transform.mode == "filter"
    num = examples.num_kept(transform.fraction) if is_filter else examples.num_of(transform.fraction)
    if eligible_N is None:
        eligible_N = np.ones(len(examples.ids), dtype=np.bool_)
    differs_N = np.asarray(0.5 * np.abs(examples.targets_NC - proposed_NC).sum(axis=1)).round(_DECIMALS)
    trusted_N = examples.first(min(num, int(eligible_N.sum())), ~eligible_N, differs_N, examples.coins(transform.kind))
    if is_filter:
        return examples.only(trusted_N)
    return examples.relabelled(np.where(trusted_N[:, None], examples.targets_NC, proposed_NC))


def _nearest(
    features_ND: FloatArray,
    k: int,
    group_of_N: IntArray,
    queries_MD: FloatArray | None = None,
    group_of_M: IntArray | None = None,
) -> IntArray:
    """Return the row numbers of the k nearest features (Euclidean) of other groups, the nearest first (M × K).

    Without queries each feature is a query.

    Raises:
        DataError: when there are fewer than k outside a group.
    """
    from sklearn.neighbors import NearestNeighbors  # imported here because it takes a second

    is_query = group_of_M is None  # scikit-learn leaves out a query itself
    group_of_M = group_of_N if group_of_M is None else group_of_M
    largest = int(np.bincount(group_of_N, minlength=group_of_M.max() + 1)[group_of_M].max())
    most = len(features_ND) - largest
    if k > most:
        raise DataError(
            f"k = {k} must be at most {most}, the examples outside the largest group of related ones",
            "lower the transform's k, keep more examples before it, or train on more",
        )
    index = NearestNeighbors(n_neighbors=k + largest - is_query, algorithm="brute").fit(features_ND)
    nearest_MA = np.asarray(index.kneighbors(queries_MD, return_distance=False), dtype=np.int64)
    is_own_MA = group_of_N[nearest_MA] == group_of_M[:, None]
    return np.take_along_axis(nearest_MA, np.argsort(is_own_MA, axis=1, kind="stable")[:, :k], axis=1)
