"""Images that stay in the ArrayRecord files of a prepared copy until they are needed.

`StoredImages` stands where an array of all images would: it has its shape and can be
indexed, and only `read` brings pixels into memory. What works on either kind asks for
images with `taken` and `chunks`.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import grain
import numpy as np

from fer_jax.errors import UserError

# Of read-ahead: so many elements, so many bytes, so many threads at most. A thread
# spends most of its time in zstd and in copies, outside of Python.
_AHEAD, _AHEAD_BYTES, _THREADS = 32, 2**28, 8

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """N images in the records of a prepared copy.

    It may be read by several threads at once, and be pickled.

    Attributes:
      source: gives the record of a number as a mapping whose "images" are uint8
        `[n, S, S, C]`; TFDS's data source.
      records: int32 `[N]`, the record that each image is in.
      places: int32 `[N]`, its place there.
      image_shape: (S, S, C).
      folder: of the prepared copy, which is named where a record is damaged.
    """

    source: Any
    records: np.ndarray
    places: np.ndarray
    image_shape: tuple[int, int, int]
    folder: Path
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, C)."""
        return len(self.records), *self.image_shape

    @property
    def nbytes(self) -> int:
        """How many bytes the images would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, chosen: np.ndarray | slice) -> "StoredImages":
        """Those at some places, int `[M]`, bool `[N]` or a slice; nothing is read."""
        if np.ndim(chosen) != (0 if isinstance(chosen, slice) else 1):
            raise TypeError("stored images are chosen by an array; read() gives pixels")
        return dataclasses.replace(
            self, records=self.records[chosen], places=self.places[chosen]
        )

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        # numpy would else try each item, or fill the memory without being asked to.
        raise TypeError("stored images are no array; read() gives their pixels")

    def read(self, chosen: np.ndarray) -> np.ndarray:
        """The pixels of some images, in the order asked: uint8 `[M, S, S, C]`.

        Args:
          chosen: int `[M]`; each record is read once, whatever is asked of it.

        Raises:
          UserError: where a record is damaged.
        """
        records, places = self.records[chosen], self.places[chosen]
        out = np.empty((len(records), *self.image_shape), np.uint8)
        order = np.argsort(records, kind="stable")
        starts = np.flatnonzero(np.diff(records[order], prepend=-1))
        for own in np.split(order, starts[1:]):
            if len(own):
                out[own] = self._record(int(records[own[0]]))[places[own]]
        return out

    def _record(self, number: int) -> np.ndarray:
        try:
            images = self.source[number]["images"]
            if images.shape[1:] != self.image_shape or images.dtype != self.dtype:
                raise ValueError(f"record {number:,} holds {images.shape}")
        except Exception as error:  # each layer below has its own kinds
            reason = " ".join(str(error).split())[:100]
            raise UserError(
                f"the prepared copy {self.folder} is damaged ({reason}); remove that "
                "folder, and the same command makes it anew and goes on"
            ) from None
        return images


Images = np.ndarray | StoredImages


def is_stored(images: object) -> bool:
    """Whether images are read as they are needed, and are not in memory."""
    return isinstance(images, StoredImages)


def taken(images: Images, chosen: np.ndarray) -> np.ndarray:
    """The pixels at `chosen`, int `[M]`, of images of either kind: `[M, S, S, C]`."""
    return images.read(chosen) if is_stored(images) else images[chosen]


def joined(parts: list[Images]) -> Images:
    """Images of either kind after one another; of stored ones nothing is read."""
    if not all(map(is_stored, parts)):
        return np.concatenate([taken(part, np.arange(len(part))) for part in parts])
    if any(part.source is not parts[0].source for part in parts):
        raise ValueError("stored images of several prepared copies cannot be joined")
    return dataclasses.replace(
        parts[0],
        records=np.concatenate([part.records for part in parts]),
        places=np.concatenate([part.places for part in parts]),
    )


def chunks(images: Images, size: int = 256) -> Iterator[np.ndarray]:
    """All images in order, uint8 `[up to size, S, S, C]` at a time.

    Stored ones are read ahead, by threads, a bounded number.
    """
    count = len(images)
    starts = range(0, count, size)
    if not is_stored(images):
        return (images[start : start + size] for start in starts)
    places = [np.arange(start, min(start + size, count)) for start in starts]
    return in_turn(images, places)


def in_turn(images: StoredImages, choices: Iterable[np.ndarray]) -> Iterator[Any]:
    """What `read` gives for each of `choices`, in their order, read ahead by threads.

    Each is int `[M]`, and the largest may take `256 MiB`, of which one is read ahead.
    """
    choices = list(choices)
    if not choices:
        return
    largest = max(map(len, choices)) * int(np.prod(images.image_shape))
    reading = ahead(
        grain.MapDataset.range(len(choices)).map(lambda i: images.read(choices[i])),
        largest,
    )
    iterator = iter(reading)
    try:
        yield from iterator
    finally:
        iterator.close()


def ahead(dataset: grain.MapDataset[T], element_bytes: int) -> "grain.IterDataset[T]":
    """A dataset whose elements threads make before they are asked for.

    Args:
      dataset: of elements that read.
      element_bytes: what one takes; that of all that wait is bounded.
    """
    waiting = int(np.clip(_AHEAD_BYTES // max(element_bytes, 1), 2, _AHEAD))
    threads = min(waiting, _THREADS, len(os.sched_getaffinity(0)))
    return dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=waiting)
    )
