"""Augmentation against SciPy, a plain version of torchvision's code, and statistics.

Seeds are fixed, so that the statistical tests always give the same answer; each
asks for p > 0.001.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from fer_jax.training import augment_ops

AFFINE = {"rotation": 25.0, "shift": 0.1, "scale": 0.2}
HEIGHT, WIDTH = 25, 21  # not square: an axis taken for the other would show


@functools.cache
def jitted(name):
    """Compiled with its options as arguments, so that they share a compilation."""
    static = "size" if name in ("random_crop", "cutout") else ()
    return jax.jit(getattr(augment_ops, name), static_argnames=static)


def noise(batch, height=HEIGHT, width=WIDTH, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return np.float32(rng.standard_normal((batch, height, width, channels)))


CALLS = [
    ("random_flip", {}),
    ("random_affine", AFFINE),
    ("random_erasing", {"probability": 0.7}),
    ("brightness_contrast", {"brightness": 0.3, "contrast": 0.2}),
    ("cutout", {"size": 0.4}),
]


@pytest.mark.parametrize(("name", "options"), CALLS)
def test_the_key_decides_all_and_each_image_has_a_choice_of_its_own(name, options):
    images = np.repeat(noise(1), 64, axis=0)

    def call(seed):
        return np.array(jitted(name)(jax.random.key(seed), images, **options))

    found = call(3)
    assert found.shape == images.shape and found.dtype == images.dtype
    np.testing.assert_array_equal(call(3), found)
    assert (call(4) != found).any()
    assert (found != found[0]).any()


# --- flip


def test_half_of_the_images_are_mirrored_and_the_rest_untouched():
    images = noise(4000, 5, 4)
    found = np.array(jitted("random_flip")(jax.random.key(0), images))
    same = (found == images).all(axis=(1, 2, 3))
    mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 4000, 0.5).pvalue > 0.001


# --- affine


@pytest.fixture(scope="module")
def warped():
    """A picture beside two ramps, which tell where each output pixel came from."""
    batch = 3000
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    images = np.stack([y, x, noise(1)[0, :, :, 0]], axis=-1)
    images = np.float32(np.broadcast_to(images, (batch, HEIGHT, WIDTH, 3)))
    found = jitted("random_affine")(jax.random.key(0), images, **AFFINE)
    return images, np.float64(found)


def motion(found):
    """Angle in degrees, size and shift in pixels, read off the ramps' centres."""
    y, x = HEIGHT // 2, WIDTH // 2
    ramps = found[..., :2]  # the clamped edge is far from the centre
    inverse = np.stack(
        [ramps[:, y + 1, x] - ramps[:, y, x], ramps[:, y, x + 1] - ramps[:, y, x]],
        axis=-1,
    )
    size = np.linalg.det(inverse) ** -0.5
    angle = np.degrees(np.arctan2(inverse[:, 1, 0], inverse[:, 0, 0]))
    offset = ramps[:, y, x] - [y, x]
    shift = np.linalg.solve(inverse, -offset[..., None])[..., 0]
    return angle, size, shift, inverse


def test_affine_samples_the_picture_as_scipy_does(warped):
    images, found = warped
    for number in range(20):
        y, x, picture = np.moveaxis(found[number], -1, 0)
        expected = ndimage.map_coordinates(
            np.float64(images[number, :, :, 2]), [y, x], order=1, mode="nearest"
        )
        np.testing.assert_allclose(picture, expected, atol=1e-4)


