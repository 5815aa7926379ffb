"""Losses give the values of the paper and of public code, computed here with loops and plain numbers."""

import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tests.spec import own_losses
from w2s_ray.errors import TrainingError
from w2s_ray.science import FloatArray
from w2s_ray.spec.losses import LOSSES as ALL_LOSSES
from w2s_ray.spec.losses import (
    ConfidenceLoss,
    EntropyLoss,
    HardLoss,
    KLLoss,
    Loss,
    NaiveLoss,
    OwnLoss,
    ProductLoss,
    WindowLoss,
)
from w2s_ray.spec.own_code import source_of
from w2s_ray.training import losses as losses_module
from w2s_ray.training.feed import Feeder, LabelledExamples, LanguageExamples, MicroBatch
from w2s_ray.training.losses import (
    ClassBatchLoss,
    OptimizerBatch,
    loss_from,
    soft_cross_entropy,
    student_loss,
    token_cross_entropy,
)
from w2s_ray.training.workers import Workers

LOGITS = np.random.default_rng(0).normal(0, 1.5, (16, 2)).astype(np.float32)


WEAK = np.random.default_rng(1).beta(0.7, 0.5, 16)


LABELS = np.stack([1 - WEAK, WEAK], axis=1).astype(np.float32)


THREE_LOGITS = np.random.default_rng(2).normal(0, 1.5, (9, 3)).astype(np.float32)


THREE_LABELS = np.random.default_rng(3).dirichlet((1.0, 1.0, 1.0), 9).astype(np.float32)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(target: list[float], row: list[float]) -> float:
    return -sum(share * math.log(own) for share, own in zip(target, softmax(row), strict=True))


def ours(
    spec: Loss, logits: FloatArray = LOGITS, labels: FloatArray = LABELS, progress: float = 0.5
) -> tuple[float, FloatArray]:
    """The mean loss of one optimizer batch and its gradient, by the code that the training uses."""
    loss = student_loss(spec, labels)
    logits_BC = torch.tensor(logits, requires_grad=True)
    batch = OptimizerBatch(labels, np.arange(len(labels)), progress, logits_BC.detach().softmax(-1).numpy())
    value = loss.value(logits_BC, torch.from_numpy(loss.targets(batch)), progress) / len(logits)
    value.backward()
    assert logits_BC.grad is not None
    return float(value.detach()), logits_BC.grad.numpy()


def mean_against(targets: list[list[float]], logits: FloatArray = LOGITS) -> float:
    """The mean cross-entropy of each row of logits against its target."""
    rows = [[float(value) for value in row] for row in logits]
    return sum(cross_entropy(target, row) for target, row in zip(targets, rows, strict=True)) / len(rows)


def gradient_against(targets: list[list[float]], logits: FloatArray = LOGITS) -> FloatArray:
    """The gradient of that mean where nothing flows through the targets: (softmax - target) / N."""
    rows = [softmax([float(value) for value in row]) for row in logits]
    return ((np.array(rows) - np.array(targets)) / len(rows)).astype(np.float32)


def assert_is_cross_entropy_against(spec: Loss, targets: list[list[float]], progress: float = 0.5) -> None:
    value, gradient = ours(spec, progress=progress)
    assert value == pytest.approx(mean_against(targets), rel=1e-5)
    np.testing.assert_allclose(gradient, gradient_against(targets), rtol=1e-4, atol=1e-7)


def public_threshold_targets(coefficient: float, prior: float) -> list[list[float]]:
    """The targets of openai's and EleutherAI's confidence losses: class 0 where its probability reaches a quantile."""
    first = [softmax([float(value) for value in row])[0] for row in LOGITS]
    ordered = sorted(first)
    place = prior * (len(ordered) - 1)
    low = math.floor(place)
    threshold = ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])
    own = [[1.0, 0.0] if value >= threshold else [0.0, 1.0] for value in first]
    return [
        [(1 - coefficient) * w + coefficient * h for w, h in zip(label, hard, strict=True)]
        for label, hard in zip(LABELS.tolist(), own, strict=True)
    ]


