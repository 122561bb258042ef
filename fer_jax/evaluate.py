"""One pass over a split: the logits of every image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.augment import normalise
from fer_jax.data.stored_images import StoredImages, in_turn, is_stored
from fer_jax.models import Network

PredictFn = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]


def make_predict(network: Network) -> PredictFn:
    """Compiles `(params, batch_stats, images, indices) -> logits [B, C]`.

    images is the whole split, or of a streamed one a batch, as uint8 `[N, H, W, C]`,
    indices int32 `[B]`.
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
    images: jax.Array | StoredImages,
    *,
    batch_size: int,
) -> np.ndarray:
    """Logits of a whole split, in its order.

    The last batch is padded with the first image to keep one compiled shape, and
    the padding's logits are dropped. The next batch of a streamed split is read while
    one is under way.

    Returns:
      float32 `[N, C]`.
    """
    total = len(images)
    batch_size = min(batch_size, total)
    indices = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    indices[total:] = 0
    indices = indices.reshape(-1, batch_size)
    if is_stored(images):
        places = jnp.arange(batch_size, dtype=jnp.int32)
        drawn = ((jnp.asarray(batch), places) for batch in in_turn(images, indices))
    else:
        drawn = ((images, jnp.asarray(chosen)) for chosen in indices)
    logits = []
    for batch, chosen in drawn:
        logits.append(predict(params, batch_stats, batch, chosen))
        # Waits for the one before, else all batches of a streamed split would queue.
        logits[-2:-1] = map(np.asarray, logits[-2:-1])
    return np.concatenate(logits)[:total]
