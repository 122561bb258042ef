"""The files of a prepared copy: pixels as a TFDS data set, labels and rows beside it.

TFDS writes and reads the ArrayRecord files, without TensorFlow. A record has several
small images, because finding and parsing one takes some 40 microseconds.
`<split>.npy`, int32 `[N, 2]`, has the label and the row of each image of a split.
"""

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

from fer_jax.data.lazy_images import StoredImages
from fer_jax.data.records import SPLITS, Shape, Split

_NAME, _VERSION = "faces", "1.0.0"
_BLOCK_BYTES = 2**16  # of pixels in a record, unless one image is larger
_WRITE_BYTES = 2**22  # given to TFDS at a time: it writes its metadata at each call
_FILE_BYTES = 2**30  # of pixels in a file: each file keeps a reader open


def block_size(image_shape: Shape) -> int:
    """How many images of (S, S, C) a record holds."""
    return max(1, _BLOCK_BYTES // int(np.prod(image_shape)))


class RecordWriter:
    """Writes images to the ArrayRecord files of a folder, split by split."""

    def __init__(self, folder: Path, image_shape: Shape) -> None:
        self._folder, self._image_shape = folder, image_shape
        self._block = block_size(image_shape)
        block_bytes = self._block * int(np.prod(image_shape))
        self._at_once = self._block * max(1, _WRITE_BYTES // block_bytes)
        self._pending: dict[str, list[np.ndarray]] = {}
        self._counts: dict[str, int] = {}
        directory = _directory(folder)
        directory.mkdir(parents=True)
        # A builder that generates examples shuffles them; this writer keeps the order.
        self._writer = tfds.core.SequentialWriter(
            _info(directory, image_shape),
            max_examples_per_shard=max(1, _FILE_BYTES // block_bytes),
            file_format="array_record",
        )

    def add(self, split: str, image: np.ndarray) -> None:
        """Appends an image, uint8 `[S, S, C]`, to a split.

        Raises:
          OSError: if it cannot be written.
        """
        if split not in self._counts:
            with _writing():
                self._writer.initialize_splits([split])
            self._pending[split], self._counts[split] = [], 0
        self._counts[split] += 1
        self._pending[split].append(image)
        if len(self._pending[split]) == self._at_once:
            self._flush(split)

    def _flush(self, split: str) -> None:
        images, self._pending[split] = self._pending[split], []
        starts = range(0, len(images), self._block)
        blocks = [{"images": np.stack(images[n : n + self._block])} for n in starts]
        with _writing():
            self._writer.add_examples({split: blocks})

    def images(self) -> dict[str, StoredImages]:
        """Closes the files and returns the images, by split.

        Raises:
          OSError: if the files cannot be written.
        """
        for split in self._counts:
            self._flush(split)
        with _writing():
            self._writer.close_all()
        if not self._counts:
            return {}
        return _open(self._folder, self._counts, self._image_shape)


def _directory(folder: Path) -> Path:
    return folder / _NAME / _VERSION


def _info(directory: Path, image_shape: Shape) -> tfds.core.DatasetInfo:
    """Returns the description of the records, whether they exist yet or not."""
    # As bytes: ArrayRecord compresses them, and zlib would take eight times as long.
    images = tfds.features.Tensor(
        shape=(None, *image_shape), dtype=np.uint8, encoding="bytes"
    )
    return tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            _NAME, tfds.core.Version(_VERSION), str(directory), __name__
        ),
        features=tfds.features.FeaturesDict({"images": images}),
    )


_QUIET = threading.RLock()  # stdout and the verbosity belong to the whole process


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the bars, log lines and prints of TFDS off the terminal."""
    with _QUIET:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        tfds.disable_progress_bar()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Turns the RuntimeError by which ArrayRecord says "disk full" into an OSError."""
    try:
        with _quiet():
            yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _open(
    folder: Path, counts: Mapping[str, int], image_shape: Shape
) -> dict[str, StoredImages]:
    """Returns the images of the splits, which share one source of records."""
    names = [name for name in SPLITS if name in counts]
    directory = _directory(folder)
    with _quiet():
        # A builder made from the folder would import what its files name.
        info = _info(directory, image_shape)
        info.read_from_directory(str(directory))
        source = ArrayRecordDataSource(info, split="+".join(names))
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
        "files": _sizes(folder),
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
    if _sizes(folder) != meta["files"]:
        raise ValueError("the records are not those that were written")
    images = _open(folder, meta["splits"], tuple(meta["image_shape"]))
    splits = {}
    for name, count in meta["splits"].items():
        index = _index(folder, name)
        if _digest(index) != meta["index"][name]:
            raise ValueError(f"{index} is not what was written")
        labels, rows = np.ascontiguousarray(np.load(index, allow_pickle=False).T)
        if len(labels) != count:
            raise ValueError(f"{index} has {len(labels):,} rows, expected {count:,}")
        splits[name] = Split(images[name], labels, rows)
    return splits


def _sizes(folder: Path) -> dict[str, int]:
    """Returns the number of bytes of each file of records."""
    files = _directory(folder).glob("*.array_record*")
    return {path.name: path.stat().st_size for path in sorted(files)}


def _index(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
