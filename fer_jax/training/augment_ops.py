"""Augmentation on the device: jittable functions of a key and a batch of images.

`images` are float `[B, H, W, C]` and keep their shape and dtype. Each random choice is
made per image.

  key = jax.random.key(0)
  images = random_affine(key, images, rotation=10.0, shift=0.08, scale=0.1)
"""

import jax
import jax.numpy as jnp

ERASED_AREA = (0.02, 0.33)  # share of the image
ERASED_ASPECT = (0.3, 3.3)  # height over width
_ATTEMPTS = 10


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Flips each image left to right with a probability of one half."""
    return flip(images, jax.random.bernoulli(key, 0.5, (images.shape[0],)))


def flip(images: jax.Array, chosen: jax.Array) -> jax.Array:
    """Flips the chosen images, bool `[B]`, left to right."""
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, *, size: int) -> jax.Array:
    """A random square of each image: `[B, size, size, C]`; size is at most H and W."""
    batch, height, width, _ = images.shape
    y_key, x_key = jax.random.split(key)
    top = jax.random.randint(y_key, (batch,), 0, height - size + 1)
    left = jax.random.randint(x_key, (batch,), 0, width - size + 1)

    def cut(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (top, left, 0), (size, size, image.shape[2])
        )

    return jax.vmap(cut)(images, top, left)


def brightness_contrast(
    key: jax.Array, images: jax.Array, *, brightness: float, contrast: float
) -> jax.Array:
    """Scales each image about 0 and then adds a constant.

    After `normalise`, 0 is the image's mean grey and 1 its standard deviation.

    Args:
      brightness: the constant is uniform in ± brightness.
      contrast: the factor is uniform in 1 ± contrast.
    """
    shape = (2, images.shape[0], 1, 1, 1)
    more, factor = jax.random.uniform(key, shape, images.dtype, -1.0, 1.0)
    return images * (1.0 + contrast * factor) + brightness * more


def random_affine(
    key: jax.Array, images: jax.Array, *, rotation: float, shift: float, scale: float
) -> jax.Array:
    """Rotates, scales and shifts each image about its centre, in one resampling.

    Bilinear. Outside the image its edge is repeated: a constant fill would tell the
    network how far the image was rotated.

    Args:
      rotation: degrees; the angle is uniform in ± rotation.
      shift: share of the side; each axis is shifted uniformly in ± shift.
      scale: the size is multiplied by a factor uniform in 1 ± scale.
    """
    batch, height, width, _ = images.shape
    angle_key, scale_key, shift_key = jax.random.split(key, 3)
    limit = jnp.deg2rad(rotation)
    angle = jax.random.uniform(angle_key, (batch, 1, 1), minval=-limit, maxval=limit)
    size = 1.0 + scale * jax.random.uniform(
        scale_key, (batch, 1, 1), minval=-1.0, maxval=1.0
    )
    move = shift * jax.random.uniform(
        shift_key, (2, batch, 1, 1), minval=-1.0, maxval=1.0
    )
    cos, sin = jnp.cos(angle) / size, jnp.sin(angle) / size
    return warp(images, ((cos, -sin), (sin, cos)), move)


def warp(
    images: jax.Array,
    matrix: tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    move: jax.Array,
) -> jax.Array:
    """Transforms each image by a matrix about its centre, and then shifts it.

    Bilinear; outside an image its edge is repeated.

    Args:
      images: float `[B, H, W, C]`.
      matrix: 2 x 2 of float `[B, 1, 1]`, from (y, x) in the result to (y, x) in the
        image, both from the centre.
      move: float `[2, B, 1, 1]`, down and to the right, as shares of the sides.
    """
    _, height, width, _ = images.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = (jnp.arange(height) - middle_y)[None, :, None] - move[0] * height
    x = (jnp.arange(width) - middle_x)[None, None, :] - move[1] * width
    (by_y, by_x), (to_y, to_x) = matrix
    return _bilinear(
        images, by_y * y + by_x * x + middle_y, to_y * y + to_x * x + middle_x
    )


def _bilinear(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Samples images at y, x float `[B, H, W]`, in pixels, clamped to the edge."""
    batch, height, width, channels = images.shape
    y, x = jnp.clip(y, 0.0, height - 1.0), jnp.clip(x, 0.0, width - 1.0)
    top = jnp.minimum(y.astype(jnp.int32), height - 2)
    left = jnp.minimum(x.astype(jnp.int32), width - 2)
    down, right = (y - top)[..., None], (x - left)[..., None]
    # Each pixel beside its neighbours to the right and below: one gather, not four.
    flat = images.reshape(batch, height * width, channels)
    flat = jnp.pad(flat, ((0, 0), (0, width + 1), (0, 0)))
    offsets = (0, 1, width, width + 1)
    beside = jnp.stack([flat[:, i : i + height * width] for i in offsets], axis=2)
    corner = (top * width + left).reshape(batch, -1)
    found = jax.vmap(lambda image, places: image[places])(
        jax.lax.optimization_barrier(beside), corner
    )
    upper_left, upper_right, lower_left, lower_right = (
        found[:, :, i].reshape(images.shape) for i in range(4)
    )
    upper = upper_left * (1.0 - right) + upper_right * right
    lower = lower_left * (1.0 - right) + lower_right * right
    # Else XLA samples again for each use; mixup has two.
    return jax.lax.optimization_barrier(upper * (1.0 - down) + lower * down)


