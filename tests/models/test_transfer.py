"""A network that starts from a trained one: what it keeps and what is new."""

import jax
import numpy as np
import pytest

from fer_jax import models
from fer_jax.errors import UserError
from fer_jax.models import transfer

OLD = ("angry", "happy", "sad")
OPTIONS = {"width": 0.125, "blocks": [1, 1, 1]}


def network(classes, channels=1, seed=0, **options):
    options = models.Options(
        num_classes=classes, channels=channels, **OPTIONS | options
    )
    return models.create("fernet", jax.random.key(seed), options)


def stored(classes=3, channels=1):
    _, params, stats = network(classes, channels, seed=1)
    named = transfer.leaves_by_name({"params": params, "batch_stats": stats})
    return {name: np.asarray(leaf, np.float16) for name, leaf in named.items()}


def started(labels, channels=1, tensors=None, **options):
    net, params, stats = network(len(labels), channels, **options)
    found = transfer.start_from(
        tensors or stored(), OLD, params, stats, labels, "my_model/weights"
    )
    return net, *found


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(4, 16, 16, 1)).astype(np.float32)


def test_the_same_classes_give_the_same_logits(images):
    net, params, stats = started(OLD)
    _, like_params, like_stats = network(3)
    expected = transfer.fill(stored(), like_params, like_stats, "x")
    np.testing.assert_array_equal(
        net.evaluate(params, stats, images), net.evaluate(*expected, images)
    )


def test_a_class_that_both_have_keeps_its_logit(images):
    net, params, stats = started(OLD)
    old = np.asarray(net.evaluate(params, stats, images))
    labels = ("sad", "bored", "angry", "tired")
    net, params, stats = started(labels)
    new = np.asarray(net.evaluate(params, stats, images))
    np.testing.assert_allclose(new[:, [2, 0]], old[:, [0, 2]], atol=1e-5)
    _, fresh, _ = network(4)
    kernel = params["head"]["linear"]["kernel"]
    np.testing.assert_array_equal(
        kernel[:, [1, 3]], fresh["head"]["linear"]["kernel"][:, [1, 3]]
    )


@pytest.mark.parametrize("there, here", [(1, 3), (3, 1)])
def test_a_grey_picture_gives_the_same_in_colour(there, here, images):
    tensors = stored(channels=there)
    _, params, stats = network(3, there)
    net, *_ = network(3, there)
    filled = transfer.fill(tensors, params, stats, "x")
    old = net.evaluate(*filled, np.repeat(images, there, axis=3))
    net, params, stats = started(OLD, here, tensors)
    new = net.evaluate(params, stats, np.repeat(images, here, axis=3))
    np.testing.assert_allclose(new, old, atol=2e-2)


def test_another_network_is_refused():
    with pytest.raises(UserError, match="my_model/weights: .* is float16"):
        started(OLD, width=0.25)
