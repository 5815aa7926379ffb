"""Transforms of labels, each against a computation that shares nothing with it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import networkx as nx
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from w2s_ray.errors import DataError
from w2s_ray.science import relabelling
from w2s_ray.science.relabelling import NUM_FOLDS, LabelSet, apply
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

FILTERS: list[Transform] = [
    KeepConfident(fraction=0.37),
    Knn(mode="filter", fraction=0.37, k=5),
    Logistic(mode="filter", fraction=0.37),
]
NO_FEATURES: list[Transform] = [
    Harden(),
    KeepConfident(fraction=0.5),
    KeepRandom(fraction=0.5),
    MixGroundTruth(fraction=0.5),
    SyntheticErrors(),
    Permute(),
]


def examples(num: int = 90, num_classes: int = 2, *, seed: int = 0, wrong: float = 0.2) -> LabelSet:
    """Blobs of points, one a class; weak labels that are wrong on a share of the points."""
    draws = np.random.default_rng(seed)
    truth_N = draws.integers(num_classes, size=num)
    centres_CD = 4 * np.eye(num_classes, 6)
    said_N = np.where(draws.random(num) < wrong, (truth_N + 1) % num_classes, truth_N)
    logits_NC = 2 * np.eye(num_classes)[said_N] + 0.5 * draws.standard_normal((num, num_classes))
    return LabelSet(
        ids=[f"e{number}" for number in range(num)],
        targets_NC=softmax(logits_NC, axis=1),
        coin_seed=seed,
        truth_N=truth_N,
        features_ND=centres_CD[truth_N] + draws.standard_normal((num, 6)),
    )


def grouped(num_groups: int = 45, *, apart: float = 0.5, seed: int = 0, wrong: float = 0.2) -> LabelSet:
    """Questions, each with its right and its wrong answer, in an order that separates the two.

    The features of a pair are far from those of other pairs; the answers differ by `apart` along one direction.
    """
    draws = np.random.default_rng(seed)
    truth_N, question_N = np.repeat([1, 0], num_groups), np.tile(np.arange(num_groups), 2)
    features_ND = draws.standard_normal((num_groups, 6))[question_N] + 0.01 * draws.standard_normal((2 * num_groups, 6))
    features_ND[:, 0] += np.where(truth_N, apart, -apart)
    hard_N = np.where(draws.random(2 * num_groups) < wrong, 1 - truth_N, truth_N)
    return LabelSet(
        ids=[f"e{number}" for number in range(2 * num_groups)],
        targets_NC=np.where(np.eye(2)[hard_N] > 0, 0.8, 0.2),
        coin_seed=seed,
        truth_N=truth_N,
        features_ND=features_ND,
        groups_N=question_N,
    )


GIVEN = {"alone": examples, "grouped": grouped}
"""Examples that are each their own group, and pairs."""


def distances(given: LabelSet) -> np.ndarray:
    """Between all pairs, and infinite to the own group."""
    assert given.features_ND is not None
    between_NN = np.sqrt(((given.features_ND[:, None] - given.features_ND[None]) ** 2).sum(axis=2))
    group_of_N = given.group_of_N
    return np.where(group_of_N[:, None] == group_of_N, np.inf, between_NN)


def shuffled(given: LabelSet, seed: int = 3) -> tuple[LabelSet, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(given.ids))
    assert given.truth_N is not None and given.features_ND is not None
    moved = LabelSet(
        [given.ids[place] for place in order],
        given.targets_NC[order],
        given.coin_seed,
        given.truth_N[order],
        given.features_ND[order],
        given.groups_N[order] if given.groups_N is not None else None,
    )
    return moved, order


def by_id(given: LabelSet, *transforms: Transform) -> dict[str, list[float]]:
    targets_KC, kept_K = apply(transforms, given)
    return {given.ids[place]: row.tolist() for place, row in zip(kept_K, targets_KC, strict=True)}


def test_without_transforms_labels_stay_the_same() -> None:
    given = examples()
    targets_NC, kept_N = apply((), given)
    np.testing.assert_array_equal(targets_NC, given.targets_NC)
    np.testing.assert_array_equal(kept_N, np.arange(90))


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("transform", [*NO_FEATURES, *FILTERS, Topological(mode="relabel", k=6)], ids=lambda t: t.kind)
def test_trap_21_a_coin_depends_on_the_example_and_not_on_its_place(
    transform: Transform, make: Callable[[], LabelSet]
) -> None:
    given = make()
    moved, _ = shuffled(given)
    first, second = by_id(given, transform), by_id(moved, transform)
    assert first.keys() == second.keys()
    for id_ in first:
        np.testing.assert_allclose(first[id_], second[id_], atol=1e-6)


@pytest.mark.parametrize(
    "transform", [KeepRandom(fraction=0.5), MixGroundTruth(fraction=0.5), SyntheticErrors(), Permute()]
)
def test_another_seed_gives_other_coins(transform: Transform) -> None:
    given = examples()
    other = LabelSet(given.ids, given.targets_NC, 1, given.truth_N, given.features_ND)
    assert by_id(given, transform) == by_id(given, transform)
    assert by_id(given, transform) != by_id(other, transform)


def test_hard_labels_are_all_on_the_most_probable_class() -> None:
    given = examples(num_classes=3)
    targets_NC, _ = apply((Harden(),), given)
    for row, soft in zip(targets_NC, given.targets_NC, strict=True):
        assert sorted(row) == [0, 0, 1] and soft[row == 1] == soft.max()


def test_ties_are_hardened_by_a_coin_and_not_always_to_class_0() -> None:
    given = LabelSet([f"e{n}" for n in range(400)], np.full((400, 2), 0.5))
    share = apply((Harden(),), given)[0][:, 1].mean()
    assert 0.4 < share < 0.6


def test_keep_confident_keeps_the_examples_with_the_highest_probability() -> None:
    given = examples(num_classes=3)
    targets_KC, kept_K = apply((KeepConfident(fraction=0.4),), given)
    best = sorted(range(90), key=lambda n: -max(given.targets_NC[n]))[:36]
    assert kept_K.tolist() == sorted(best)
    np.testing.assert_array_equal(targets_KC, given.targets_NC[kept_K])


@pytest.mark.parametrize("num", [7, 90, 101])
@pytest.mark.parametrize("transform", FILTERS, ids=lambda t: t.kind)
def test_the_random_control_keeps_as_many_examples_as_its_filter(transform: Transform, num: int) -> None:
    given = examples(num)
    kept = len(apply((transform,), given)[1])
    control = len(apply((KeepRandom(fraction=transform.kept_share),), given)[1])
    assert kept == control == max(round(0.37 * num), 1)


def test_the_random_control_matches_a_filter_of_unknown_size() -> None:
    given = examples(wrong=0.3)
    filter_ = Topological(mode="filter", k=6)
    kept_K = apply((filter_,), given)[1]
    control_K = apply((KeepRandom(as_many_as=filter_),), given)[1]
    assert len(control_K) == len(kept_K) < 90
    assert control_K.tolist() != kept_K.tolist()


def test_a_larger_random_subset_contains_a_smaller_one() -> None:
    kept = [set(apply((KeepRandom(fraction=share),), examples())[1].tolist()) for share in (0.2, 0.5, 0.9)]
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN)
def test_knn_trusts_labels_close_to_the_mean_of_their_nearest_others(make: Callable[[], LabelSet]) -> None:
    given = make()
    proposed = [
        given.targets_NC[sorted(range(90), key=lambda j, n=n: distances_NN[n, j])[:7]].mean(axis=0)
        for distances_NN in [distances(given)]
        for n in range(90)
    ]
    differs = [abs(given.targets_NC[n][1] - proposed[n][1]).round(9) for n in range(90)]
    coins = [seeded_hash(0, "knn", id_) for id_ in given.ids]
    trusted = sorted(sorted(range(90), key=lambda n: (differs[n], coins[n]))[:63])
    assert apply((Knn(k=7, mode="filter", fraction=0.7),), given)[1].tolist() == trusted
    targets_NC, kept_N = apply((Knn(k=7, mode="relabel", fraction=0.7),), given)
    assert len(kept_N) == 90
    for n in range(90):
        np.testing.assert_allclose(targets_NC[n], given.targets_NC[n] if n in trusted else proposed[n])


def test_a_label_has_no_vote_about_itself() -> None:
    features_ND = np.array([[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]])
    targets_NC = np.array([[0, 1.0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    given = LabelSet(list("abcdef"), targets_NC, features_ND=features_ND)
    relabelled = by_id(given, Knn(k=2, mode="relabel", fraction=0.0))
    assert relabelled["a"] == [1, 0], "the only one of its class in its corner"


def test_relabelling_and_filtering_correct_labels_that_their_neighbours_contradict() -> None:
    given = examples(300, wrong=0.25)
    assert given.truth_N is not None
    before = (given.targets_NC.argmax(axis=1) == given.truth_N).mean()
    for method in (Knn, Logistic, Topological):
        relabelled_NC, _ = apply((method(mode="relabel", fraction=0.0),), given)
        kept_KC, kept_K = apply((method(mode="filter", fraction=0.6),), given)
        assert (relabelled_NC.argmax(axis=1) == given.truth_N).mean() > before + 0.15, method
        assert (kept_KC.argmax(axis=1) == given.truth_N[kept_K]).mean() > before + 0.15, method


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logistic_proposes_the_minimum_of_its_formula_over_the_other_folds(num_classes: int) -> None:
    given, penalty = examples(60, num_classes), 0.01
    assert given.features_ND is not None
    proposed_NC = np.empty((60, num_classes))
    ranked = sorted(range(60), key=lambda n: seeded_hash(0, "logistic", given.ids[n]))
    for fold in range(NUM_FOLDS):
        inside = ranked[fold::NUM_FOLDS]
        others = [n for n in range(60) if n not in inside]
        x_ND, p_NC = given.features_ND[others], given.targets_NC[others]
        mean_D, deviation_D = x_ND.mean(axis=0), x_ND.std(axis=0)
        x_ND = (x_ND - mean_D) / deviation_D

        def cost(flat: np.ndarray, x_ND: np.ndarray = x_ND, p_NC: np.ndarray = p_NC) -> float:
            weights_DC = flat.reshape(7, num_classes)
            logits_NC = x_ND @ weights_DC[:6] + weights_DC[6]
            loss = -(p_NC * log_softmax(logits_NC, axis=1)).sum(axis=1).mean()
            # Of two classes scikit-learn has one row of weights, the difference of ours.
            norm = ((weights_DC[:6, 1] - weights_DC[:6, 0]) ** 2).sum() if num_classes == 2 else 0.0
            return float(loss + penalty * (norm if num_classes == 2 else (weights_DC[:6] ** 2).sum()))

        best_DC = minimize(cost, np.zeros(7 * num_classes), options={"gtol": 1e-7}).x.reshape(7, num_classes)
        asked_MD = (given.features_ND[inside] - mean_D) / deviation_D
        proposed_NC[inside] = softmax(asked_MD @ best_DC[:6] + best_DC[6], axis=1)
    found_NC, _ = apply((Logistic(mode="relabel", fraction=0.0, l2_penalty=penalty),), given)
    np.testing.assert_allclose(found_NC, proposed_NC, atol=2e-3)


def test_a_logistic_regression_of_one_class_proposes_that_class() -> None:
    given = examples()
    only = LabelSet(given.ids, np.tile([0.0, 1.0], (90, 1)), features_ND=given.features_ND)
    targets_NC, _ = apply((Logistic(mode="relabel", fraction=0.0),), only)
    np.testing.assert_array_equal(targets_NC[:, 1], 1)


def components_by_networkx(given: LabelSet, k: int) -> set[int]:
    distances_NN = distances(given)
    near = [set(np.argsort(row)[:k].tolist()) for row in distances_NN]
    hard = given.targets_NC.argmax(axis=1)
    members: set[int] = set()
    for class_ in set(hard.tolist()):
        graph = nx.Graph()
        graph.add_nodes_from(np.flatnonzero(hard == class_).tolist())
        graph.add_edges_from((a, b) for a in graph for b in graph if a < b and a in near[b] and b in near[a])
        members |= max(nx.connected_components(graph), key=len)
    return members


@pytest.mark.parametrize(
    "given",
    [examples(120, 2), examples(120, 3), replace(examples(120, 2), groups_N=np.arange(120) // 3)],
    ids=["2 classes", "3 classes", "groups of three"],
)
def test_topological_keeps_the_largest_component_of_each_class(given: LabelSet) -> None:
    kept_K = apply((Topological(k=6, mode="filter"),), given)[1]
    expected = components_by_networkx(given, 6)
    assert set(kept_K.tolist()) == expected and 0.5 < len(expected) / 120 < 1


def test_topological_with_a_fraction_drops_members_unlike_their_neighbours() -> None:
    given = examples(120)
    members = sorted(components_by_networkx(given, 6))
    among_NN = distances(given)[np.ix_(members, members)]
    near = {n: [members[j] for j in np.argsort(row)[:6]] for n, row in zip(members, among_NN, strict=True)}
    differs = {n: abs(given.targets_NC[n][1] - given.targets_NC[near[n]].mean(axis=0)[1]) for n in members}
    kept_K = apply((Topological(k=6, mode="filter", fraction=0.5),), given)[1]
    assert kept_K.tolist() == sorted(sorted(members, key=lambda n: differs[n])[:60])


@pytest.mark.parametrize("group_size", [1, 3])
def test_topological_gives_outsiders_the_label_of_the_nearest_members(group_size: int) -> None:
    given = replace(examples(120), groups_N=np.arange(120) // group_size)
    members = sorted(components_by_networkx(given, 6))
    targets_NC, kept_N = apply((Topological(k=6, mode="relabel"),), given)
    assert len(kept_N) == 120
    distances_NN = distances(given)
    for n in range(120):
        near = sorted(members, key=lambda m, n=n: distances_NN[n, m])[:6]
        expected = given.targets_NC[n] if n in members else given.targets_NC[near].mean(axis=0)
        np.testing.assert_allclose(targets_NC[n], expected)


def test_trap_22_exact_twins_with_opposite_labels_do_not_vote_on_each_other() -> None:
    """The twins have equal features, so they get one proposal; a twin's vote would be against each of the two."""
    given = grouped(apart=0.0, wrong=0.0)
    assert given.features_ND is not None
    exact = replace(given, features_ND=given.features_ND[np.tile(np.arange(45), 2)])
    for transform in (Knn(k=1, mode="relabel", fraction=0.0), Logistic(mode="relabel", fraction=0.0)):
        first_QC, second_QC = np.split(apply((transform,), exact)[0], 2)
        np.testing.assert_allclose(first_QC, second_QC, err_msg=transform.kind)
    voted_NC, _ = apply((Knn(k=1, mode="relabel", fraction=0.0),), replace(exact, groups_N=None))
    assert (voted_NC.argmax(axis=1) != exact.truth_N).all(), "a twin's vote is wrong for both"