def random_erasing(
    key: jax.Array, images: jax.Array, *, probability: float
) -> jax.Array:
    """Sets a random rectangle to 0, drawn as by torchvision's `RandomErasing`.

    Random erasing of Zhong et al. 2020 (arXiv:1708.04896): the area is uniform in
    2–33 % of the image, the logarithm of the aspect uniform from 0.3 to 3.3. Of ten
    draws the first that fits strictly inside is used; if none does, the image is kept.
    """
    batch, height, width, _ = images.shape
    use_key, area_key, aspect_key, y_key, x_key = jax.random.split(key, 5)
    draws = (batch, _ATTEMPTS)
    area = (
        height
        * width
        * jax.random.uniform(
            area_key, draws, minval=ERASED_AREA[0], maxval=ERASED_AREA[1]
        )
    )
    low, high = jnp.log(jnp.array(ERASED_ASPECT))
    aspect = jnp.exp(jax.random.uniform(aspect_key, draws, minval=low, maxval=high))
    tall, wide = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    tall = jnp.take_along_axis(tall, first, axis=1)
    wide = jnp.take_along_axis(wide, first, axis=1)
    top = jnp.floor(jax.random.uniform(y_key, (batch, 1)) * (height - tall + 1))
    left = jnp.floor(jax.random.uniform(x_key, (batch, 1)) * (width - wide + 1))
    use = jax.random.bernoulli(use_key, probability, (batch, 1))
    use &= fits.any(axis=1, keepdims=True)
    inside = _box(images.shape, top, left, tall, wide) & use[:, :, None, None]
    return jnp.where(inside, jnp.zeros((), images.dtype), images)


def cutout(key: jax.Array, images: jax.Array, *, size: float) -> jax.Array:
    """Sets a square of each image to 0, which may extend beyond the edge.

    Cutout of DeVries & Taylor 2017 (arXiv:1708.04552): the square's side is a share of
    the image's height, its centre uniform over the pixels.
    """
    batch, height, width, _ = images.shape
    side = round(size * height)
    y_key, x_key = jax.random.split(key)
    top = jax.random.randint(y_key, (batch, 1), 0, height) - side // 2
    left = jax.random.randint(x_key, (batch, 1), 0, width) - side // 2
    inside = _box(images.shape, top, left, side, side)
    return jnp.where(inside, jnp.zeros((), images.dtype), images)