def test_naive_is_cross_entropy_against_the_soft_labels() -> None:
    assert_is_cross_entropy_against(NaiveLoss(), LABELS.tolist())


def test_hard_is_cross_entropy_against_the_most_probable_class() -> None:
    assert_is_cross_entropy_against(HardLoss(), [[0.0, 1.0] if weak > 0.5 else [1.0, 0.0] for weak in WEAK])


def own(function: Callable[..., torch.Tensor], **settings: float) -> OwnLoss:
    source = source_of(function)
    return OwnLoss(name="mine", function=function.__name__, source=source, settings=tuple(settings.items()))


def test_an_own_loss_is_summed_over_its_examples() -> None:
    assert_is_cross_entropy_against(own(own_losses.plain), LABELS.tolist())
    logits_BC, labels_BC = torch.from_numpy(LOGITS), torch.from_numpy(LABELS)
    for gamma in (0.5, 2.0):
        loss = student_loss(own(own_losses.focal, gamma=gamma), LABELS).value(logits_BC, labels_BC, 0.0)
        probs = logits_BC.softmax(dim=-1).numpy()
        expected = -(LABELS * (1 - probs) ** gamma * np.log(probs)).sum()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_an_own_loss_that_returns_no_value_for_each_example_is_refused() -> None:
    with pytest.raises(TrainingError, match="mine"):
        student_loss(own(own_losses.summed), LABELS).value(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), 0.0)


@pytest.mark.parametrize(("prior", "share"), [("half", 0.5), ("batch", float(np.mean(WEAK)))])
def test_confidence_is_the_public_formula_when_the_whole_batch_is_seen_at_once(prior: str, share: float) -> None:
    spec = ConfidenceLoss.model_validate({"alpha_max": 0.75, "prior": prior})
    assert_is_cross_entropy_against(spec, public_threshold_targets(0.75, share))


def test_the_weak_prior_is_the_mean_label_of_all_training_examples() -> None:
    loss = student_loss(ConfidenceLoss(alpha_max=1.0, prior="weak"), np.array([[0.75, 0.25]] * 40, dtype=np.float32))
    probs = torch.tensor(LOGITS).softmax(-1).numpy()
    targets = loss.targets(OptimizerBatch(LABELS, np.arange(16), 0.5, probs))
    assert set(np.argsort(probs[:, 1])[-4:]) == set(np.flatnonzero(targets[:, 1])), "a quarter of 15 is between 3 and 4"


def test_confidence_with_argmax_hardens_single_examples_of_three_classes() -> None:
    probs = [softmax([float(value) for value in row]) for row in THREE_LOGITS]
    targets = [
        [0.5 * w + 0.5 * (place == own.index(max(own))) for place, w in enumerate(label)]
        for label, own in zip(THREE_LABELS.tolist(), probs, strict=True)
    ]
    value, _ = ours(ConfidenceLoss(prior="argmax"), THREE_LOGITS, THREE_LABELS)
    assert value == pytest.approx(mean_against(targets, THREE_LOGITS), rel=1e-5)


def balanced_labels() -> list[float]:
    log_odds = [math.log(w + 1e-7) - math.log(1 - w + 1e-7) for w in LABELS[:, 1].tolist()]
    mean = sum(log_odds) / len(log_odds)
    return [1 / (1 + math.exp(mean - value)) for value in log_odds]


def test_balanced_labels_have_log_odds_of_mean_zero_in_confidence_and_entropy() -> None:
    shifted = [[1 - w, w] for w in balanced_labels()]
    assert_is_cross_entropy_against(ConfidenceLoss(alpha_max=0.0, balance_labels=True), shifted)
    assert_is_cross_entropy_against(EntropyLoss(alpha_max=0.0, balance_labels=True), shifted)


def test_entropy_mixes_the_labels_with_the_own_prediction_without_its_gradient() -> None:
    own = [softmax([float(value) for value in row]) for row in LOGITS]
    for progress, alpha in ((0.05, 0.1), (0.5, 0.4)):
        targets = [
            [(1 - alpha) * w + alpha * p for w, p in zip(label, probs, strict=True)]
            for label, probs in zip(LABELS.tolist(), own, strict=True)
        ]
        assert_is_cross_entropy_against(EntropyLoss(alpha_max=0.4), targets, progress)


