"""Prediction of a whole split, in order and without padding, and its scores."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import log_softmax

from fer_jax.metrics import score
from fer_jax.training.evaluate import even_batch, make_predict, predict_split, tta_views

CLASSES = 3


class Linear(NamedTuple):
    """A network of which the answer is known: the first pixels times params."""

    def evaluate(self, params, batch_stats, images):
        return images[:, 0, :CLASSES, 0] * params + batch_stats


PARAMS, BATCH_STATS = jnp.float32(2.0), jnp.float32([0.0, 0.5, 1.0])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (23, 4, 4, 1), dtype=np.uint8)


def expected_logits(images):
    wide = images.reshape(len(images), -1).astype(np.float64)
    mean, deviation = wide.mean(axis=1)[:, None], wide.std(axis=1)[:, None]
    normalised = (images[:, 0, :CLASSES, 0] - mean) / (deviation + 8.0)
    return normalised * 2.0 + np.array([0.0, 0.5, 1.0])


@pytest.mark.parametrize("batch_size", [1, 5, 22, 23, 24, 1000])
def test_every_image_has_its_own_logits_in_order(images, batch_size):
    predict, shapes = make_predict(Linear()), []

    def watched(params, batch_stats, images, indices):
        shapes.append(indices.shape)
        return predict(params, batch_stats, images, indices)

    logits = predict_split(
        watched, PARAMS, BATCH_STATS, jnp.asarray(images), batch_size=batch_size
    )
    assert logits.shape == (23, CLASSES) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected_logits(images), rtol=1e-5, atol=1e-5)
    # One shape means one compilation; no batch is larger than the split.
    assert set(shapes) == {(min(batch_size, 23),)}
    assert len(shapes) == -(-23 // batch_size)


@pytest.mark.parametrize(
    ("total", "largest", "size"),
    [(3589, 256, 240), (512, 256, 256), (257, 256, 129), (100, 256, 100), (5, 1, 1)],
)
def test_val_is_divided_evenly(total, largest, size):
    assert even_batch(total, largest) == size


def test_the_padding_is_not_counted(images):
    # The first image pads the last batch. Its class must count once in the scores.
    predict = make_predict(Linear())
    logits = predict_split(
        predict, PARAMS, BATCH_STATS, jnp.asarray(images), batch_size=20
    )
    labels = expected_logits(images).argmax(axis=1)
    labels[0] = (labels[0] + 1) % CLASSES  # the only miss
    scores = score(logits, labels, ["a", "b", "c"])
    assert scores["n"] == 23
    assert scores["accuracy"] == pytest.approx(22 / 23)
    assert np.sum(scores["confusion_matrix"]) == 23


def test_prediction_does_not_consume_its_arguments(images):
    predict = make_predict(Linear())
    params, device_images = jnp.float32(2.0), jnp.asarray(images)
    first = predict_split(predict, params, BATCH_STATS, device_images, batch_size=8)
    again = predict_split(predict, params, BATCH_STATS, device_images, batch_size=8)
    np.testing.assert_array_equal(first, again)
    assert not params.is_deleted()


def test_the_loss_is_the_mean_negative_log_likelihood():
    rng = np.random.default_rng(1)
    logits = np.float32(5 * rng.standard_normal((40, 7)))
    labels = rng.integers(0, 7, 40)
    scores = score(logits, labels, [str(c) for c in range(7)])
    expected = -log_softmax(np.float64(logits), axis=1)[np.arange(40), labels].mean()
    assert scores["loss"] == pytest.approx(expected, rel=1e-12)
    assert scores["accuracy"] == np.mean(logits.argmax(axis=1) == labels)


def test_large_logits_do_not_overflow():
    logits = np.float32([[1e30, 0.0], [0.0, 3e4]])
    scores = score(logits, np.array([0, 0]), ["a", "b"])
    assert scores["loss"] == pytest.approx(1.5e4)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_logits_that_are_not_finite_show_in_the_loss():
    logits = np.float32([[np.nan, 0.0], [0.0, 1.0]])
    assert np.isnan(score(logits, np.array([0, 1]), ["a", "b"])["loss"])


def test_keys_and_types_of_the_scores():
    scores = score(np.float32(jax.nn.one_hot([0, 1], 2)), np.array([0, 0]), ["a", "b"])
    assert list(scores) == [
        "n",
        "loss",
        "accuracy",
        "macro_f1",
        "balanced_accuracy",
        "per_class",
        "confusion_matrix",
    ]
    assert type(scores["loss"]) is float and list(scores["per_class"]) == ["a", "b"]


# --- views


def test_the_views_are_the_parts_of_an_image_and_their_mirror_images():
    images = np.arange(2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6, 1)
    (whole,) = tta_views(images, tta="none", crop_size=0)
    np.testing.assert_array_equal(whole, images)
    plain, mirrored = tta_views(images, tta="flip", crop_size=4)
    np.testing.assert_array_equal(plain, images[:, 1:5, 1:5])
    np.testing.assert_array_equal(mirrored, images[:, 1:5, 4:0:-1])
    ten = tta_views(images, tta="ten_crop", crop_size=4)
    assert len(ten) == 10
    corners = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
    for view, mirrored, (top, left) in zip(ten[:5], ten[5:], corners, strict=True):
        part = images[:, top : top + 4, left : left + 4]
        np.testing.assert_array_equal(view, part)
        np.testing.assert_array_equal(mirrored, part[:, :, ::-1])


@pytest.mark.parametrize("crop", [0, 24])
def test_ten_crops_of_a_whole_image_move_it_and_its_edge_goes_on(crop):
    image = np.random.default_rng(0).standard_normal((1, 24, 24, 1))
    ten = tta_views(np.float32(image), tta="ten_crop", crop_size=crop)
    moves = [(0, 0), (2, 2), (2, -2), (-2, 2), (-2, -2)]
    for view, mirrored, move in zip(ten[:5], ten[5:], moves, strict=True):
        moved = ndimage.shift(image[0, :, :, 0], move, order=0, mode="nearest")
        np.testing.assert_allclose(view[0, :, :, 0], moved, rtol=1e-6)
        np.testing.assert_array_equal(mirrored, view[:, :, ::-1])


@pytest.mark.parametrize(
    ("tta", "crop"), [("flip", 0), ("flip", 3), ("ten_crop", 3), ("ten_crop", 0)]
)
def test_probabilities_are_the_mean_over_the_views(images, tta, crop):
    predict = make_predict(Linear(), tta=tta, crop_size=crop)
    logits = predict_split(
        predict, PARAMS, BATCH_STATS, jnp.asarray(images), batch_size=8
    )
    wide = np.float64(images)
    mean, deviation = (
        part(wide, axis=(1, 2, 3), keepdims=True) for part in (np.mean, np.std)
    )
    seen = tta_views((wide - mean) / (deviation + 8.0), tta=tta, crop_size=crop)
    each = [Linear().evaluate(2.0, np.array(BATCH_STATS), view) for view in seen]
    expected = np.mean([np.exp(log_softmax(x, axis=1)) for x in each], axis=0)
    np.testing.assert_allclose(np.exp(logits), expected, rtol=1e-4)
    np.testing.assert_allclose(np.exp(logits).sum(axis=1), 1.0, rtol=1e-5)
