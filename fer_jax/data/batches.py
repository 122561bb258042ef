"""Which images each step reads: grain datasets of index batches, resumable.

The images are on the device, so an element is a batch of indices, and element i is a
function of (seed, i). If the set is streamed, an element has the images too, which
threads read ahead. The state of an iterator is its position alone; that it belongs to
the same pipeline follows from the run's stored config and data fingerprint.
"""

import functools

import grain
import numpy as np

from fer_jax.data.lazy_images import StoredImages, prefetch
from fer_jax.errors import UserError


def sampler_weights(labels: np.ndarray) -> np.ndarray:
    """Weights that draw each class equally often: int `[N]` to float64 `[N]`, sum 1."""
    weights = 1.0 / np.bincount(labels)[labels]
    return weights / weights.sum()


def batch_order(
    num_images: int,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    weights: np.ndarray | None = None,
) -> grain.MapDataset:
    """The index batches of a run, `num_images // batch_size` to the epoch.

    Without weights every epoch is a new permutation; the last images, too few for a
    batch, are left out of that epoch. With weights each batch is drawn with
    replacement.

    Args:
      num_images: N, the size of the training split.
      batch_size: B.
      epochs: the length of the dataset.
      seed: determines the order.
      weights: float `[N]`, or None.

    Returns:
      a grain dataset of int32 `[B]`, one element a step.

    Raises:
      UserError: if there are fewer images than a batch holds.
    """
    per_epoch = steps_per_epoch(num_images, batch_size)
    steps = grain.MapDataset.range(per_epoch * epochs)
    if weights is not None:
        cdf = np.cumsum(weights)
        cdf /= cdf[-1]

        def weighted(step: int) -> np.ndarray:
            draws = np.random.default_rng((seed, step)).random(batch_size)
            return np.searchsorted(cdf, draws, side="right").astype(np.int32)

        return steps.map(weighted)

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        return rng.permutation(num_images).astype(np.int32)

    def shuffled(step: int) -> np.ndarray:
        epoch, position = divmod(step, per_epoch)
        return permutation(epoch)[position * batch_size : (position + 1) * batch_size]

    return steps.map(shuffled)


def index_batches(order: grain.MapDataset) -> grain.IterDataset:
    """The batches of `batch_order`; its iterator has `get_state` and `set_state`."""
    # Threads only add cost: a batch of indices takes microseconds.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return order.to_iter_dataset(options)


def image_batches(
    order: grain.MapDataset, images: StoredImages, own: slice = slice(None)
) -> grain.IterDataset:
    """The batches of `batch_order` with pixels: (int32 `[B]`, uint8 `[b, S, S, C]`).

    The pixels are those of the rows `own` of each batch, which this process reads.
    """
    rows = len(range(len(order[0]))[own])
    reads = order.map(lambda indices: (indices, images.read(indices[own])))
    return prefetch(reads, rows * images[:1].nbytes)


def _half(count: int) -> int:
    """The largest power of two that fits into it twice, so that an epoch has steps."""
    return 1 << max(count // 2, 1).bit_length() - 1


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
      UserError: if not even one batch can be filled.
    """
    if num_images < batch_size:
        raise UserError(
            f"training.batch_size is {batch_size}, but the training split has only "
            f"{num_images} images; add --set training.batch_size={_half(num_images)}"
        )
    return num_images // batch_size