@pytest.mark.parametrize(("weak_power", "student_power"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_product_multiplies_powers_of_label_and_prediction_without_its_gradient(
    weak_power: float, student_power: float
) -> None:
    targets = []
    for label, row in zip(LABELS.tolist(), LOGITS, strict=True):
        own = softmax([float(value) for value in row])
        raw = [w**weak_power * p**student_power for w, p in zip(label, own, strict=True)]
        targets.append([value / sum(raw) for value in raw])
    assert_is_cross_entropy_against(ProductLoss(weak_power=weak_power, student_power=student_power), targets)


def test_product_stays_finite_where_powers_of_small_numbers_vanish() -> None:
    logits, labels = np.array([[60.0, -60.0]], dtype=np.float32), np.array([[0.0, 1.0]], dtype=np.float32)
    value, gradient = ours(ProductLoss(), logits, labels)
    assert value == pytest.approx(120.0)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("radius", [0.15, 0.4, "midweak"])
def test_window_counts_uncertain_examples_and_divides_by_all(radius: float | str) -> None:
    distances = sorted(abs(w - 0.5) for w in LABELS[:, 1].tolist())
    width = (distances[7] + distances[8]) / 2 if isinstance(radius, str) else radius
    rows = [[float(value) for value in row] for row in LOGITS]
    inside = [max(softmax(row)) < 0.5 + width for row in rows]
    assert 0 < sum(inside) < len(inside)
    terms = [cross_entropy(w, row) for w, row, seen in zip(LABELS.tolist(), rows, inside, strict=True) if seen]
    value, gradient = ours(WindowLoss.model_validate({"radius": radius}))
    assert value == pytest.approx(sum(terms) / len(rows), rel=1e-5)
    assert (np.abs(gradient).sum(axis=1) > 0).tolist() == inside


def test_forward_kl_is_zero_at_perfect_imitation_and_has_the_gradients_of_naive() -> None:
    rows = [softmax([float(value) for value in row]) for row in LOGITS]
    expected = [
        sum(w * (math.log(w) - math.log(p)) for w, p in zip(label, own, strict=True))
        for label, own in zip(LABELS.tolist(), rows, strict=True)
    ]
    value, gradient = ours(KLLoss())
    assert value == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    np.testing.assert_allclose(gradient, ours(NaiveLoss())[1], rtol=1e-4, atol=1e-7)
    assert ours(KLLoss(), LOGITS, np.array(rows, dtype=np.float32))[0] == pytest.approx(0.0, abs=1e-6)


def test_reverse_kl_weighs_by_the_students_belief_and_stays_finite() -> None:
    expected = [
        sum(p * (math.log(p) - math.log(w)) for w, p in zip(label, softmax(row.tolist()), strict=True))
        for label, row in zip(LABELS.tolist(), LOGITS, strict=True)
    ]
    assert ours(KLLoss(direction="reverse"))[0] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    assert math.isfinite(ours(KLLoss(direction="reverse"), labels=np.round(LABELS))[0])


def test_every_loss_of_the_study_file_has_its_function() -> None:
    assert {loss().kind for loss in ALL_LOSSES} | {"own"} == losses_module._BUILD.keys()


@pytest.mark.parametrize("spec", [loss() for loss in ALL_LOSSES])
def test_every_loss_stays_finite_for_certain_students_and_labels(spec: Loss) -> None:
    certain = np.array([[60.0, -60.0], [-60.0, 60.0], [60.0, -60.0]], dtype=np.float32)
    value, gradient = ours(spec, certain, np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32))
    assert math.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    "spec", [ConfidenceLoss(prior="argmax"), *(loss() for loss in ALL_LOSSES if not loss().two_classes_only)]
)
def test_a_loss_for_any_number_of_classes_learns_from_three(spec: Loss) -> None:
    assert not spec.two_classes_only
    value, gradient = ours(spec, THREE_LOGITS, THREE_LABELS)
    assert math.isfinite(value) and np.abs(gradient).sum() > 0


