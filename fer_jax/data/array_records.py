"""The files of a prepared copy: images in ArrayRecord, and an index to each of them.

A record is a block of some images: a record takes some 40 microseconds to be found and
parsed, so small images share one, for reading in order, and no more than that, as a
random read costs the block.
Beside the records lies for each split a .npy file, int32 `[N, 4]`: of each image its
record, its place there, its label and its row. A split's images may lie anywhere; val
that was carved from train lies between train's.
"""

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

from fer_jax.data.lazy_images import Images, StoredImages
from fer_jax.data.records import SPLITS, Found, Split

Shape = tuple[int, int, int]  # (S, S, C) of an image

_NAME, _VERSION = "face_blocks", "1.0.0"
_BLOCK_BYTES = 2**16  # of pixels in a record, where an image is not larger
_HANDED_BYTES = 2**22  # to the writer at once: its notes are written anew each time
_FILE_BYTES = 2**30  # of pixels in a file: each file keeps a reader open


def block_size(image_shape: Shape) -> int:
    """How many images of (S, S, C) a record holds."""
    return max(1, _BLOCK_BYTES // int(np.prod(image_shape)))


class BlockWriter:
    """A shelf that puts images into ArrayRecord files as they come."""

    def __init__(self, folder: Path, image_shape: Shape) -> None:
        """Writes images of (S, S, C) into a folder that exists."""
        self._folder, self._image_shape = folder, image_shape
        self._block = block_size(image_shape)
        block_bytes = self._block * int(np.prod(image_shape))
        self._at_once = self._block * max(1, _HANDED_BYTES // block_bytes)
        self._waiting: dict[str, list[Found]] = {}
        self._counts: Counter[str] = Counter()
        directory = _directory(folder)
        directory.mkdir(parents=True)
        # The builder that generates examples shuffles them in memory, and beyond 1 GB
        # with the help of TensorFlow; this writer keeps their order.
        self._writer = tfds.core.SequentialWriter(
            _info(directory, image_shape),
            max_examples_per_shard=max(1, _FILE_BYTES // block_bytes),
            file_format="array_record",
        )

    def add(self, found: Found) -> None:
        """Takes an image; those of a split come in its order.

        Raises:
          OSError: where it cannot be written.
        """
        if not self._counts[found.split]:
            with _writing():
                self._writer.initialize_splits([found.split])
        self._counts[found.split] += 1
        waiting = self._waiting.setdefault(found.split, [])
        waiting.append(found)
        if len(waiting) == self._at_once:
            self._write(found.split)

    def _write(self, split: str) -> None:
        waiting = self._waiting.pop(split, [])
        blocks = [
            {
                "images": np.stack([found.image for found in part]),
                "labels": np.int32([found.label for found in part]),
                "rows": np.int32([found.row for found in part]),
            }
            for start in range(0, len(waiting), self._block)
            if (part := waiting[start : start + self._block])
        ]
        with _writing():
            self._writer.add_examples({split: blocks})

    @property
    def records(self) -> dict[str, int]:
        """How many records there are, by the split of the source."""
        return {
            split: -(-self._counts[split] // self._block)
            for split in SPLITS
            if split in self._counts
        }

    def images(self) -> dict[str, Images]:
        """All that were taken, by split, as they lie in the files.

        Raises:
          OSError: where they cannot be written.
        """
        for split in list(self._waiting):
            self._write(split)
        with _writing():
            self._writer.close_all()
        if not self._counts:
            return {}
        source = open_records(self._folder, self.records, self._image_shape)
        images, first = {}, 0
        for split, count in self.records.items():
            record, place = np.divmod(
                np.arange(self._counts[split], dtype=np.int32), np.int32(self._block)
            )
            images[split] = StoredImages(
                source, record + np.int32(first), place, self._image_shape, self._folder
            )
            first += count
        return images


def _directory(folder: Path) -> Path:
    return folder / _NAME / _VERSION


def _info(directory: Path, image_shape: Shape) -> tfds.core.DatasetInfo:
    """What TFDS is to know of the records of a folder, whether they are there yet."""

    # As bytes: zlib takes eight times as long to write for the same size on disk,
    # because ArrayRecord compresses too, and unencoded tensors become int64.
    def tensor(shape: tuple, dtype: type) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    features = {
        "images": tensor((None, *image_shape), np.uint8),
        "labels": tensor((None,), np.int32),
        "rows": tensor((None,), np.int32),
    }
    return tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            _NAME, tfds.core.Version(_VERSION), str(directory), __name__
        ),
        features=tfds.features.FeaturesDict(features),
    )


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """Nothing is said, and what ArrayRecord cannot write is an OSError too."""
    try:
        with quiet():
            yield
    except RuntimeError as error:
        raise OSError(str(error)) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TFDS's bars, log lines and prints off the terminal."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def open_records(
    folder: Path, splits: Iterable[str], image_shape: Shape
) -> ArrayRecordDataSource:
    """The records of some splits, one after the other, numbered from 0."""
    directory = _directory(folder)
    with quiet():
        # A builder made from the folder would import what its files name.
        info = _info(directory, image_shape)
        info.read_from_directory(str(directory))
        return ArrayRecordDataSource(info, split="+".join(splits))


def write_index(folder: Path, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Writes where each image of stored splits is; what `open_splits` checks it by."""
    for name, split in splits.items():
        columns = split.images.records, split.images.places, split.labels, split.rows
        np.save(_index(folder, name), np.stack(columns, axis=1).astype(np.int32))
    return {
        "index": {name: _digest(_index(folder, name)) for name in splits},
        "files": _sizes(folder),
    }


def open_splits(folder: Path, meta: Mapping[str, Any]) -> dict[str, Split]:
    """The splits of a prepared copy, whose images stay where they are.

    Args:
      folder: the copy's.
      meta: its notes: what `write_index` returned, and "splits" with the number of
        images of each, "records", "image_size" and "channels".

    Raises:
      Exception: of many kinds, where the files are not those that were written.
    """
    if _sizes(folder) != meta["files"]:
        raise ValueError("the records are not those that were written")
    shape = meta["image_size"], meta["image_size"], meta["channels"]
    source = open_records(folder, meta["records"], shape)
    splits = {}
    for name, count in meta["splits"].items():
        path = _index(folder, name)
        if _digest(path) != meta["index"][name]:
            raise ValueError(f"{path} is not what was written")
        index = np.load(path, allow_pickle=False)
        if index.shape != (count, 4) or not 0 <= index[:, 0].max() < len(source):
            raise ValueError(f"{path} does not fit the records")
        records, places, labels, rows = np.ascontiguousarray(index.T)
        images = StoredImages(source, records, places, shape, folder)
        splits[name] = Split(images, labels, rows)
    return splits


def _index(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sizes(folder: Path) -> dict[str, int]:
    """The bytes of each file of records."""
    files = _directory(folder).glob("*.array_record*")
    return {path.name: path.stat().st_size for path in sorted(files)}


def read_old_split(folder: Path, split: str, image_shape: Shape) -> Split:
    """A split of a copy without an index, whose blocks are in no order."""
    source = open_records(folder, [split], image_shape)
    blocks = sorted(source, key=lambda block: block["rows"][0])
    return Split(
        *(
            np.concatenate([block[name] for block in blocks])
            for name in ("images", "labels", "rows")
        )
    )