def test_affine_is_a_rotation_with_one_scale_about_the_centre(warped):
    images, found = warped
    angle, size, shift, inverse = motion(found)
    turn = np.radians(angle)
    rotation = np.stack(
        [np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], axis=-1
    ).reshape(-1, 2, 2)
    np.testing.assert_allclose(inverse, rotation / size[:, None, None], atol=1e-4)
    # The whole field is that map, held at the edge of the image.
    middle = np.array([HEIGHT // 2, WIDTH // 2])
    grid = images[0, :, :, :2].astype(np.float64) - middle
    places = np.einsum("nij,nyxj->nyxi", inverse, grid - shift[:, None, None]) + middle
    places = np.clip(places, 0, [HEIGHT - 1, WIDTH - 1])
    np.testing.assert_allclose(found[..., :2], places, atol=5e-3)


def test_angle_size_and_shift_are_uniform_and_independent(warped):
    angle, size, shift, _ = motion(warped[1])
    drawn = np.stack(
        [
            angle / AFFINE["rotation"],
            (size - 1) / AFFINE["scale"],
            shift[:, 0] / (AFFINE["shift"] * HEIGHT),
            shift[:, 1] / (AFFINE["shift"] * WIDTH),
        ]
    )
    assert np.abs(drawn).max() < 1 + 1e-3 and np.abs(drawn).max(axis=1).min() > 0.99
    for values in drawn:
        assert stats.kstest(values, stats.uniform(-1, 2).cdf).pvalue > 0.001
    correlation = np.corrcoef(drawn) - np.eye(4)
    assert np.abs(correlation).max() < 0.07  # 3.8 standard errors


def test_affine_of_zero_is_the_identity():
    images = noise(64)
    found = jitted("random_affine")(
        jax.random.key(0), images, rotation=0.0, shift=0.0, scale=0.0
    )
    np.testing.assert_array_equal(found, images)


def test_constant_images_stay_constant():
    images = np.full((64, HEIGHT, WIDTH, 1), 0.7, np.float32)
    options = {"rotation": 180.0, "shift": 0.5, "scale": 0.5}
    found = jitted("random_affine")(jax.random.key(1), images, **options)
    np.testing.assert_allclose(found, images, rtol=1e-6)


@pytest.mark.parametrize("steps", [(0, 0), (3, 0), (0, -2), (-4, 5)])
def test_sampling_at_whole_pixels_is_a_shift_that_repeats_the_edge(steps):
    images = noise(2)
    rows = np.clip(np.arange(HEIGHT) - steps[0], 0, HEIGHT - 1)
    columns = np.clip(np.arange(WIDTH) - steps[1], 0, WIDTH - 1)
    y = np.float32(np.arange(HEIGHT)[:, None] - steps[0] + np.zeros((2, 1, WIDTH)))
    x = np.float32(np.arange(WIDTH)[None, :] - steps[1] + np.zeros((2, HEIGHT, 1)))
    found = augment_ops._bilinear(images, y, x)
    np.testing.assert_array_equal(found, images[:, rows][:, :, columns])


def test_sampling_along_swapped_axes_turns_the_image_by_90_degrees():
    images = noise(2, 9, 9)
    y, x = np.meshgrid(np.arange(9), np.arange(9), indexing="ij")
    # np.rot90 takes output pixel (y, x) from (x, 8 - y).
    found = augment_ops._bilinear(
        images, np.float32(np.stack([x, x])), np.float32(8 - np.stack([y, y]))
    )
    np.testing.assert_array_equal(found, np.rot90(images, axes=(1, 2)))


# --- erasing


def erase_plainly(rng, height, width):
    """torchvision's RandomErasing.get_params: top, left, height, width or None."""
    area = height * width
    for _ in range(10):
        target = area * rng.uniform(0.02, 0.33)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        h = round(math.sqrt(target * aspect))
        w = round(math.sqrt(target / aspect))
        if h < height and w < width:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return top, left, h, w
    return None


def rectangles(height, width, batch=4000):
    """The erased rectangles of many images: top, left, height, width; -1: none."""
    images = np.ones((batch, height, width, 1), np.float32)
    found = jitted("random_erasing")(jax.random.key(0), images, probability=1.0)
    erased = np.array(found)[..., 0] == 0
    rows, columns = erased.any(axis=2), erased.any(axis=1)
    h, w = rows.sum(axis=1), columns.sum(axis=1)
    np.testing.assert_array_equal(erased.sum(axis=(1, 2)), h * w)  # whole rectangles
    some = h > 0
    top = np.where(some, rows.argmax(axis=1), -1)
    left = np.where(some, columns.argmax(axis=1), -1)
    # Rows in one piece.
    last = height - 1 - rows[:, ::-1].argmax(axis=1)
    np.testing.assert_array_equal((last - top + 1)[some], h[some])
    return np.stack([top, left, h, w])


# In a narrow image most draws do not fit and are made again.
@pytest.mark.parametrize("shape", [(24, 20), (60, 8)])
def test_erased_rectangles_are_distributed_as_in_torchvision(shape):
    top, left, h, w = rectangles(*shape)
    rng = np.random.default_rng(0)
    drawn = [erase_plainly(rng, *shape) for _ in range(8000)]
    plain = [item for item in drawn if item is not None and item[2] * item[3]]
    plain_top, plain_left, plain_h, plain_w = np.array(plain).T
    some = h > 0
    top, left, h, w = top[some], left[some], h[some], w[some]
    shares = stats.fisher_exact(
        [
            [some.sum(), (~some).sum()],
            [len(plain), len(drawn) - len(plain)],
        ]
    )
    assert shares.pvalue > 0.001
    pairs = {
        "height": (h, plain_h),
        "width": (w, plain_w),
        "area": (h * w, plain_h * plain_w),
        "aspect": (h / w, plain_h / plain_w),
        "top": (top, plain_top),
        "left": (left, plain_left),
        "bottom gap": (shape[0] - top - h, shape[0] - plain_top - plain_h),
        "right gap": (shape[1] - left - w, shape[1] - plain_left - plain_w),
    }
    for name, (ours, theirs) in pairs.items():
        assert stats.ks_2samp(ours, theirs).pvalue > 0.001, name


def test_rectangles_are_smaller_than_the_image_in_both_directions():
    _, _, h, w = rectangles(60, 8)
    assert h.max() < 60 and w.max() < 8


def test_rectangles_reach_every_edge():
    top, left, h, w = rectangles(24, 20)
    assert top[h > 0].min() == 0 and left[h > 0].min() == 0
    assert (top + h).max() == 24 and (left + w).max() == 20


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_share_of_erased_images_is_the_probability(probability):
    images = np.ones((4000, 24, 20, 1), np.float32)
    found = jitted("random_erasing")(jax.random.key(5), images, probability=probability)
    erased = np.array(found == 0).any(axis=(1, 2, 3))
    if probability in (0.0, 1.0):
        assert erased.mean() == probability
    else:
        count = int(erased.sum())
        assert stats.binomtest(count, 4000, probability).pvalue > 0.001


def test_erased_pixels_are_0_in_all_channels_and_others_are_untouched():
    images = jnp.asarray(noise(32, channels=3), jnp.bfloat16)
    found = jitted("random_erasing")(jax.random.key(0), images, probability=1.0)
    assert found.dtype == jnp.bfloat16
    changed = np.array(found != images)
    assert (changed.all(axis=-1) == changed.any(axis=-1)).all() and changed.any()
    assert (np.array(found, np.float32)[changed] == 0).all()


# --- mixup

BATCH = 1500


@functools.cache
def mixed(alpha, seed=0):
    """Images, what became of them, and shares [B, B]: row i is what i is made of.

    The labels name the images, so that the mixed ones tell who was mixed in.
    """
    images = noise(BATCH, 3, 2)
    found, shares = jitted("mixup")(
        jax.random.key(seed), images, np.eye(BATCH, dtype=np.float32), alpha=alpha
    )
    return images, np.array(found), np.array(shares)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_draws_each_share_from_beta_and_keeps_the_larger(alpha):
    _, _, shares = mixed(alpha)
    own = shares.diagonal()
    assert own.min() >= 0.5
    # Who is its own partner (about one image) shows no share, nor does who drew 1.
    visible = own[own < 1]
    truth = stats.beta(alpha, alpha)

    def folded(x):  # the chance that neither share is larger than x
        return truth.cdf(x) - truth.cdf(1 - x)

    # Shares above 1 - 6e-8 round to 1 in float32: 6 % of them for alpha 0.2.
    top = folded(1 - 6e-8)
    assert len(visible) > (top - 0.02) * BATCH
    assert stats.kstest(visible, lambda x: folded(x) / top).pvalue > 0.001


@pytest.mark.parametrize("alpha", [1e-3, 0.2, 100.0])
def test_mixed_labels_are_shares_of_two_that_sum_to_one(alpha):
    _, found, shares = mixed(alpha)
    assert np.isfinite(found).all() and shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-6)
    assert ((shares > 0).sum(axis=1) <= 2).all()


def test_mixup_mixes_images_as_it_mixes_their_labels():
    images, found, shares = mixed(0.2)
    expected = np.tensordot(shares, images, axes=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_image_is_the_partner_of_one_other():
    _, _, shares = mixed(100.0)  # all near one half
    partners = shares.copy()
    np.fill_diagonal(partners, 0.0)
    alone = partners.sum(axis=1) == 0  # mixed with itself
    chosen = np.where(alone, np.arange(BATCH), partners.argmax(axis=1))
    np.testing.assert_array_equal(np.sort(chosen), np.arange(BATCH))
    assert alone.sum() < 10
    # Neighbours in the batch are no likelier partners than others.
    assert stats.kendalltau(np.arange(BATCH), chosen).pvalue > 0.001


def test_mixup_keeps_the_share_of_the_classes():
    _, _, shares = mixed(0.2)
    rare = np.arange(BATCH) < 300
    # The standard error is sqrt(300 * 0.36) / 1500 = 0.007.
    assert abs(shares[:, rare].sum() / BATCH - 0.2) < 0.02


def test_mixup_is_a_function_of_its_key():
    images, labels = noise(BATCH, 3, 2), np.eye(BATCH, dtype=np.float32)
    again = jitted("mixup")(jax.random.key(0), images, labels, alpha=0.2)
    jax.tree.map(np.testing.assert_array_equal, again, mixed(0.2)[1:])
    assert (mixed(0.2, seed=1)[2] != mixed(0.2)[2]).any()


# --- normalise


def test_normalise_takes_out_the_light_and_the_exposure():
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 60, (3, 12, 12, 1))
    images = jnp.asarray(np.concatenate([dark, 3 * dark + 40]), jnp.uint8)
    found = np.array(augment_ops.normalise(images))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0.0, atol=1e-5)
    deviation = np.array(images).std(axis=(1, 2, 3))
    np.testing.assert_allclose(
        found.std(axis=(1, 2, 3)), deviation / (deviation + 8.0), rtol=1e-4
    )
    # What is left of a difference in light is the 8 grey levels' share.
    assert np.abs(np.corrcoef(found[0].ravel(), found[3].ravel())[0, 1] - 1) < 1e-4