@pytest.mark.parametrize("kind", [Knn, Logistic])
def test_trap_22_a_proposal_does_not_depend_on_the_labels_of_the_own_group(kind: type[Knn] | type[Logistic]) -> None:
    given, transform = grouped(), kind(mode="relabel", fraction=0.0)
    before_NC, _ = apply((transform,), given)
    for group in range(0, 45, 9):
        is_own_N = given.groups_N == group
        turned = replace(given, targets_NC=np.where(is_own_N[:, None], given.targets_NC[:, ::-1], given.targets_NC))
        after_NC, _ = apply((transform,), turned)
        np.testing.assert_array_equal(after_NC[is_own_N], before_NC[is_own_N])
        assert (after_NC[~is_own_N] != before_NC[~is_own_N]).any()


@pytest.mark.parametrize(
    "transform",
    [
        Knn(k=1, mode="relabel", fraction=0.0),
        Knn(k=20, mode="relabel", fraction=0.0),
        Logistic(mode="relabel", fraction=0.0),
        Topological(k=20, mode="relabel", fraction=0.0),
    ],
    ids=lambda transform: transform.label,
)
def test_trap_22_proposals_of_twins_are_more_often_right_than_wrong(transform: Transform) -> None:
    given = grouped(300, apart=0.3)
    assert given.truth_N is not None
    right, right_with_twins = (
        (apply((transform,), own)[0].argmax(axis=1) == given.truth_N).mean()
        for own in (given, replace(given, groups_N=None))
    )
    assert right > max(0.52, right_with_twins), (right, right_with_twins)


