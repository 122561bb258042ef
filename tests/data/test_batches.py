"""The order of images: whole epochs, the weighted sampler, and exact resume."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fer_jax.data.batches import (
    batch_order,
    index_batches,
    sampler_weights,
    steps_per_epoch,
)
from fer_jax.errors import UserError

LABELS = np.repeat(np.arange(4), [5, 60, 20, 15])


def batches(num_images, **options):
    return np.stack(list(index_batches(batch_order(num_images, **options))))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_an_epoch_is_a_permutation_without_repeats(size, batch_size, epochs, seed):
    if size < batch_size:
        return
    found = batches(size, batch_size=batch_size, epochs=epochs, seed=seed)
    per_epoch = size // batch_size
    assert found.shape == (per_epoch * epochs, batch_size)
    assert found.dtype == np.int32
    assert found.min() >= 0 and found.max() < size
    for epoch in found.reshape(epochs, -1):
        assert len(np.unique(epoch)) == per_epoch * batch_size


def test_every_image_has_its_turn_though_an_epoch_leaves_some_out():
    found = batches(10, batch_size=4, epochs=100, seed=0)
    counts = np.bincount(found.ravel(), minlength=10)
    assert counts.sum() == 800 and counts.min() > 60


def test_epochs_and_seeds_differ():
    first = batches(50, batch_size=10, epochs=3, seed=0).reshape(3, 50)
    other = batches(50, batch_size=10, epochs=3, seed=1).reshape(3, 50)
    orders = {tuple(epoch) for epoch in (*first, *other)}
    assert len(orders) == 6


def test_permutations_are_uniform():
    # All 24 orders of four images, as often as each other.
    found = batches(4, batch_size=4, epochs=2400, seed=0)
    orders, counts = np.unique(found, axis=0, return_counts=True)
    assert len(orders) == 24 and stats.chisquare(counts).pvalue > 0.001


def test_the_same_seed_gives_the_same_order():
    options = {"batch_size": 8, "epochs": 2, "seed": 5}
    np.testing.assert_array_equal(batches(30, **options), batches(30, **options))


def test_a_longer_run_starts_as_a_shorter_one():
    short = batches(30, batch_size=8, epochs=2, seed=5)
    long = batches(30, batch_size=8, epochs=4, seed=5)
    np.testing.assert_array_equal(long[: len(short)], short)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("position", [0, 1, 11, 12, 13, 35, 36])
def test_resumed_from_any_position_is_uninterrupted(weighted, position):
    weights = sampler_weights(LABELS) if weighted else None
    options = {"batch_size": 8, "epochs": 3, "seed": 3, "weights": weights}
    whole = batches(100, **options)  # 12 to the epoch
    assert len(whole) == 36

    iterator = iter(index_batches(batch_order(100, **options)))
    for _ in range(position):
        next(iterator)
    state = iterator.get_state()
    assert state == {"next_index": position}  # the number of steps taken

    resumed = iter(index_batches(batch_order(100, **options)))
    resumed.set_state(state)
    rest = list(resumed)
    assert len(rest) == 36 - position
    for found, expected in zip(rest, whole[position:], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_iterator_may_jump_back_and_forth():
    dataset = index_batches(batch_order(40, batch_size=8, epochs=4, seed=0))
    whole, iterator = list(dataset), iter(dataset)
    for position in (13, 2, 19, 0):
        iterator.set_state({"next_index": position})
        np.testing.assert_array_equal(next(iterator), whole[position])


def test_sampler_weights_by_hand():
    found = sampler_weights(np.array([0, 2, 2, 0, 2, 2]))
    np.testing.assert_allclose(found, [1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8])


def test_the_weighted_sampler_draws_classes_evenly_and_images_within_them():
    weights = sampler_weights(LABELS)
    found = batches(100, batch_size=50, epochs=200, seed=0, weights=weights).ravel()
    assert len(found) == 20_000
    classes = np.bincount(LABELS[found], minlength=4)
    assert stats.chisquare(classes).pvalue > 0.001
    for label in range(4):
        images = np.bincount(found, minlength=100)[label == LABELS]
        assert stats.chisquare(images).pvalue > 0.001


def test_weights_need_not_sum_to_one_and_zero_is_never_drawn():
    weights = np.array([0.0, 3.0, 0.0, 1.0, 0.0])
    found = batches(5, batch_size=5, epochs=400, seed=0, weights=weights).ravel()
    counts = np.bincount(found, minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert stats.chisquare(counts[[1, 3]], [1500, 500]).pvalue > 0.001


def test_weighted_batches_differ_between_steps_and_seeds():
    weights = np.ones(1000)
    options = {"batch_size": 20, "epochs": 1, "weights": weights}
    draws = [*batches(1000, seed=0, **options), *batches(1000, seed=1, **options)]
    for one, other in itertools.combinations(draws[:8] + draws[-8:], 2):
        assert (one != other).any()


@pytest.mark.parametrize(
    "call",
    [
        lambda: steps_per_epoch(7, 8),
        lambda: batch_order(7, batch_size=8, epochs=1, seed=0),
    ],
)
def test_a_set_smaller_than_a_batch_is_refused(call):
    with pytest.raises(UserError) as refusal:
        call()
    message = str(refusal.value)
    assert "training.batch_size is 8" in message and "7" in message
    assert "\n" not in message


def test_steps_per_epoch_counts_whole_batches():
    assert [steps_per_epoch(size, 8) for size in (8, 15, 16, 28709)] == [1, 1, 2, 3588]