def alpha_over_training(spec: ConfidenceLoss) -> list[float]:
    """α at each of 100 steps, read off the targets: the only example is labelled class 0 and predicted class 1."""
    label, probs = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.1, 0.9]], dtype=np.float32)
    loss = student_loss(spec, label)
    return [float(loss.targets(OptimizerBatch(label, np.arange(1), step / 100, probs))[0, 1]) for step in range(100)]


def test_trap_2_alpha_rises_linearly_over_the_first_fifth_and_does_not_jump() -> None:
    values = alpha_over_training(ConfidenceLoss(alpha_max=0.75, prior="argmax"))
    assert values[0] == 0.0
    assert values[10] == pytest.approx(0.375)
    assert max(np.diff(values)) == pytest.approx(0.75 / 20, rel=1e-5)
    assert values[20:] == [0.75] * 80


def test_trap_2_the_openai_schedule_jumps_as_its_code_does() -> None:
    values = alpha_over_training(ConfidenceLoss(prior="argmax", schedule="openai", warmup_fraction=0.1))
    assert values[10:12] == pytest.approx([0.05, 0.5])
    assert values[5] == pytest.approx(0.025)


def test_trap_3_the_threshold_is_a_quantile_of_the_whole_batch() -> None:
    p1 = np.linspace(0.9, 0.99, 10, dtype=np.float32)
    probs, labels = np.stack([1 - p1, p1], axis=1), np.full((10, 2), 0.5, dtype=np.float32)
    loss = student_loss(ConfidenceLoss(alpha_max=1.0), labels)
    assert loss.reads_predictions
    targets = loss.targets(OptimizerBatch(labels, np.arange(10), 0.5, probs))
    assert targets.argmax(axis=1).tolist() == [0] * 5 + [1] * 5


def test_trap_3_equal_probabilities_are_ordered_by_the_hash_of_the_example() -> None:
    probs = np.full((6, 2), 0.5, dtype=np.float32)
    loss = student_loss(ConfidenceLoss(alpha_max=1.0), probs)
    ties, order = np.array([5, 3, 1, 0, 2, 4]), np.array([3, 0, 5, 1, 4, 2])
    classes = loss.targets(OptimizerBatch(probs, ties, 0.5, probs)).argmax(axis=1)
    assert classes.tolist() == [0, 0, 1, 1, 1, 0]
    other = loss.targets(OptimizerBatch(probs, ties[order], 0.5, probs)).argmax(axis=1)
    assert other.tolist() == classes[order].tolist()


def test_soft_cross_entropy_is_summed_and_in_fp32() -> None:
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16)
    loss = soft_cross_entropy(logits, torch.tensor(LABELS))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(len(LOGITS) * mean_against(LABELS.tolist(), logits.float().numpy()), rel=1e-5)


ALONE = Workers(0, 1, torch.device("cpu"))


LOSSES = [loss() for loss in ALL_LOSSES]
NUM_EXAMPLES = 12
ONE_BY_ONE, AT_ONCE = 1, 10_000
"""Tokens of a micro-batch."""


