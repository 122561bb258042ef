"""One pass over a split: the logits of every image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.augment import normalise
from fer_jax.models import Network

PredictFn = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]


def make_predict(network: Network) -> PredictFn:
    """Compiles `(params, batch_stats, images, indices) -> logits [B, C]`.

    images is the whole split as uint8 `[N, H, W, C]`, indices int32 `[B]`.
    """

    def predict(
        params: Any, batch_stats: Any, images: jax.Array, indices: jax.Array
    ) -> jax.Array:
        return network.evaluate(params, batch_stats, normalise(images[indices]))

    return jax.jit(predict)


def predict_split(
    predict: PredictFn,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    *,
    batch_size: int,
) -> np.ndarray:
    """Logits of a whole split, in its order.

    The last batch is padded with the first image to keep one compiled shape, and
    the padding's logits are dropped.

    Returns:
      float32 `[N, C]`.
    """
    total = len(images)
    batch_size = min(batch_size, total)
    indices = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    indices[total:] = 0
    logits = [
        predict(params, batch_stats, images, jnp.asarray(chosen))
        for chosen in indices.reshape(-1, batch_size)
    ]
    return np.concatenate([np.asarray(part) for part in logits])[:total]
