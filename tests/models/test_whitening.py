"""The whitened first layer: what it does to the images that it is made from."""

import numpy as np
import pytest

from fer_jax.models.whitening import EPSILON, whitened


def smooth_images(count=300, side=12, channels=1):
    """Images whose neighbours are alike, with a mean of 0."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((count, side + 4, side + 4, channels))
    if channels > 1:  # alike in colour too
        noise += 2 * noise[..., :1]
    windows = np.lib.stride_tricks.sliding_window_view(noise, (5, 5), (1, 2))
    return np.float32(windows.mean(axis=(4, 5)) * 3)


def outputs(kernel, images):
    """The convolution without padding, as rows `[N, O]`."""
    size, _, _, filters = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), (1, 2))
    rows = np.einsum("nhwcyx,yxco->nhwo", windows, kernel, dtype=np.float64)
    return rows.reshape(-1, filters)


@pytest.mark.parametrize(("size", "channels"), [(3, 1), (2, 1), (2, 3), (5, 1)])
def test_outputs_are_uncorrelated_and_of_unit_variance(size, channels):
    images = smooth_images(channels=channels)
    assert images.var() < 5  # the pixels' own covariance is far from the identity
    whole = 2 * size * size * channels
    kernel = whitened(np.zeros((size, size, channels, whole)), images)
    rows = outputs(kernel[..., ::2], images)
    covariance = np.cov(rows, rowvar=False)
    patches = outputs(np.eye(whole // 2).reshape(size, size, channels, -1), images)
    eigenvalues = np.linalg.eigvalsh(np.cov(patches, rowvar=False))[::-1]
    assert eigenvalues[0] > 20 * eigenvalues[-1]
    expected = np.diag(eigenvalues / (eigenvalues + EPSILON))
    np.testing.assert_allclose(covariance, expected, atol=1e-3)


def test_filters_come_in_pairs_of_both_signs_the_largest_first():
    images = smooth_images()
    kernel = whitened(np.zeros((3, 3, 1, 18)), images)
    np.testing.assert_array_equal(kernel[..., ::2], -kernel[..., 1::2])
    # A filter divides by the deviation along it: the first, of the largest, is small.
    norms = np.linalg.norm(kernel.reshape(9, 18), axis=0)
    assert (np.diff(norms[::2]) >= 0).all() and norms[0] < norms[-1]
    assert (kernel[..., 0] > 0).all()  # of smooth images, the mean comes first


def test_further_filters_stay_as_initialised_and_missing_ones_are_left_out():
    images, rng = smooth_images(), np.random.default_rng(1)
    start = rng.standard_normal((3, 3, 1, 24)).astype(np.float32)
    kernel = whitened(start, images)
    assert kernel.shape == start.shape and kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel[..., 18:], start[..., 18:])
    few = whitened(start[..., :8], images)
    np.testing.assert_array_equal(few, kernel[..., :8])


def test_what_hardly_varies_is_not_blown_up():
    rng = np.random.default_rng(0)
    images = np.repeat(rng.standard_normal((50, 8, 8, 1)), 2, axis=3)
    images[..., 1] += 1e-4 * rng.standard_normal((50, 8, 8))  # nearly grey
    kernel = whitened(np.zeros((1, 1, 2, 4)), images.astype(np.float32))
    grey, colour = outputs(kernel, images)[:, ::2].std(axis=0)
    assert grey == pytest.approx(1, abs=0.05) and colour < 0.01


def test_a_part_of_the_patches_of_many_images_suffices(monkeypatch):
    images = smooth_images(count=600)
    kernel = np.zeros((3, 3, 1, 4))
    whole = whitened(kernel, images)
    monkeypatch.setattr("fer_jax.models.whitening.PATCHES", 10_000)
    part = whitened(kernel, images)
    assert (whole != part).any()
    # The first direction, which no other comes near.
    np.testing.assert_allclose(part[..., 0], whole[..., 0], rtol=0.1)
