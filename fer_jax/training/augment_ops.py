"""Augmentation on the device: jittable functions of a key and a batch of images.

Images are float `[B, H, W, C]` and come back in the same shape and range; every
random choice is made per image. All functions may be used inside `jax.jit`.

  key = jax.random.key(0)
  images = random_affine(key, images, rotation=10.0, shift=0.08, scale=0.1)
"""

import jax
import jax.numpy as jnp

ERASED_AREA = (0.02, 0.33)  # share of the image
ERASED_ASPECT = (0.3, 3.3)  # height over width
_ATTEMPTS = 10


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors half of the images left to right."""
    return mirror(images, jax.random.bernoulli(key, 0.5, (images.shape[0],)))


def mirror(images: jax.Array, chosen: jax.Array) -> jax.Array:
    """Mirrors left to right the images that `chosen`, bool `[B]`, says."""
    return jnp.where(chosen[:, None, None, None], images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, *, size: int) -> jax.Array:
    """A random square of each image, `[B, size, size, C]`; `size` at most H and W."""
    batch, height, width, _ = images.shape
    y_key, x_key = jax.random.split(key)
    top = jax.random.randint(y_key, (batch,), 0, height - size + 1)
    left = jax.random.randint(x_key, (batch,), 0, width - size + 1)

    def cut(image: jax.Array, top: jax.Array, left: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(
            image, (top, left, 0), (size, size, image.shape[2])
        )

    return jax.vmap(cut)(images, top, left)


def random_light(
    key: jax.Array, images: jax.Array, *, brightness: float, contrast: float
) -> jax.Array:
    """Changes each image's contrast about 0 and then its brightness.

    After `normalise`, 0 is the image's mean grey, and 1 its deviation.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`.
      brightness: what is added is uniform in ± brightness.
      contrast: the factor is uniform in 1 ± contrast.
    """
    shape = (2, images.shape[0], 1, 1, 1)
    more, factor = jax.random.uniform(key, shape, images.dtype, -1.0, 1.0)
    return images * (1.0 + contrast * factor) + brightness * more


def random_affine(
    key: jax.Array, images: jax.Array, *, rotation: float, shift: float, scale: float
) -> jax.Array:
    """Rotates, scales and shifts each image about its centre, in one resampling.

    Bilinear; outside the image its edge goes on, as the mean grey or black that
    other libraries put there would tell the network how far the image was turned.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`.
      rotation: degrees; the angle is uniform in ± rotation.
      shift: share of the side; each axis moves uniformly in ± shift.
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
    """Moves images, and then samples them about their centres by a matrix.

    Bilinear; outside an image its edge goes on.

    Args:
      images: float `[B, H, W, C]`.
      matrix: 2 x 2 of float `[B, 1, 1]`: where, as (y, x) from the centre, the content
        of a place comes from.
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
    # Each pixel beside its neighbours to the right and below, so that one gather, and
    # not four, fetches the corners.
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
    # Else XLA samples anew for each use, as in mixup, which has two.
    return jax.lax.optimization_barrier(upper * (1.0 - down) + lower * down)


def random_erasing(
    key: jax.Array, images: jax.Array, *, probability: float, fill: float = 0.0
) -> jax.Array:
    """Fills a random rectangle, as torchvision's `RandomErasing` does.

    Random erasing of Zhong et al. 2020 (arXiv:1708.04896): area uniform in 2–33 %
    of the image, the logarithm of the aspect uniform between those of 0.3 and 3.3;
    ten draws are made, the first that fits strictly inside is used, and where none
    does the image stays whole.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`.
      probability: the chance of each image, in 0..1.
      fill: the value of the erased pixels.
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
    return jnp.where(inside, jnp.asarray(fill, images.dtype), images)


def cutout(
    key: jax.Array, images: jax.Array, *, size: float, fill: float = 0.0
) -> jax.Array:
    """Fills a square of every image, which may lie across its edge.

    Cutout of DeVries & Taylor 2017 (arXiv:1708.04552): the middle of the square is a
    pixel of the image, all equally likely.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`.
      size: the side of the square, as a share of the image's height.
      fill: the value of the erased pixels.
    """
    batch, height, width, _ = images.shape
    side = round(size * height)
    y_key, x_key = jax.random.split(key)
    top = jax.random.randint(y_key, (batch, 1), 0, height) - side // 2
    left = jax.random.randint(x_key, (batch, 1), 0, width) - side // 2
    inside = _box(images.shape, top, left, side, side)
    return jnp.where(inside, jnp.asarray(fill, images.dtype), images)


def _box(
    shape: tuple[int, ...],
    top: jax.Array,
    left: jax.Array,
    tall: jax.Array | int,
    wide: jax.Array | int,
) -> jax.Array:
    """The pixels of a rectangle in each image, bool `[B, H, W, 1]`; all `[B, 1]`."""
    y, x = jnp.arange(shape[1]), jnp.arange(shape[2])
    in_y = (y >= top) & (y < top + tall)
    in_x = (x >= left) & (x < left + wide)
    return in_y[:, :, None, None] & in_x[:, None, :, None]


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its label with a random other of the batch.

    mixup of Zhang et al. 2018 (arXiv:1710.09412), with a lambda ~ Beta(alpha,
    alpha) of its own for each pair. The larger share is the image's own: of two that
    are mixed either may be named first, and so each is mostly itself once an epoch,
    where else some would be shown twice and others hardly.

    Args:
      key: a JAX key.
      images: float `[B, H, W, C]`.
      labels: float `[B, C]`, rows that sum to 1; so do the rows that come back.
      alpha: larger than 0; small values leave most pairs nearly unmixed.
    """
    share, partner = _pairs(key, images, alpha)
    labels = share * labels + (1 - share) * labels[partner]
    share = share[:, :, None, None]
    return share * images + (1 - share) * images[partner], labels


def cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Puts a rectangle of a random other image of the batch into each.

    CutMix of Yun et al. 2019 (arXiv:1905.04899): the rectangle has the image's aspect
    and the area 1 - lambda, with a lambda ~ Beta(alpha, alpha) for each pair; its
    middle lies anywhere, so that some is cut off by the edge, and the labels are mixed
    by the area that is left. The larger share is the image's own, as in `mixup`.

    Args and result are those of `mixup`.
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
    """`mixup` for half of the images, by chance, and `cutmix` for the others."""
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
    """Each image's own share, 1/2 or more, `[B, 1]`, and the other's place `[B]`."""
    lambda_key, partner_key = jax.random.split(key)
    batch = images.shape[0]
    share = jax.random.beta(lambda_key, alpha, alpha, (batch, 1)).astype(images.dtype)
    return jnp.maximum(share, 1 - share), jax.random.permutation(partner_key, batch)


def normalise(images: jax.Array) -> jax.Array:
    """Gives each image mean 0 and a standard deviation of nearly 1.

    Faces are lit and exposed in every way, and an expression is none of it. 8 grey
    levels are added to the deviation, so that the noise of a flat image is not
    taken for its content. After it, 0 is the image's own mean grey.

    Args:
      images: uint8 `[B, H, W, C]`, 0..255.

    Returns:
      float32 `[B, H, W, C]`.
    """
    images = images.astype(jnp.float32)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    deviation = images.std(axis=(1, 2, 3), keepdims=True)
    return (images - mean) / (deviation + 8.0)


def resize(images: jax.Array, side: int) -> jax.Array:
    """Float `[B, H, W, C]` as `[B, side, side, C]`, bilinear, with antialiasing."""
    batch, _, _, channels = images.shape
    return jax.image.resize(images, (batch, side, side, channels), "bilinear")