class Scorer(torch.nn.Module):
    """A minimal model: the sum of the scores of a text's tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 2)
        self.saved: weakref.WeakSet[Saved] = weakref.WeakSet()
        self.held: list[int] = []
        """Tensors that are held for backward passes when a forward pass begins."""
        self.num_without_gradients = 0
        """Passes without gradients."""

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        self.held.append(len(self.saved))
        self.num_without_gradients += not torch.is_grad_enabled()
        logits_RC: torch.Tensor = self.table(tokens_RT).tanh().cumsum(dim=1)[torch.arange(len(last_R)), last_R]
        return logits_RC


class Saved:
    """A tensor that autograd holds until the backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def learn(loss: Loss, tokens_per_micro_batch: int) -> Scorer:
    """One optimizer batch's forward and backward passes, in the middle of training."""
    coin = np.random.default_rng(0)
    labels_N = coin.uniform(size=NUM_EXAMPLES)
    examples = LabelledExamples(
        tokens=[coin.integers(1, 50, size, dtype=np.int32) for size in coin.integers(2, 9, NUM_EXAMPLES)],
        targets_NC=np.stack([1 - labels_N, labels_N], axis=1).astype(np.float32),
        ties_N=coin.permutation(NUM_EXAMPLES),
    )
    model, batch_loss = Scorer(), ClassBatchLoss(loss, examples, ALONE)
    positions_N = coin.permutation(NUM_EXAMPLES)
    group = Feeder(examples, ALONE, tokens_per_micro_batch, pad=0).micro_batches(positions_N)
    assert len(group) == (NUM_EXAMPLES if tokens_per_micro_batch == ONE_BY_ONE else 1)

    def pack(tensor: torch.Tensor) -> Saved:
        saved = Saved(tensor)
        model.saved.add(saved)
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for value in batch_loss.values(model, group, positions_N, step=5, num_steps=10):
            value.backward()
    return model


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.label)
def test_trap_3_micro_batches_of_one_learn_what_the_whole_batch_learns(loss: Loss) -> None:
    single, whole = learn(loss, ONE_BY_ONE), learn(loss, AT_ONCE)
    assert single.table.weight.grad is not None and whole.table.weight.grad is not None
    assert single.table.weight.grad.abs().sum() > 0
    torch.testing.assert_close(single.table.weight.grad, whole.table.weight.grad)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.label)
def test_trap_4_no_graph_of_an_earlier_micro_batch_is_kept(loss: Loss) -> None:
    model = learn(loss, ONE_BY_ONE)
    assert len(model.held) >= NUM_EXAMPLES
    assert set(model.held) == {0}


def test_only_the_confidence_loss_needs_a_pass_without_gradients() -> None:
    passes = {loss.label: learn(loss, ONE_BY_ONE).num_without_gradients for loss in LOSSES}
    assert {label for label, count in passes.items() if count} == {ConfidenceLoss().label}
    model = learn(ConfidenceLoss(), AT_ONCE)
    assert (model.num_without_gradients, len(model.held)) == (0, 1), "a single micro-batch needs no second pass"


def batch_of(
    rows: list[list[int]], starts: list[int], positions: list[int], world: int = 1, rank: int = 0
) -> tuple[MicroBatch, torch.Tensor, LanguageExamples]:
    examples = LanguageExamples(tokens=[np.array(row, dtype=np.int32) for row in rows], loss_from_N=np.array(starts))
    feeder = Feeder(examples, Workers(rank, world, torch.device("cpu")), 1000, 0)
    (batch,) = feeder.micro_batches(np.array(positions))
    return batch, loss_from(examples, batch), examples


def test_only_learned_tokens_count_in_the_loss() -> None:
    rows, starts = [[3, 4, 5, 6], [5, 2, 3]], [2, 1]
    batch, learnt, examples = batch_of(rows, starts, [0, 1])
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    expected = 0.0
    for row, position in enumerate(batch.positions):
        log_probs = logits[row].log_softmax(-1)
        for at in range(starts[position], len(rows[position])):
            expected -= float(log_probs[at - 1, rows[position][at]])
    assert float(token_cross_entropy(logits, batch, learnt)) == pytest.approx(expected, rel=1e-6)
    assert examples.num_loss_tokens(np.array([0, 1])) == 4


def test_filler_rows_add_no_loss() -> None:
    batches = [batch_of([[3, 4, 5]], [1], [0], world=2, rank=rank) for rank in (0, 1)]
    filler, learnt = next((batch, learnt) for batch, learnt, _ in batches if not len(batch.positions))
    assert float(token_cross_entropy(torch.randn(1, 2, 7), filler, learnt)) == 0.0


@pytest.mark.parametrize(("share", "num", "above"), [(0.28, 26, 7), (0.07, 101, 7), (0.55, 101, 55), (0.5, 4, 2)])
def test_the_threshold_of_a_batch_has_its_share_of_the_examples_above_it(share: float, num: int, above: int) -> None:
    probs_NC = np.linspace([0.9, 0.1], [0.1, 0.9], num)
    assert losses_module._above_threshold(probs_NC, np.arange(num), share)[:, 1].sum() == above
