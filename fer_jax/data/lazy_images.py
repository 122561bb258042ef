"""Images that stay in the ArrayRecord files of a prepared copy until they are read.

`StoredImages` replaces an array of images: it has a shape and can be indexed, and only
`read` loads pixels. `read_pixels`, `concatenate` and `chunks` accept either kind.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fer_jax.errors import UserError

if TYPE_CHECKING:  # importing it takes half a second
    import grain

# Limits of read-ahead: elements, bytes and threads. A thread spends most of its time
# in zstd and in copies, outside of Python.
_PREFETCH, _PREFETCH_BYTES, _THREADS = 32, 2**28, 8

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """N images in the records of a prepared copy; safe to share among threads.

    Attributes:
      source: maps a record number to its "images", uint8 `[block, S, S, C]`.
      slots: int32 `[N]`, the position of each image if every record were full:
        record number times `block` plus the position in the record.
      block: how many images a full record holds.
      image_shape: (S, S, C).
      folder: the prepared copy, named in errors.
    """

    source: Any
    slots: np.ndarray
    block: int
    image_shape: tuple[int, int, int]
    folder: Path
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, C)."""
        return len(self.slots), *self.image_shape

    @property
    def nbytes(self) -> int:
        """How many bytes the images would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, indices: np.ndarray | slice) -> "StoredImages":
        """A subset, by int `[M]`, bool `[N]` or a slice; reads nothing."""
        if not isinstance(indices, slice) and np.ndim(indices) != 1:
            raise TypeError("stored images take an array of indices; use read()")
        return dataclasses.replace(self, slots=self.slots[indices])

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        # Without this, numpy would load all images one by one.
        raise TypeError("stored images are not an array; use read()")

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The pixels at `indices`, int `[M]`, in that order: uint8 `[M, S, S, C]`.

        Each record is read once.

        Raises:
          UserError: if a record is damaged.
        """
        records, places = np.divmod(self.slots[indices], self.block)
        out = np.empty((len(records), *self.image_shape), np.uint8)
        order = np.argsort(records, kind="stable")
        starts = np.flatnonzero(np.diff(records[order], prepend=-1))
        for same_record in np.split(order, starts[1:]):
            if len(same_record):
                number = int(records[same_record[0]])
                out[same_record] = self._record(number, places[same_record])
        return out

    def _record(self, number: int, places: np.ndarray) -> np.ndarray:
        try:
            return self.source[number]["images"][places]
        except Exception as error:  # each layer below raises its own kinds
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"the prepared copy {self.folder} is damaged ({reason}); remove that "
                "folder and run the same command again, which prepares it anew"
            ) from None


Images = np.ndarray | StoredImages


def read_pixels(images: Images, indices: np.ndarray) -> np.ndarray:
    """The pixels at `indices`, int `[M]`, of either kind: uint8 `[M, S, S, C]`."""
    if isinstance(images, StoredImages):
        return images.read(indices)
    return images[indices]


def concatenate(parts: Sequence[Images]) -> Images:
    """Images of either kind, one after another; reads nothing if all are stored.

    Raises:
      ValueError: if stored images are of several prepared copies.
    """
    stored = [part for part in parts if isinstance(part, StoredImages)]
    if len(stored) < len(parts):
        return np.concatenate([read_pixels(p, np.arange(len(p))) for p in parts])
    if any(part.source is not stored[0].source for part in stored):
        raise ValueError("stored images of several prepared copies")
    return dataclasses.replace(
        stored[0], slots=np.concatenate([part.slots for part in stored])
    )


def chunks(images: Images, size: int = 256) -> Iterator[np.ndarray]:
    """All images in order, uint8 `[up to size, S, S, C]` at a time.

    Threads read stored images ahead.
    """
    starts = range(0, len(images), size)
    if not isinstance(images, StoredImages):
        return (images[start : start + size] for start in starts)
    indices = np.arange(len(images))
    return read_ahead(images, [indices[start : start + size] for start in starts])


def read_ahead(
    images: StoredImages, selections: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """`images.read` of each selection, int `[M]`, in order; threads read ahead."""
    import grain

    selections = list(selections)
    if not selections:
        return
    largest = max(map(len, selections)) * int(np.prod(images.image_shape))
    reads = grain.MapDataset.range(len(selections)).map(
        lambda i: images.read(selections[i])
    )
    iterator = iter(prefetch(reads, largest))
    try:
        yield from iterator
    finally:
        iterator.close()


def prefetch(
    dataset: "grain.MapDataset[T]", element_bytes: int
) -> "grain.IterDataset[T]":
    """A dataset whose elements, of `element_bytes` each, threads make ahead of use.

    At most 32 elements wait, and at most 256 MiB or two elements.
    """
    import grain

    waiting = int(np.clip(_PREFETCH_BYTES // max(element_bytes, 1), 2, _PREFETCH))
    threads = min(waiting, _THREADS, len(os.sched_getaffinity(0)))
    return dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=waiting)
    )