@pytest.mark.parametrize("transform", [*FILTERS, Topological(mode="relabel", k=6)], ids=lambda t: t.kind)
def test_examples_that_are_their_own_groups_are_as_without_groups(transform: Transform) -> None:
    given = examples()
    alone = replace(given, groups_N=np.arange(90)[::-1].copy())
    for without, with_groups in zip(apply((transform,), given), apply((transform,), alone), strict=True):
        np.testing.assert_array_equal(without, with_groups)


@pytest.mark.parametrize("transform", [Knn(mode="filter", fraction=0.5), Topological(mode="filter")])
def test_more_neighbours_than_examples_of_other_groups_are_refused(transform: Transform) -> None:
    given = replace(examples(26), groups_N=np.maximum(np.arange(26), 6))  # seven of 26 are one group
    with pytest.raises(DataError, match="k = 20 must be at most 19"):
        apply((transform,), given)


def test_a_logistic_transform_of_fewer_groups_than_folds_is_refused() -> None:
    with pytest.raises(DataError, match=f"4 groups .* at least {NUM_FOLDS}"):
        apply((Logistic(mode="filter", fraction=0.5),), replace(examples(40), groups_N=np.arange(40) % 4))


@pytest.mark.parametrize("transform", [Knn(mode="filter", fraction=0.5), Topological(mode="filter")])
def test_more_neighbours_than_examples_are_refused(transform: Transform) -> None:
    with pytest.raises(DataError, match="k = 20 must be at most 19"):
        apply((transform,), examples(20))


