"""One pass over a split: the logits of every image, from one view of it or several."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.lazy_images import StoredImages, read_ahead
from fer_jax.models import Network
from fer_jax.training.augment_ops import normalise
from fer_jax.training.devices import Devices

MOVED = 1 / 12  # how far ten crops of a whole image move it, as a share of the side
PredictFn = Callable[[Any, Any, jax.Array, jax.Array | None], jax.Array]


def make_predict(
    network: Network,
    *,
    views: Literal["none", "flip", "ten_crop"] = "none",
    crop_size: int = 0,
    apart: bool = False,
    devices: Devices | None = None,
) -> PredictFn:
    """Compiles `(params, batch_stats, images, indices) -> logits [B, C]`.

    images is the whole split, uint8 `[N, H, W, C]`, indices int32 `[B]`; or a batch of
    it, and indices is None. Of several views the logits are the logarithm of the mean
    of their softmax, so that theirs is that mean.

    Args:
      network: from `models.create`.
      views: as `see` takes it.
      crop_size: as `see` takes it.
      apart: run the network for one view after the other, and not for all in one
        batch, which on a CPU takes longer to compile.
      devices: what shares each batch; None: JAX's first device.
    """

    def predict(
        params: Any, batch_stats: Any, images: jax.Array, indices: jax.Array | None
    ) -> jax.Array:
        batch = images if indices is None else images[indices]
        seen = see(normalise(batch), views=views, crop_size=crop_size)
        run = functools.partial(network.evaluate, params, batch_stats)
        if len(seen) == 1:
            return run(seen[0])
        if apart:
            logits = jnp.stack([run(view) for view in seen])
        else:
            logits = run(jnp.concatenate(seen)).reshape(len(seen), len(batch), -1)
        log_p = jax.nn.log_softmax(logits)
        return jax.nn.logsumexp(log_p, axis=0) - jnp.log(len(seen))

    return jax.jit(predict, out_shardings=devices.whole if devices else None)


def see(images: jax.Array, *, views: str, crop_size: int) -> list[jax.Array]:
    """The views of images that a prediction is made from.

    Args:
      images: float `[B, H, W, C]`.
      views: "none", "flip" (with the mirror image) or "ten_crop" (the corners and the
        centre, each with its mirror image; Krizhevsky et al. 2012). Where the network
        sees the whole image, the corners are those of one whose edge goes on outside
        for a twelfth of the side, so that the image is moved, as in training.
      crop_size: the side of what the network sees; 0: the whole image.

    Returns:
      arrays `[B, S, S, C]`, the first of which is the plain view.
    """
    _, height, width, _ = images.shape
    tall, wide = (crop_size, crop_size) if crop_size else (height, width)
    if views == "ten_crop" and (tall, wide) == (height, width):
        pad = round(MOVED * height)
        images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    down, right = images.shape[1] - tall, images.shape[2] - wide
    corners = [(down // 2, right // 2)]
    if views == "ten_crop":
        corners += [(0, 0), (0, right), (down, 0), (down, right)]
    seen = [images[:, y : y + tall, x : x + wide] for y, x in corners]
    if views in ("flip", "ten_crop"):
        seen += [view[:, :, ::-1] for view in seen]
    return seen


def predict_split(
    predict: PredictFn,
    params: Any,
    batch_stats: Any,
    images: jax.Array | StoredImages,
    *,
    batch_size: int,
    devices: Devices | None = None,
) -> np.ndarray:
    """Logits of a whole split, in its order.

    The last batch is padded with the first image to keep one compiled shape, every one
    so that `devices` can share it, and the padding's logits are dropped. The next batch
    of a streamed split is read while one is under way.

    Returns:
      float32 `[N, C]`.
    """
    total = len(images)
    batch_size = min(batch_size, total)
    if devices:
        batch_size += -batch_size % devices.count
    indices = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    indices[total:] = 0
    indices = indices.reshape(-1, batch_size)

    def divided(rows: np.ndarray) -> jax.Array:
        return devices.divide(rows, batch_size) if devices else jnp.asarray(rows)

    if isinstance(images, StoredImages):
        own = indices[:, devices.own(batch_size)] if devices else indices
        drawn = ((divided(batch), None) for batch in read_ahead(images, own))
    else:
        drawn = ((images, divided(chosen)) for chosen in indices)
    logits = []
    for batch, chosen in drawn:
        logits.append(predict(params, batch_stats, batch, chosen))
        # Waits for the one before, else all batches of a streamed split would queue.
        logits[-2:-1] = map(np.asarray, logits[-2:-1])
    return np.concatenate(logits)[:total]
