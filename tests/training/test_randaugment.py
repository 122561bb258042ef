"""The policy's operations against SciPy and by hand, and how they are drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from fer_jax.training import randaugment
from fer_jax.training.randaugment import OPERATIONS, apply

SIDE = 21
IMAGES = np.float32(np.random.default_rng(0).standard_normal((3, SIDE, SIDE, 1)))
MUCH = np.float32([-0.6, 0.3, 1.0]).reshape(3, 1, 1)


def applied(name):
    which = jnp.full((3, 1, 1), OPERATIONS.index(name))
    return np.array(jax.jit(apply)(IMAGES, which, MUCH))[..., 0]


def moved(matrix, shift=(0.0, 0.0)):
    """SciPy's resampling about the centre, by a function of the amount."""
    found = []
    for image, much in zip(IMAGES[..., 0], MUCH.ravel(), strict=True):
        linear = np.array(matrix(much), np.float64)
        middle = np.full(2, (SIDE - 1) / 2)
        offset = middle - linear @ (middle + much * SIDE * np.array(shift))
        found.append(
            ndimage.affine_transform(
                np.float64(image), linear, offset, order=1, mode="nearest"
            )
        )
    return np.stack(found)


def turn(much):
    angle = np.deg2rad(much * randaugment.ROTATION)
    return [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]


@pytest.mark.parametrize(
    ("name", "matrix", "shift"),
    [
        ("nothing", lambda much: np.eye(2), (0, 0)),
        ("rotate", turn, (0, 0)),
        ("shift_y", lambda much: np.eye(2), (randaugment.SHIFT, 0)),
        ("shift_x", lambda much: np.eye(2), (0, randaugment.SHIFT)),
        ("shear_y", lambda much: [[1, much * randaugment.SHEAR], [0, 1]], (0, 0)),
        ("shear_x", lambda much: [[1, 0], [much * randaugment.SHEAR, 1]], (0, 0)),
        ("scale", lambda much: np.eye(2) / (1 + much * randaugment.SCALE), (0, 0)),
    ],
)
def test_geometry_is_that_of_scipy(name, matrix, shift):
    np.testing.assert_allclose(applied(name), moved(matrix, shift), atol=2e-4)


def test_brightness_contrast_and_gamma_by_hand():
    x, much = IMAGES[..., 0], MUCH
    expected = {
        "brightness": x + much * randaugment.BRIGHTNESS,
        "contrast": x * (1 + much * randaugment.CONTRAST),
        "gamma": np.sign(x) * np.abs(x) ** np.exp(much * randaugment.GAMMA),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(applied(name), values, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("amount", [-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 1.0])
def test_sharpness_is_that_of_pillow_over_its_whole_range(amount):
    grey = np.random.default_rng(0).integers(100, 156, (SIDE, SIDE), dtype=np.uint8)
    grey[::2, :10] = 100  # stripes of one pixel, the finest detail
    expected = ImageEnhance.Sharpness(Image.fromarray(grey)).enhance(1 + amount)
    which = jnp.full((1, 1, 1), OPERATIONS.index("sharpness"))
    images = np.float32(grey)[None, :, :, None]
    found = np.array(apply(images, which, jnp.full((1, 1, 1), amount)))[0, :, :, 0]
    # Pillow rounds to whole grey levels twice.
    np.testing.assert_allclose(found, np.float64(expected), atol=1.5)


def test_blurring_never_inverts_detail():
    y, x = np.mgrid[:SIDE, :SIDE]
    for pattern in ((-1.0) ** x, (-1.0) ** y, (-1.0) ** (x + y)):
        images = np.float32(pattern)[None, :, :, None]
        which = jnp.full((1, 1, 1), OPERATIONS.index("sharpness"))
        found = apply(images, which, jnp.full((1, 1, 1), -1.0))
        assert (np.array(found)[0, 1:-1, 1:-1, 0] * pattern[1:-1, 1:-1] > 0).all()


def test_operations_are_drawn_evenly_for_each_image_and_follow_the_key():
    images = jnp.broadcast_to(jnp.asarray(IMAGES[:1]), (2200, SIDE, SIDE, 1))
    draw = jax.jit(
        lambda seed: randaugment.randaugment(
            jax.random.key(seed), images, operations=1, strength=0.5
        )
    )
    found = np.array(draw(0))
    np.testing.assert_array_equal(found, draw(0))
    assert (np.array(draw(1)) != found).any()
    same = np.isclose(found, images, atol=1e-5).all(axis=(1, 2, 3))
    assert abs(same.mean() - 1 / len(OPERATIONS)) < 0.03  # "nothing"
    brighter = found - np.array(images)
    flat = (brighter.std(axis=(1, 2, 3)) < 1e-4) & ~same
    assert abs(flat.mean() - 1 / len(OPERATIONS)) < 0.03  # "brightness"
    assert np.abs(brighter[flat]).max() <= 0.5 * randaugment.BRIGHTNESS + 1e-5


def test_more_operations_change_more_and_no_strength_changes_nothing():
    images = jnp.asarray(np.repeat(IMAGES, 100, axis=0))

    def change(operations, strength):
        key = jax.random.key(3)
        found = randaugment.randaugment(
            key, images, operations=operations, strength=strength
        )
        return float(np.abs(found - images).mean())

    assert change(1, 0.0) < 1e-5 < change(1, 0.3) < change(3, 0.3)
