"""Convolutions for a CPU against XLA's own, and against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.models.cpu import winograd
from fer_jax.models.cpu.convolution import conv_on_cpu

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize(
    ("batch", "side", "size", "stride", "inputs"),
    [
        (9, 12, 3, 1, 8),  # Winograd's algorithm
        (9, 13, 3, 1, 8),  # with tiles that reach over the edge
        (9, 12, 3, 2, 8),  # over folded pixels
        (9, 13, 3, 2, 8),
        (9, 5, 3, 1, 8),  # too small for it: a product with the patches
        (9, 5, 3, 2, 8),
        (9, 12, 3, 1, 1),  # too few channels
        (9, 13, 3, 2, 1),
        (9, 12, 5, 2, 1),  # FerNet's stem
        (9, 13, 5, 2, 1),
        (9, 13, 7, 2, 3),  # ImageNet's stem
        (9, 13, 1, 1, 8),  # a product over channels
        (9, 12, 1, 2, 8),
        (9, 13, 1, 2, 8),
        (2, 13, 3, 1, 8),  # too few images: XLA's own
    ],
)
def test_a_convolution_and_its_gradients_are_xlas(batch, side, size, stride, inputs):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (batch, side, side + 1, inputs))
    kernel = jax.random.normal(keys[1], (size, size, inputs, 10))
    geometry = ((stride, stride), [(size // 2, size // 2)] * 2)

    def value_and_gradients(convolve):
        outputs, vjp = jax.vjp(
            lambda x, w: convolve(x, w, *geometry, **LAYOUT), images, kernel
        )
        return outputs, *vjp(jax.random.normal(keys[2], outputs.shape))

    found, expected = (
        jax.jit(value_and_gradients, static_argnums=0)(each)
        for each in (conv_on_cpu, jax.lax.conv_general_dilated)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * abs(other).max())


@pytest.mark.parametrize(("taps", "before"), [(3, 1), (3, 0), (2, 1), (2, 0)])
def test_winograds_convolution_loses_less_than_two_digits(taps, before):
    # Against the same sums in float64, as NumPy adds them up.
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 6, 7, 48))
    kernel = rng.standard_normal((taps, taps, 48, 40))
    around = (before, taps - 1 - before)
    padded = np.pad(images, ((0, 0), around, around, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), (1, 2))
    exact = np.einsum("bhwiyx,yxio->bhwo", windows, kernel)
    narrow = (jnp.asarray(x, jnp.float32) for x in (images, kernel))
    error = np.abs(winograd.convolve(*narrow, before) - exact).max()
    assert error < 50 * np.finfo(np.float32).eps * np.abs(exact).max()


def test_a_convolution_for_cpus_keeps_a_narrow_type():
    images, kernel = jnp.ones((8, 6, 6, 8), jnp.bfloat16), jnp.ones((3, 3, 8, 8))
    outputs = conv_on_cpu(
        images, kernel.astype(jnp.bfloat16), (1, 1), [(1, 1)] * 2, **LAYOUT
    )
    assert outputs.dtype == jnp.bfloat16
    assert outputs[0, 3, 3, 0] == 72 and outputs[0, 0, 0, 0] == 32
