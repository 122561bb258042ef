"""The files of a prepared copy: pixels in ArrayRecord, labels and rows beside them.

Of each split there are two files. `<split>.array_record` has the pixels, several small
images to a record, because finding and unpacking a record takes some 20 microseconds.
`<split>.npy`, int32 `[N, 2]`, has the label and the row of each image.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from fer_jax.data.lazy_images import StoredImages
from fer_jax.data.records import SPLITS, Shape, Split

_BLOCK_BYTES = 2**16  # of pixels in a record, unless one image is larger


def block_size(image_shape: Shape) -> int:
    """How many images of (S, S, C) a record holds."""
    return max(1, _BLOCK_BYTES // int(np.prod(image_shape)))


class RecordWriter:
    """Writes images to the ArrayRecord files of a folder, one file a split."""

    def __init__(self, folder: Path, image_shape: Shape) -> None:
        self._folder, self._image_shape = folder, image_shape
        self._block = block_size(image_shape)
        self._writers: dict[str, ArrayRecordWriter] = {}
        self._pending: dict[str, list[np.ndarray]] = {}
        self._counts: dict[str, int] = {}

    def add(self, split: str, image: np.ndarray) -> None:
        """Appends an image, uint8 `[S, S, C]`, to a split.

        Raises:
          OSError: if it cannot be written.
        """
        if split not in self._writers:
            path = str(_records(self._folder, split))
            with _writing():  # groups of several records cannot be read at random
                self._writers[split] = ArrayRecordWriter(path, "group_size:1")
            self._pending[split], self._counts[split] = [], 0
        self._counts[split] += 1
        self._pending[split].append(image)
        if len(self._pending[split]) == self._block:
            self._flush(split)

    def _flush(self, split: str) -> None:
        pixels = np.stack(self._pending[split])
        self._pending[split].clear()
        with _writing():
            self._writers[split].write(pixels.tobytes())

    def images(self) -> dict[str, StoredImages]:
        """Closes the files and returns the images, by split.

        Raises:
          OSError: if the files cannot be written.
        """
        for split, writer in self._writers.items():
            if self._pending[split]:
                self._flush(split)
            with _writing():
                writer.close()
        if not self._counts:
            return {}
        return _open(self._folder, self._counts, self._image_shape)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns the RuntimeError by which ArrayRecord says "disk full" into an OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _open(
    folder: Path, counts: Mapping[str, int], image_shape: Shape
) -> dict[str, StoredImages]:
    """The images of the splits, which share one source of records."""
    names = [name for name in SPLITS if name in counts]
    source = grain.sources.ArrayRecordDataSource(
        [str(_records(folder, name)) for name in names]
    )
    block, first, images = block_size(image_shape), 0, {}
    for name in names:
        slots = first * block + np.arange(counts[name], dtype=np.int32)
        images[name] = StoredImages(source, slots, block, image_shape, folder)
        first += -(-counts[name] // block)
    if len(source) != first:
        raise ValueError(f"{folder} has {len(source):,} records, expected {first:,}")
    return images


def write_index(folder: Path, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Writes the labels and rows; returns the checksums that `open_splits` compares."""
    for name, split in splits.items():
        table = np.stack([split.labels, split.rows], axis=1).astype(np.int32)
        np.save(_index(folder, name), table)
    return {
        "index": {name: _digest(_index(folder, name)) for name in splits},
        "bytes": {name: _records(folder, name).stat().st_size for name in splits},
    }


def open_splits(folder: Path, meta: Mapping[str, Any]) -> dict[str, Split]:
    """The splits of a prepared copy; the images stay on disk.

    Args:
      folder: the prepared copy.
      meta: what `write_index` returned, with "splits", the number of images of each,
        and "image_shape".

    Raises:
      Exception: of many kinds, if the files are not those that were written.
    """
    images = _open(folder, meta["splits"], tuple(meta["image_shape"]))
    splits = {}
    for name, count in meta["splits"].items():
        index, records = _index(folder, name), _records(folder, name)
        if records.stat().st_size != meta["bytes"][name]:
            raise ValueError(f"{records} is not what was written")
        if _digest(index) != meta["index"][name]:
            raise ValueError(f"{index} is not what was written")
        labels, rows = np.ascontiguousarray(np.load(index, allow_pickle=False).T)
        if len(labels) != count:
            raise ValueError(f"{index} has {len(labels):,} rows, expected {count:,}")
        splits[name] = Split(images[name], labels, rows)
    return splits


def _records(folder: Path, split: str) -> Path:
    return folder / f"{split}.array_record"


def _index(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