def test_mixed_labels_are_true_for_the_fraction_and_weak_elsewhere() -> None:
    given = examples()
    assert given.truth_N is not None
    targets_NC, _ = apply((MixGroundTruth(fraction=0.3),), given)
    is_true = sorted(range(90), key=lambda n: seeded_hash(0, "mix_ground_truth", given.ids[n]))[:27]
    for n in range(90):
        np.testing.assert_array_equal(
            targets_NC[n], np.eye(2)[given.truth_N[n]] if n in is_true else given.targets_NC[n]
        )


@pytest.mark.parametrize("num_classes", [2, 4])
def test_synthetic_errors_keep_the_confusion_matrix_on_other_examples(num_classes: int) -> None:
    given = examples(400, num_classes, wrong=0.3)
    assert given.truth_N is not None
    targets_NC, _ = apply((SyntheticErrors(),), given)
    assert set(np.unique(targets_NC)) == {0, 1}
    hard_N, synthetic_N = given.targets_NC.argmax(axis=1), targets_NC.argmax(axis=1)
    pairs = [Counter(zip(given.truth_N.tolist(), labels_N.tolist(), strict=True)) for labels_N in (hard_N, synthetic_N)]
    assert pairs[0] == pairs[1], "matched accuracy, class by class"
    wrong = [set(np.flatnonzero(labels_N != given.truth_N).tolist()) for labels_N in (hard_N, synthetic_N)]
    assert len(wrong[0] & wrong[1]) < 0.6 * len(wrong[0]), "by chance about 30 % of them"


def test_permuted_labels_are_the_same_labels_without_information() -> None:
    given = examples(400, wrong=0.0)
    assert given.truth_N is not None
    targets_NC, _ = apply((Permute(),), given)
    assert sorted(map(tuple, targets_NC)) == sorted(map(tuple, given.targets_NC))
    assert abs((targets_NC.argmax(axis=1) == given.truth_N).mean() - 0.5) < 0.08


def test_transforms_act_one_after_another() -> None:
    given = examples()
    targets_KC, kept_K = apply((KeepConfident(fraction=0.5), Harden(), KeepRandom(fraction=0.5)), given)
    confident = set(apply((KeepConfident(fraction=0.5),), given)[1].tolist())
    assert len(kept_K) == round(0.5 * 45) and set(kept_K.tolist()) < confident
    assert kept_K.tolist() == sorted(kept_K)
    np.testing.assert_array_equal(targets_KC, np.eye(2)[given.targets_NC[kept_K].argmax(axis=1)])


def test_every_kind_of_transform_has_a_function() -> None:
    kinds = {spec.model_fields["kind"].default for spec in get_args(get_args(Transform)[0])}
    assert kinds == relabelling._FUNCTIONS.keys()
