"""Losses against PyTorch's cross-entropy and a focal loss by its definition."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.training.losses import class_weights, smooth_labels, softmax_loss

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "torch.json").read_text())
TORCH = ORACLE["losses"]
LOGITS = np.float32(TORCH["logits"])
LABELS = np.eye(7, dtype=np.float32)[TORCH["labels"]]
WEIGHTS = np.float32(TORCH["weights"])


def _name(case):
    weighted = "weighted" if case["weighted"] else "equal"
    return f"{weighted}-smooth{case['label_smoothing']}-gamma{case['focal_gamma']}"


@pytest.mark.parametrize("case", TORCH["cases"], ids=_name)
def test_value_and_gradient_are_those_of_pytorch(case):
    def loss(logits):
        return softmax_loss(
            logits,
            LABELS,
            weights=WEIGHTS if case["weighted"] else None,
            label_smoothing=case["label_smoothing"],
            focal_gamma=case["focal_gamma"],
        )

    value, grad = jax.value_and_grad(loss)(LOGITS)
    assert value.shape == () and value.dtype == jnp.float32
    np.testing.assert_allclose(value, case["loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, case["grad"], rtol=1e-5, atol=1e-7)


def test_the_cases_cover_weights_smoothing_and_gamma():
    # Guards the stored file: a lost case would let its test pass by absence.
    found = {_name(case) for case in TORCH["cases"]}
    assert len(found) == len(TORCH["cases"]) == 12


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_soft_labels_are_a_mixture_of_hard_ones(gamma, weights):
    other = np.roll(LABELS, 1, axis=0)
    share = np.float32(np.linspace(0, 1, len(LABELS)))[:, None]

    def parts(logits, hard):
        """Each image's loss and its weight, from batches of one."""
        divisor = np.ones(len(hard)) if weights is None else hard @ weights
        losses = [
            softmax_loss(x[None], y[None], weights=weights, focal_gamma=gamma)
            for x, y in zip(logits, hard, strict=True)
        ]
        return np.array(losses) * divisor, divisor

    first, first_divisor = parts(LOGITS, LABELS)
    second, second_divisor = parts(LOGITS, other)
    share_ = share[:, 0]
    expected = np.sum(share_ * first + (1 - share_) * second) / np.sum(
        share_ * first_divisor + (1 - share_) * second_divisor
    )
    mixed = share * LABELS + (1 - share) * other
    found = softmax_loss(LOGITS, mixed, weights=weights, focal_gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("label", [0, 1])
def test_certain_predictions_have_finite_loss_and_gradient(gamma, label):
    # p is exactly 1 for class 0, where (1 - p) ** 0.5 has an infinite slope.
    logits = np.float32([[1e4, 0.0, 0.0]])
    labels = np.eye(3, dtype=np.float32)[[label]]
    value, grad = jax.value_and_grad(
        lambda x: softmax_loss(x, labels, focal_gamma=gamma, label_smoothing=0.1)
    )(logits)
    assert np.isfinite(value) and np.isfinite(grad).all()
    plain = softmax_loss(logits, labels, focal_gamma=gamma)
    assert plain == (0.0 if label == 0 else 1e4)


def test_focal_loss_discounts_easy_images_most():
    easy, hard = np.float32([[4.0, 0.0]]), np.float32([[0.0, 0.5]])
    labels = np.float32([[1.0, 0.0]])
    ratios = [
        softmax_loss(x, labels, focal_gamma=2.0) / softmax_loss(x, labels)
        for x in (easy, hard)
    ]
    assert ratios[0] < 0.001 < 0.3 < ratios[1]


def test_bfloat16_logits_are_computed_in_float32():
    narrow = jnp.asarray(LOGITS, jnp.bfloat16)
    options = {"weights": WEIGHTS, "label_smoothing": 0.1, "focal_gamma": 2.0}
    loss = softmax_loss(narrow, LABELS, **options)
    assert loss.dtype == jnp.float32
    assert loss == softmax_loss(narrow.astype(jnp.float32), LABELS, **options)


def test_class_weights_by_hand():
    # log(2), log(4) = 2 log(2), log(8) = 3 log(2): in proportion 1, 1/2, 1/3.
    weights = class_weights(np.array([1, 3, 7]))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [18 / 11, 9 / 11, 6 / 11], rtol=1e-6)


def test_class_weights_favour_rare_classes_with_mean_one():
    counts = np.array([3995, 436, 4097, 7215, 4830, 3171, 4965])
    weights = class_weights(counts)
    np.testing.assert_allclose(weights.mean(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(np.argsort(weights), np.argsort(-counts))
    np.testing.assert_allclose(class_weights(np.array([5, 5])), 1.0)


def test_smooth_labels_by_hand():
    found = smooth_labels(jnp.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]), 0.2)
    expected = [[0.85, 0.05, 0.05, 0.05], [0.45, 0.45, 0.05, 0.05]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_own_predictions_take_their_share_of_the_targets():
    # Reed et al.: (1 - b) of the loss and b of the prediction's entropy.
    log_p = np.array(jax.nn.log_softmax(LOGITS), np.float64)
    p = np.exp(log_p)
    entropy = -(p * log_p).sum(axis=1, keepdims=True)
    plain = -(LABELS * log_p).sum(axis=1, keepdims=True)
    value, grad = jax.value_and_grad(softmax_loss)(LOGITS, LABELS, bootstrap=0.3)
    expected = (0.7 * plain + 0.3 * entropy).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    by_entropy = -p * (log_p + entropy)
    expected = (0.7 * (p - LABELS) + 0.3 * by_entropy) / len(p)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)
    both = softmax_loss(LOGITS, LABELS, bootstrap=0.3, label_smoothing=0.2)
    smooth = np.array(smooth_labels(LABELS, 0.2))
    expected = -((0.7 * smooth + 0.3 * p) * log_p).sum() / len(p)
    np.testing.assert_allclose(both, expected, rtol=1e-5)
