"""Prediction of a split: the logits of each image, with test-time augmentation."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.lazy_images import StoredImages, read_ahead
from fer_jax.models import Network
from fer_jax.training.augment_ops import normalise
from fer_jax.training.devices import Devices

Tta = Literal["none", "flip", "ten_crop"]
SHIFT = 1 / 12  # how far ten crops of a whole image shift it, as a share of the side
PredictFn = Callable[..., jax.Array]


def make_predict(
    network: Network,
    *,
    tta: Tta = "none",
    crop_size: int = 0,
    devices: Devices | None = None,
) -> PredictFn:
    """Compiles `(params, batch_stats, images, indices=None) -> logits [B, C]`.

    images is a whole split, uint8 `[N, H, W, C]`, and indices int32 `[B]`; or images is
    a batch and indices None. With several views the logits are the logarithm of the
    mean of their softmax. `tta` and `crop_size` are those of `tta_views`; `devices`
    share each batch, and None is JAX's first device.
    """

    def predict(
        params: Any,
        batch_stats: Any,
        images: jax.Array,
        indices: jax.Array | None = None,
    ) -> jax.Array:
        batch = images if indices is None else images[indices]
        views = tta_views(normalise(batch), tta=tta, crop_size=crop_size)
        run = functools.partial(network.evaluate, params, batch_stats)
        if len(views) == 1:
            return run(views[0])
        if jax.default_backend() == "cpu":  # one large batch takes longer to compile
            logits = jnp.stack([run(view) for view in views])
        else:
            logits = run(jnp.concatenate(views)).reshape(len(views), len(batch), -1)
        log_p = jax.nn.log_softmax(logits)
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(views))

    return jax.jit(predict, out_shardings=devices.replicated if devices else None)


def make_features(
    network: Network, *, tta: Tta = "none", crop_size: int = 0
) -> PredictFn:
    """Compiles `(params, batch_stats, images) -> features [B, F]`.

    images is a batch, uint8 `[B, H, W, C]`. The features are the last layer's inputs,
    averaged over the views of `tta` and `crop_size`, as in `tta_views`.
    """

    def features(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        views = tta_views(normalise(images), tta=tta, crop_size=crop_size)
        found = [network.features(params, batch_stats, view) for view in views]
        return jnp.stack(found).mean(axis=0)

    return jax.jit(features)


def tta_views(images: jax.Array, *, tta: Tta, crop_size: int) -> list[jax.Array]:
    """The views of images, float `[B, H, W, C]`, that a prediction averages.

    Args:
      images: the images.
      tta: "none", "flip" (the image and its flip) or "ten_crop" (the centre and the
        corners, each with its flip; Krizhevsky et al. 2012). Ten crops of whole images
        are shifts by a twelfth of the side, which repeat the edge.
      crop_size: the side of what the network sees; 0: the whole image.

    Returns:
      arrays `[B, S, S, C]`, the plain view first.
    """
    _, height, width, _ = images.shape
    tall, wide = (crop_size, crop_size) if crop_size else (height, width)
    if tta == "ten_crop" and (tall, wide) == (height, width):
        pad = round(SHIFT * height)
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    down, right = images.shape[1] - tall, images.shape[2] - wide
    corners = [(down // 2, right // 2)]
    if tta == "ten_crop":
        corners += [(0, 0), (0, right), (down, 0), (down, right)]
    views = [images[:, y : y + tall, x : x + wide] for y, x in corners]
    if tta != "none":
        views += [view[:, :, ::-1] for view in views]
    return views


def even_batch(total: int, largest: int) -> int:
    """The size of equal batches, as few as if each held `largest` of `total` images."""
    return -(-total // -(-total // largest))


def predict_split(
    predict: PredictFn,
    params: Any,
    batch_stats: Any,
    images: jax.Array | StoredImages,
    *,
    batch_size: int,
    devices: Devices | None = None,
) -> np.ndarray:
    """Logits of a whole split, uint8 `[N, H, W, C]`, in its order: float32 `[N, C]`.

    Batches are padded with the first image to one shape, which `devices` can share; the
    padding's logits are dropped. The next batch of a streamed split is read while one
    is under way.
    """
    total = len(images)
    batch_size = min(batch_size, total)
    if devices:
        batch_size += -batch_size % devices.count
    indices = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    indices[total:] = 0
    batches = indices.reshape(-1, batch_size)

    def divided(rows: Any) -> Any:
        return devices.divide(rows, batch_size) if devices else jnp.asarray(rows)

    drawn: Iterator[tuple[jax.Array, jax.Array | None]]
    if isinstance(images, StoredImages):
        own = batches[:, devices.own(batch_size)] if devices else batches
        drawn = ((divided(batch), None) for batch in read_ahead(images, own))
    else:
        drawn = ((images, divided(chosen)) for chosen in batches)
    logits: list[Any] = []
    for batch, chosen in drawn:
        logits.append(predict(params, batch_stats, batch, chosen))
        # Wait for the one before: all batches of a streamed split would queue up.
        logits[-2:-1] = map(np.asarray, logits[-2:-1])
    return np.concatenate(logits)[:total]
