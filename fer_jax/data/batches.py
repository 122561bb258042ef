"""Which images each step reads: grain datasets of index batches, resumable.

The images themselves lie on the device, so an element is a whole batch of indices,
and element i is a function of (seed, i) alone. Of a streamed set the images come with
their indices, read ahead by threads. The state of an iterator is its position, which
says nothing of the pipeline it belongs to: the run's stored config and data
fingerprint, compared before a resume, vouch for that.
"""

import functools

import grain
import numpy as np

from fer_jax.data.lazy_images import StoredImages, ahead
from fer_jax.errors import UserError


def sampler_weights(labels: np.ndarray) -> np.ndarray:
    """Sampling weights that draw each class equally often: 1 / count of its class.

    Args:
      labels: int `[N]`.

    Returns:
      float64 `[N]`, summing to 1.
    """
    weights = 1.0 / np.bincount(labels)[labels]
    return weights / weights.sum()


def index_batches(
    num_images: int,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    weights: np.ndarray | None = None,
    images: StoredImages | None = None,
    own: slice = slice(None),
) -> grain.IterDataset:
    """Index batches for a whole run, `num_images // batch_size` to the epoch.

    Without weights every epoch is a new permutation without replacement, whose last
    images, too few for a batch, are left out of that epoch. With weights each batch
    is drawn with replacement.

    Args:
      num_images: the size of the training split.
      batch_size: B.
      epochs: how many epochs the dataset spans.
      seed: what the order depends on, beside the position.
      weights: float `[N]`, or None.
      images: of a streamed split, `[N, S, S, C]`; None where they are on the device.
      own: which rows of each batch this process reads the pixels of, b of B.

    Returns:
      a grain dataset of int32 `[B]`, or with images of pairs of that and their pixels,
      uint8 `[b, S, S, C]`; its iterator has `get_state` and `set_state`.

    Raises:
      UserError: if there are fewer images than a batch holds.
    """
    per_epoch = steps_per_epoch(num_images, batch_size)

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        rng = np.random.default_rng((seed, epoch))
        return rng.permutation(num_images).astype(np.int32)

    def shuffled(step: int) -> np.ndarray:
        epoch, position = divmod(step, per_epoch)
        return permutation(epoch)[position * batch_size : (position + 1) * batch_size]

    if weights is None:
        batches = grain.MapDataset.range(per_epoch * epochs).map(shuffled)
    else:
        cdf = np.cumsum(weights)
        cdf /= cdf[-1]

        def weighted(step: int) -> np.ndarray:
            draws = np.random.default_rng((seed, step)).random(batch_size)
            return np.searchsorted(cdf, draws, side="right").astype(np.int32)

        batches = grain.MapDataset.range(per_epoch * epochs).map(weighted)
    if images is not None:
        read = batches.map(lambda chosen: (chosen, images.read(chosen[own])))
        rows = len(range(batch_size)[own])
        return ahead(read, rows * images[:1].nbytes)
    # Threads only cost here: a batch of indices takes microseconds.
    return batches.to_iter_dataset(
        grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    )


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Whole batches in an epoch.

    Raises:
      UserError: if not even one batch can be filled.
    """
    if num_images < batch_size:
        raise UserError(
            f"training.batch_size is {batch_size}, but the training split has only "
            f"{num_images} images; choose a batch size of at most {num_images}"
        )
    return num_images // batch_size
