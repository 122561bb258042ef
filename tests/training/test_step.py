"""One step of training: repeatable, the same in one dispatch or two, and counted."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from fer_jax import models
from fer_jax.training.augment import make_augment
from fer_jax.training.augment_ops import normalise
from fer_jax.training.losses import softmax_loss
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.step import (
    StepSpec,
    init_metrics,
    init_state,
    make_train_step,
)

SIDE, CLASSES, BATCH = 16, 3, 8
# XLA compiles this generator in a fraction of the time.
KEY = jax.random.key(7, impl="rbg")


def plain(key, images, labels, shown):
    return images, labels


def noisy(key, images, labels, shown):
    """An augmentation that shows in the loss whether its key is the right one."""
    return images + 0.1 * jax.random.normal(key, images.shape), labels


class Softmax(NamedTuple):
    """Softmax regression on the first pixels, with noise in place of dropout."""

    noise: float = 0.0

    def train(self, params, batch_stats, images, key):
        x = images[:, 0, :4, 0]
        logits = x @ params["kernel"] + self.noise * jax.random.normal(key, (CLASSES,))
        return logits, {"seen": batch_stats["seen"] + 1}


def SGD():
    return optax.sgd(0.5)


def spec_step(
    loss_fn=softmax_loss, augment_fn=plain, *, network=None, optimizer=SGD, **more
):
    spec = StepSpec(network or Softmax(), optimizer, loss_fn, augment_fn, **more)
    return make_train_step(spec, key=KEY)


@functools.cache
def softmax_step(noise, loss_fn, augment_fn):
    return spec_step(loss_fn, augment_fn, network=Softmax(noise))


def softmax_parts(noise=0.0, loss_fn=softmax_loss, augment_fn=plain):
    """A fresh state and a compiled step."""
    params = {"kernel": jnp.linspace(1.0, -1.0, 4 * CLASSES).reshape(4, CLASSES)}
    state = init_state(params, {"seen": jnp.int32(0)}, SGD)
    return state, softmax_step(noise, loss_fn, augment_fn)


def numbers(tree):
    return jax.tree.map(np.array, tree)


def copied(tree):
    """For a step to consume."""
    return jax.tree.map(jnp.array, tree)


@pytest.fixture(scope="module")
def pictures():
    """Noise with a bright bar whose place is the class: 48 images and labels."""
    rng = np.random.default_rng(0)
    classes = np.arange(48) % CLASSES
    images = rng.integers(60, 130, (48, SIDE, SIDE, 1), dtype=np.uint8)
    for image, label in zip(images, classes, strict=True):
        image[4 * label : 4 * label + 4] += 110
    return jnp.asarray(images), jax.nn.one_hot(classes, CLASSES)


def batches(steps, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 48, (steps, BATCH)), jnp.int32)


# --- the arithmetic, on softmax regression


def test_a_step_is_that_of_softmax_regression_by_hand(pictures):
    images, labels = pictures
    state, step = softmax_parts()
    kernel, chosen = numbers(state.params["kernel"]), batches(1)
    state, sums = step(state, init_metrics(48), pictures, chosen)

    wide = np.float64(images[chosen[0]])
    mean, deviation = (
        part(wide, axis=(1, 2, 3), keepdims=True) for part in (np.mean, np.std)
    )
    x = ((wide - mean) / (deviation + 8.0))[:, 0, :4, 0]
    y = np.float64(labels[chosen[0]])
    logits = x @ kernel
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = kernel - 0.5 * x.T @ (p - y) / BATCH
    np.testing.assert_allclose(state.params["kernel"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        sums.loss, -np.log((p * y).sum(axis=1)).mean(), rtol=1e-5
    )
    assert sums.correct == (logits.argmax(axis=1) == y.argmax(axis=1)).sum()
    assert (sums.images, sums.steps, sums.bad_step) == (BATCH, 1, 0)
    found = dict(zip(("logit", "parameter"), (logits, kernel), strict=True))
    for name, values in found.items():
        largest = getattr(sums.last_good, name)
        np.testing.assert_allclose(largest, np.abs(values).max(), rtol=1e-4)
    gradient = np.abs(x.T @ (p - y)).max() / BATCH
    np.testing.assert_allclose(sums.last_good.gradient, gradient, rtol=1e-4)
    assert sums.last_good.step == 1 and sums.last_good.loss == sums.loss
    assert state.step == 1 and state.batch_stats["seen"] == 1


def test_sums_add_up_over_steps_and_dispatches(pictures):
    state, step = softmax_parts(noise=0.5)
    sums, losses, correct, chosen = init_metrics(48), [], [], batches(5)
    for number in range(5):
        before = copied(state)
        own = step(before, init_metrics(48), pictures, chosen[number][None])[1]
        losses.append(float(own.loss))
        correct.append(int(own.correct))
        state, sums = step(state, sums, pictures, chosen[number][None])
    assert float(sums.loss) == pytest.approx(sum(losses), rel=1e-5)
    assert int(sums.correct) == sum(correct)
    assert (sums.images, sums.steps) == (5 * BATCH, 5)


@pytest.mark.parametrize("split", [(2,), (5,), (2, 3), (1, 1, 2, 1)])
def test_steps_do_not_depend_on_how_they_are_dispatched(pictures, split):
    total = sum(split)
    chosen = batches(total)

    def run(sizes):
        state, step = softmax_parts(noise=0.3, augment_fn=noisy)
        sums, start = init_metrics(48), 0
        for size in sizes:
            indices = chosen[start : start + size]
            state, sums = step(state, sums, pictures, indices)
            start += size
        return numbers((state, sums))

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        run(split),
        run((1,) * total),
    )


def test_randomness_is_a_function_of_the_key_and_the_step(pictures):
    losses, chosen = {}, batches(1)
    for noise, augment_fn in ((0.3, plain), (0.0, noisy)):
        state, step = softmax_parts(noise=noise, augment_fn=augment_fn)
        for number in (0, 0, 1, 2):  # the same params and images at other steps
            at = copied(state)._replace(step=jnp.int32(number))
            loss = float(step(at, init_metrics(48), pictures, chosen)[1].loss)
            assert losses.setdefault((noise, number), loss) == loss
    # Neither the noise of the network nor that of the augmentation repeats.
    assert len(set(losses.values())) == 6


def test_augmentation_and_dropout_have_keys_of_their_own(pictures):
    class Telling(Softmax):
        def train(self, params, batch_stats, images, key):
            logits, _ = super().train(params, batch_stats, images, key)
            return logits, {"seen": jax.random.uniform(key)}

    def tell(key, images, labels, shown):
        return images, jnp.full_like(labels, jax.random.uniform(key))

    step = spec_step(lambda _, labels: labels[0, 0], tell, network=Telling())
    state, _ = softmax_parts()
    state, sums = step(state, init_metrics(48), pictures, batches(1))
    known = [KEY, jax.random.fold_in(KEY, 0), jax.random.fold_in(KEY, 1)]
    drawn = [sums.loss, state.batch_stats["seen"], *map(jax.random.uniform, known)]
    assert len({float(value) for value in drawn}) == 5


def test_state_and_sums_are_donated_and_the_images_are_not(pictures):
    state, step = softmax_parts()
    sums = init_metrics(48)
    step(state, sums, pictures, batches(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state, sums)))
    assert not any(leaf.is_deleted() for leaf in pictures)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (4,)])
@pytest.mark.parametrize("bad", [0, 2, 3])
def test_the_first_step_whose_loss_is_not_finite_is_recorded(pictures, sizes, bad):
    images, labels = pictures
    labels = labels.at[47].set(jnp.nan)
    chosen = jnp.minimum(batches(4), 46).at[bad, 3].set(47)
    state, step = softmax_parts()
    state = state._replace(step=jnp.int32(10))
    sums, start = init_metrics(48), 0
    for size in sizes:
        indices = chosen[start : start + size]
        state, sums = step(state, sums, (images, labels), indices)
        start += size
    # All later steps are bad as well, as the parameters are lost.
    assert sums.bad_step == 11 + bad and np.isnan(sums.loss)
    # What is kept of the step before it is finite; 0 where there was none.
    assert sums.last_good.step == (10 + bad if bad else 0)
    assert all(np.isfinite(value) for value in sums.last_good)
    assert (sums.last_good.parameter > 0) == (bad > 0)


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is(pictures):
    def loss_fn(logits, labels):
        return jnp.sqrt(jnp.sum(0.0 * logits))  # 0, of slope 0 * infinity

    state, step = softmax_parts(loss_fn=loss_fn)
    _, sums = step(state, init_metrics(48), pictures, batches(1))
    assert sums.loss == 0.0 and sums.bad_step == 1


def test_hits_are_counted_against_the_heaviest_label(pictures):
    def soften(key, images, labels, shown):
        return images, 0.6 * labels + 0.4 * jnp.roll(labels, 1, axis=1)

    counts = []
    for augment_fn in (plain, soften):
        state, step = softmax_parts(augment_fn=augment_fn)
        _, sums = step(state, init_metrics(48), pictures, batches(1))
        counts.append(int(sums.correct))
    assert counts[0] == counts[1] > 0


def test_the_epoch_tells_how_each_image_was_met(pictures):
    images, labels = pictures

    def mix(key, images, labels, shown):  # the margin is of the image's own class
        return images, 0.6 * labels + 0.4 * jnp.roll(labels, 1, axis=1)

    state, step = softmax_parts(loss_fn=lambda logits, labels: 0.0, augment_fn=mix)
    kernel = numbers(state.params["kernel"])
    chosen = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 9, 10, 11, 12, 13]])
    sums = init_metrics(48)
    for indices in chosen:
        state, sums = step(state, sums, pictures, jnp.asarray(indices[None]))
    x = np.array(normalise(images))[:, 0, :4, 0]
    logits, classes = x @ kernel, np.array(labels).argmax(axis=1)
    others = np.where(np.array(labels) > 0, -np.inf, logits)
    margin = logits[np.arange(48), classes] - others.max(axis=1)
    times = np.bincount(chosen.ravel(), minlength=48)
    np.testing.assert_array_equal(sums.shown, times)
    np.testing.assert_allclose(sums.margin, times * margin, rtol=1e-4, atol=1e-5)
    seen = times > 0
    np.testing.assert_array_equal(sums.rival[seen], others.argmax(axis=1)[seen])


class Folding(Softmax):
    """Takes the dropout key as `nnx.Rngs` does; SAM passes the same one twice."""

    def train(self, params, batch_stats, images, key):
        return super().train(params, batch_stats, images, jax.random.fold_in(key, 0))


@pytest.mark.parametrize(
    "flips", [pytest.param("true", marks=pytest.mark.slow), "alternating"]
)
def test_no_key_is_used_twice(pictures, flips):
    every = (
        *("rotation=10", "brightness=0.1", "contrast=0.1", "randaugment=1"),
        *("random_erasing=0.5", "cutout=0.2", "mixup_alpha=0.2", "cutmix_alpha=1.0"),
        f"horizontal_flip={flips}",
    )
    settings = [f"augmentation.{item}" for item in every]
    config = tiny_config(*settings, "data.image_size=20", "data.crop_size=16")
    step = spec_step(
        augment_fn=make_augment(config, 6), network=Folding(0.3), sam_rho=0.1
    )
    arguments = softmax_parts()[0], init_metrics(48), pictures
    with jax.debug_key_reuse(True):
        step(*arguments, batches(1))


# --- sharpness-aware steps, averages, and smaller images


def softmax_gradient(kernel, x, y):
    p = np.exp(x @ kernel) / np.exp(x @ kernel).sum(axis=1, keepdims=True)
    return x.T @ (p - y) / len(x)


def test_sam_moves_by_the_gradient_found_uphill(pictures):
    images, labels = pictures
    step = spec_step(sam_rho=0.7)
    state, _ = softmax_parts()
    kernel, chosen = np.float64(state.params["kernel"]), batches(1)
    state, sums = step(state, init_metrics(48), pictures, chosen)
    x = np.float64(normalise(images[chosen[0]]))[:, 0, :4, 0]
    y = np.float64(labels[chosen[0]])
    grad = softmax_gradient(kernel, x, y)
    uphill = softmax_gradient(kernel + 0.7 * grad / np.linalg.norm(grad), x, y)
    np.testing.assert_allclose(
        state.params["kernel"], kernel - 0.5 * uphill, rtol=1e-4, atol=1e-5
    )
    assert state.batch_stats["seen"] == 1  # those of the first pass
    log_p = x @ kernel - np.log(np.exp(x @ kernel).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(sums.loss, -(y * log_p).sum(axis=1).mean(), rtol=1e-4)


@pytest.mark.parametrize("sam_rho", [None, 0.7])
def test_what_is_not_trained_counts_for_nothing(pictures, sam_rho):
    trained = {"kernel": np.float32([1, 0, 1])}
    images, labels = pictures

    def clipped():
        return optax.chain(optax.clip_by_global_norm(0.01), SGD())

    step = spec_step(optimizer=clipped, sam_rho=sam_rho, trainable=trained)
    params = softmax_parts()[0].params
    state = init_state(params, {"seen": jnp.int32(0)}, SGD)
    state = state._replace(opt_state=(optax.EmptyState(), state.opt_state))
    kernel, chosen = np.float64(params["kernel"]), batches(1)
    state, _ = step(state, init_metrics(48), pictures, chosen)
    x = np.float64(normalise(images[chosen[0]]))[:, 0, :4, 0]
    y, at = np.float64(labels[chosen[0]]), kernel
    if sam_rho:
        grad = softmax_gradient(at, x, y) * trained["kernel"]
        at = kernel + sam_rho * grad / np.linalg.norm(grad)
    grad = softmax_gradient(at, x, y) * trained["kernel"]
    expected = kernel - 0.5 * 0.01 * grad / np.linalg.norm(grad)
    np.testing.assert_allclose(state.params["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_averages_follow_the_weights_and_are_what_is_evaluated(pictures):
    step = spec_step(ema_decay=0.5)
    plain_state, plain_step = softmax_parts()
    assert plain_state.evaluated == (plain_state.params, plain_state.batch_stats)
    start, batch_stats = copied(plain_state.params), {"seen": jnp.float32(0)}
    state = init_state(start, batch_stats, SGD, averages=True)
    kernel, seen = numbers(start)["kernel"], 0.0
    sums, plain_sums = init_metrics(48), init_metrics(48)
    for number, chosen in enumerate(batches(4)):
        state, sums = step(state, sums, pictures, chosen[None])
        plain_state, plain_sums = plain_step(
            plain_state, plain_sums, pictures, chosen[None]
        )
        decay = min(0.5, (1 + number) / (10 + number))
        now = numbers(plain_state.params["kernel"])
        kernel = decay * kernel + (1 - decay) * now
        seen = decay * seen + (1 - decay) * (number + 1)
        # The steps themselves know nothing of the averages.
        np.testing.assert_array_equal(state.params["kernel"], now)
        params, batch_stats = state.evaluated
        np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch_stats["seen"], seen, rtol=1e-6)


@pytest.mark.parametrize("side", [None, 8])
def test_the_network_sees_augmented_images_at_the_size_asked_for(pictures, side):
    shapes, steps, which = [], [], []

    class Watching(Softmax):
        def train(self, params, batch_stats, images, key):
            shapes.append(images.shape)
            return super().train(params, batch_stats, images, key)

    def watch(key, images, labels, shown):
        assert images.shape == (BATCH, SIDE, SIDE, 1)
        jax.debug.callback(
            lambda i, s: (which.append(i), steps.append(s)), shown.indices, shown.step
        )
        return images, labels

    step = spec_step(augment_fn=watch, network=Watching())
    state, sums = softmax_parts()[0], init_metrics(48)
    chosen = batches(2)
    for each in chosen:
        state, sums = step(state, sums, pictures, each[None], side)
    jax.effects_barrier()
    assert set(shapes) == {(BATCH, side or SIDE, side or SIDE, 1)}
    assert [int(s) for s in steps] == [0, 1]
    np.testing.assert_array_equal(np.stack(which), chosen)


# --- a network with batch norm and dropout


@pytest.fixture(scope="module")
def network():
    """A state, to be copied before use, and a compiled step of the tiny network."""
    network, params, batch_stats = models.create(
        "tiny", KEY, models.Options(num_classes=CLASSES, dropout=0.3)
    )
    optimizer, _ = make_optimizer(tiny_config().training, total_steps=12)
    loss_fn = functools.partial(softmax_loss, label_smoothing=0.1)
    step = spec_step(loss_fn, noisy, network=network, optimizer=optimizer)
    return init_state(params, batch_stats, optimizer), step


def test_two_steps_of_the_network_in_one_dispatch_or_in_two(network, pictures):
    state, step = network
    chosen = batches(2)
    together = step(copied(state), init_metrics(48), pictures, chosen)
    apart = copied(state), init_metrics(48)
    for indices in chosen:
        apart = step(*apart, pictures, indices[None])
    assert int(together[0].step) == int(apart[0].step) == 2
    # Adam divides by the gradient's size, so where that is nearly 0 rounding
    # decides the sign of a move: at most the rate, and for few parameters.
    rate = 3e-3
    for one, other in zip(
        jax.tree.leaves(numbers(together[0].params)),
        jax.tree.leaves(numbers(apart[0].params)),
        strict=True,
    ):
        difference = np.abs(one - other)
        assert difference.max() < 2 * rate and np.median(difference) < 1e-6
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        numbers((together[0].batch_stats, together[1])),
        numbers((apart[0].batch_stats, apart[1])),
    )


def test_the_same_state_and_key_give_the_same_bits(network, pictures):
    state, step = network
    first, again = (
        numbers(step(copied(state), init_metrics(48), pictures, batches(1)))
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_every_parameter_and_statistic_moves(network, pictures):
    # Two steps, as a layer whose output is scaled by 0 at first moves only then.
    before, step = network
    state, sums = copied(before), init_metrics(48)
    for indices in batches(2):
        state, sums = step(state, sums, pictures, indices[None])
    for part in ("params", "batch_stats"):
        old, new = getattr(before, part), getattr(state, part)
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
        assert all(jax.tree.leaves(moved)), moved


def test_the_loss_falls_on_a_problem_that_can_be_learnt(network, pictures):
    state, step = network
    state, losses = copied(state), []
    for indices in batches(12, seed=1):
        state, sums = step(state, init_metrics(48), pictures, indices[None])
        losses.append(float(sums.loss))
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
    assert sums.bad_step == 0