def test_normalise_of_a_blank_image_is_zero():
    blank = jnp.full((2, 8, 8, 1), 200, jnp.uint8)
    np.testing.assert_array_equal(augment_ops.normalise(blank), 0.0)


# --- crops, light, cutout


def test_crops_are_parts_of_the_image_and_all_places_are_as_likely():
    image = np.arange(25 * 21, dtype=np.float32).reshape(1, 25, 21, 1)
    images = np.repeat(image, 3000, axis=0)
    found = np.array(jitted("random_crop")(jax.random.key(0), images, size=20))
    assert found.shape == (3000, 20, 20, 1)
    top, left = np.divmod(found[:, 0, 0, 0].astype(int), 21)
    np.testing.assert_array_equal(found[0], image[0, top[0] :, left[0] :][:20, :20])
    counts = np.zeros((6, 2))
    np.add.at(counts, (top, left), 1)
    assert stats.chisquare(counts.ravel()).pvalue > 0.001


def test_light_is_an_affine_change_of_grey_within_its_limits():
    images = noise(2000, 6, 6)
    options = {"brightness": 0.4, "contrast": 0.3}
    found = np.array(
        jitted("brightness_contrast")(jax.random.key(0), images, **options)
    )
    flat, x = found.reshape(2000, -1), images.reshape(2000, -1)
    factor = flat.std(axis=1) / x.std(axis=1)
    more = flat.mean(axis=1) - factor * x.mean(axis=1)
    np.testing.assert_allclose(flat, factor[:, None] * x + more[:, None], atol=1e-4)
    for values, low, wide in ((factor, 0.7, 0.6), (more, -0.4, 0.8)):
        assert stats.kstest((values - low) / wide, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(factor, more)[0, 1]) < 0.08


