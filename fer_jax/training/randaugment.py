"""A RandAugment-like policy on the device: some operations, drawn for each image.

RandAugment (Cubuk et al. 2020, arXiv:1909.13719) draws N operations of one strength
from a list. Here the list suits grey faces and normalised values, the strength is the
most of which each image draws a share (as in TrivialAugment, Müller & Hutter 2021,
arXiv:2103.10158), and all geometric operations of a round are one resampling.
"""

import jax
import jax.numpy as jnp

from fer_jax.training.augment_ops import warp

# At strength 1: degrees, share of the side, slope, deviations, factors.
ROTATION, SHIFT, SHEAR, SCALE = 45.0, 0.3, 0.5, 0.4
BRIGHTNESS, CONTRAST, SHARPNESS, GAMMA = 1.5, 0.8, 2.0, 1.0
OPERATIONS = (
    "nothing",
    "rotate",
    "shift_y",
    "shift_x",
    "shear_y",
    "shear_x",
    "scale",
    "brightness",
    "contrast",
    "sharpness",  # below 0 it blurs
    "gamma",
)


def randaugment(
    key: jax.Array, images: jax.Array, *, operations: int, strength: float
) -> jax.Array:
    """Applies so many operations of `OPERATIONS` to each image, one after the other.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`, normalised, so that 0 is an image's mean.
      operations: how many are drawn for each image, with replacement.
      strength: in 0..1, of the largest that makes sense.

    Returns:
      float `[B, H, W, C]`.
    """
    for round_key in jax.random.split(key, operations):
        which_key, much_key = jax.random.split(round_key)
        batch = (images.shape[0], 1, 1)
        which = jax.random.randint(which_key, batch, 0, len(OPERATIONS))
        much = jax.random.uniform(much_key, batch, images.dtype, -strength, strength)
        images = apply(images, which, much)
    return images


def apply(images: jax.Array, which: jax.Array, much: jax.Array) -> jax.Array:
    """One operation on each image.

    Args:
      images: float `[B, H, W, C]`.
      which: int `[B, 1, 1]`, a place in `OPERATIONS`.
      much: float `[B, 1, 1]` in -1..1, of the operation's largest.
    """

    def amount(name: str, largest: float) -> jax.Array:
        return jnp.where(which == OPERATIONS.index(name), much * largest, 0.0)

    angle = jnp.deg2rad(amount("rotate", ROTATION))
    size = 1.0 + amount("scale", SCALE)
    cos, sin = jnp.cos(angle) / size, jnp.sin(angle) / size
    shear_y, shear_x = amount("shear_y", SHEAR), amount("shear_x", SHEAR)
    move = jnp.stack([amount("shift_y", SHIFT), amount("shift_x", SHIFT)])
    images = warp(images, ((cos, shear_y - sin), (shear_x + sin, cos)), move)
    factor = 1.0 + amount("contrast", CONTRAST)[..., None]
    images = images * factor + amount("brightness", BRIGHTNESS)[..., None]
    images += amount("sharpness", SHARPNESS)[..., None] * (images - _blurred(images))
    # The usual power acts on 0..1; here on each side of the mean, by sign.
    power = jnp.exp(amount("gamma", GAMMA))[..., None]
    bent = jnp.sign(images) * jnp.maximum(jnp.abs(images), 1e-6) ** power
    return jnp.where(power == 1.0, images, bent)


def _blurred(images: jax.Array) -> jax.Array:
    """Means of 3 x 3 pixels; the edge goes on outside."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9.0