def _box(
    shape: tuple[int, ...],
    top: jax.Array,
    left: jax.Array,
    tall: jax.Array | int,
    wide: jax.Array | int,
) -> jax.Array:
    """The pixels of a rectangle in each image, bool `[B, H, W, 1]`; from `[B, 1]`."""
    y, x = jnp.arange(shape[1]), jnp.arange(shape[2])
    in_y = (y >= top) & (y < top + tall)
    in_x = (x >= left) & (x < left + wide)
    return in_y[:, :, None, None] & in_x[:, None, :, None]


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its label with those of a random partner in the batch.

    mixup of Zhang et al. 2018 (arXiv:1710.09412), with a lambda ~ Beta(alpha, alpha)
    for each pair, alpha > 0. An image has the larger share of its own mixture, so that
    each is mostly itself once an epoch. Labels are float `[B, C]`, rows that sum to 1.
    """
    share, partner = _pairs(key, images, alpha)
    labels = share * labels + (1 - share) * labels[partner]
    share = share[:, :, None, None]
    return share * images + (1 - share) * images[partner], labels


def cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Pastes a rectangle of a random partner in the batch into each image.

    CutMix of Yun et al. 2019 (arXiv:1905.04899): the rectangle has the image's aspect
    and the area 1 - lambda, with a lambda ~ Beta(alpha, alpha) for each pair. Its
    centre is uniform over the pixels; what extends beyond the edge is cut off, and
    labels are mixed by the area pasted. The larger share is the image's own. Arguments
    and result are those of `mixup`.
    """
    pair_key, y_key, x_key = jax.random.split(key, 3)
    share, partner = _pairs(pair_key, images, alpha)
    batch, height, width, _ = images.shape
    side = jnp.sqrt(1 - share)
    tall, wide = jnp.round(side * height), jnp.round(side * width)
    top = jax.random.randint(y_key, (batch, 1), 0, height) - tall // 2
    left = jax.random.randint(x_key, (batch, 1), 0, width) - wide // 2
    inside = _box(images.shape, top, left, tall, wide)
    share = 1 - inside.mean(axis=(1, 2), dtype=labels.dtype)
    labels = share * labels + (1 - share) * labels[partner]
    return jnp.where(inside, images[partner], images), labels


def mix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
) -> tuple[jax.Array, jax.Array]:
    """`mixup` or `cutmix` for each image, with a probability of one half."""
    which_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    first = mixup(mixup_key, images, labels, alpha=mixup_alpha)
    second = cutmix(cutmix_key, images, labels, alpha=cutmix_alpha)
    which = jax.random.bernoulli(which_key, 0.5, (images.shape[0], 1))
    return (
        jnp.where(which[:, :, None, None], first[0], second[0]),
        jnp.where(which, first[1], second[1]),
    )


def _pairs(
    key: jax.Array, images: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Each image's own share, `[B, 1]`, at least 1/2, and its partner, int `[B]`."""
    lambda_key, partner_key = jax.random.split(key)
    batch = images.shape[0]
    share = jax.random.beta(lambda_key, alpha, alpha, (batch, 1)).astype(images.dtype)
    return jnp.maximum(share, 1 - share), jax.random.permutation(partner_key, batch)


def normalise(images: jax.Array) -> jax.Array:
    """Gives uint8 images a mean of 0 and a standard deviation of nearly 1, in float32.

    This removes lighting and exposure. 8 grey levels are added to the deviation, so
    that the noise of a flat image is not amplified.
    """
    images = images.astype(jnp.float32)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    deviation = images.std(axis=(1, 2, 3), keepdims=True)
    return (images - mean) / (deviation + 8.0)


def resize(images: jax.Array, side: int) -> jax.Array:
    """Float `[B, H, W, C]` as `[B, side, side, C]`, bilinear, with antialiasing."""
    batch, _, _, channels = images.shape
    return jax.image.resize(images, (batch, side, side, channels), "bilinear")