def test_cutout_erases_a_square_whose_middle_is_anywhere():
    images = np.ones((6000, 12, 12, 1), np.float32)
    found = np.array(jitted("cutout")(jax.random.key(0), images, size=0.5))
    erased = found[..., 0] == 0
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(erased.sum(axis=(1, 2)), heights * widths)
    assert heights.max() == widths.max() == 6 and heights.min() == widths.min() == 3
    # The whole square fits for middles 3 to 9 of 12.
    whole = (heights == 6) & (widths == 6)
    assert abs(whole.mean() - (7 / 12) ** 2) < 0.025


# --- CutMix


def test_cutmix_pastes_a_rectangle_and_mixes_labels_by_its_area():
    batch = 64
    values = np.arange(batch, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (batch, 14, 14, 1))
    found, labels = (
        np.array(x)
        for x in jitted("cutmix")(jax.random.key(5), images, np.eye(batch), alpha=1.0)
    )
    np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
    shares = []
    for own, (image, label) in enumerate(zip(found, labels, strict=True)):
        other = image[..., 0] != own
        if not other.any():
            assert label[own] == 1.0
            continue
        (partner,) = set(image[..., 0][other])
        height, width = other.any(axis=1).sum(), other.any(axis=0).sum()
        assert other.sum() == height * width
        np.testing.assert_allclose(label[int(partner)], other.mean(), atol=1e-6)
        shares.append(label[own])
    # A square of half the area is the largest; and rounding.
    assert min(shares) > 0.45 and np.std(shares) > 0.05 and len(shares) > 40


def test_mixing_in_both_ways_gives_each_to_half_of_the_images():
    batch = 512
    images = noise(batch, 14, 14)
    key = jax.random.key(2)
    found, labels = augment_ops.mix(
        key, images, jnp.eye(batch), mixup_alpha=5.0, cutmix_alpha=5.0
    )
    # CutMix leaves pixels as they are, mixup hardly any.
    kept = (np.array(found) == images).mean(axis=(1, 2, 3)) > 0.3
    assert abs(kept.mean() - 0.5) < 0.09
    np.testing.assert_allclose(np.sum(labels, axis=1), 1.0, rtol=1e-5)
    assert (np.diagonal(labels) >= 0.45).all()


def test_resizing_keeps_means_and_a_smooth_image():
    y, x = np.mgrid[:24, :24] / 24.0
    image = np.float32(np.sin(3 * y) + x)[None, :, :, None]
    small = np.array(augment_ops.resize(jnp.asarray(image), 12))
    assert small.shape == (1, 12, 12, 1)
    pooled = image.reshape(1, 12, 2, 12, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(small[:, 1:-1, 1:-1], pooled[:, 1:-1, 1:-1], atol=5e-3)
