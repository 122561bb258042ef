"""RandAugment on the device, with operations that suit normalised grey faces.

RandAugment (Cubuk et al. 2020, arXiv:1909.13719) draws N operations of one strength
from a list. Here the strength is the largest, and each image draws its own below it (as
in TrivialAugment, Müller & Hutter 2021, arXiv:2103.10158). The geometric operations of
a round are one resampling.
"""

import jax
import jax.numpy as jnp

from fer_jax.training.augment_ops import warp

# At strength 1: degrees, share of the side, slope, deviations, factors.
ROTATION, SHIFT, SHEAR, SCALE = 45.0, 0.3, 0.5, 0.4
BRIGHTNESS, CONTRAST, SHARPNESS, GAMMA = 1.5, 0.8, 1.0, 1.0
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
    "sharpness",  # below 0: blurs
    "gamma",
)


def randaugment(
    key: jax.Array, images: jax.Array, *, operations: int, strength: float
) -> jax.Array:
    """Applies operations drawn from `OPERATIONS` to each image, one after the other.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`, normalised.
      operations: how many are drawn for each image, with replacement.
      strength: the largest share of an operation's range, in 0..1.
    """
    for round_key in jax.random.split(key, operations):
        which_key, much_key = jax.random.split(round_key)
        batch = (images.shape[0], 1, 1)
        which = jax.random.randint(which_key, batch, 0, len(OPERATIONS))
        much = jax.random.uniform(much_key, batch, images.dtype, -strength, strength)
        images = apply(images, which, much)
    return images


def apply(images: jax.Array, which: jax.Array, much: jax.Array) -> jax.Array:
    """Applies one operation to each image.

    Args:
      images: float `[B, H, W, C]`.
      which: int `[B, 1, 1]`, a place in `OPERATIONS`.
      much: float `[B, 1, 1]` in -1..1, the share of the operation's range.
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
    images += amount("sharpness", SHARPNESS)[..., None] * (images - _smoothed(images))
    # A power of the distance from the mean, on both sides of it.
    power = jnp.exp(amount("gamma", GAMMA))[..., None]
    bent = jnp.sign(images) * jnp.maximum(jnp.abs(images), 1e-6) ** power
    return jnp.where(power == 1.0, images, bent)


def _smoothed(images: jax.Array) -> jax.Array:
    """Images after Pillow's `SMOOTH` filter, which leaves the outermost pixels.

    At strength -1 sharpness is this filter. Its response is positive at every
    frequency, so no detail is inverted; that of a plain 3 x 3 mean is not.
    """
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = images[:, 1:-1, 1:-1]
    return images.at[:, 1:-1, 1:-1].set((sums + 4.0 * inner) / 13.0)
