"""Prepares a source once, as ArrayRecord in a cache folder, and loads it from there.

A prepared copy gets its final name when it is complete. A set that fits in memory is
loaded and checked against its fingerprint. A larger one is streamed: its images stay on
disk, protected by ArrayRecord's checksums; the index is checked by digest.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fer_jax.data.lazy_images import StoredImages, chunks, read_pixels
from fer_jax.data.records import Problems, Shape, Source, Split, Stored
from fer_jax.data.sources import locate as sources
from fer_jax.errors import UserError
from fer_jax.system.cache import cache_root
from fer_jax.system.console import progress
from fer_jax.system.memory import available_memory

FORMAT = 2  # raised when the prepared copies of earlier versions must not be used

_META = "meta.json"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set, its images in memory or streamed.

    Attributes:
      source: "embedded", "csv" or "folder".
      description: the source in words.
      fingerprint: 16 hex digits of a SHA-256 over the class names and, split by split,
        shape, labels and pixels; paths and file formats do not change it.
      class_names: the classes, in the order of the labels.
      splits: by name. `load` gives those of the source, "train" at least;
        `select_images` always gives "train" and "val".
      skipped: how many bad rows were dropped, by split.
      dropped: where they are and what is wrong with them, in words.
      notes: what the user must know about the data.
      path: the file or folder; None for the embedded set.
      labels: the label set in words.
      source_fingerprint: the `fingerprint` as loaded, if other labels or splits were
        selected since; else "".
      subset: a digest of the selected images and labels; "" for all, as loaded.
      targets: a digest of train's targets if a teacher's are mixed in; else "".
      left_out: how many images the selection leaves out, by split and reason.
      stored: by split, how many images are stored in which format, size and mode, as
        {"train": {"JPEG 100 x 100 colour": 12271}}; many rare kinds are summed.
      listing: for a folder, by split, (relative path, label) pairs by row.
      undivided: whether the source has no splits; `select_images` divides it.
    """

    source: str
    description: str
    fingerprint: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    skipped: dict[str, int]
    notes: tuple[str, ...]
    path: Path | None = None
    labels: str = "as given"
    source_fingerprint: str = ""
    subset: str = ""
    targets: str = ""
    left_out: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    stored: Stored = dataclasses.field(default_factory=dict)
    listing: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)
    undivided: bool = False
    dropped: tuple[str, ...] = ()

    def file_of(self, split: str, row: int) -> str:
        """The file of an image, relative to `path`; "" if it has none."""
        listing = self.listing.get(split)
        return listing[row][0] if listing else ""

    @property
    def streamed(self) -> bool:
        """Whether the images stay on disk."""
        return any(isinstance(s.images, StoredImages) for s in self.splits.values())

    @property
    def nbytes(self) -> int:
        """How many bytes all images take, or would take, in memory."""
        return sum(split.images.nbytes for split in self.splits.values())


def load(
    data_root: str | None,
    *,
    image_size: int = 48,
    channels: int = 1,
    skip_bad: bool = False,
    console: Console | None = None,
    memory_limit: float | None = None,
) -> Dataset:
    """Loads a data set, and prepares it first if there is no prepared copy.

    Args:
      data_root: a csv, a folder with one, a folder with
        `train|val|test/<class>/<images>`, RAF-DB or AffectNet; None is
        `FER_DATA_ROOT`, or else the embedded set.
      image_size: the side S of the square images.
      channels: 1 for grey images, 3 for colour.
      skip_bad: drop and count bad rows and images instead of refusing them.
      console: shows progress; None shows nothing.
      memory_limit: a larger set, in bytes, is streamed; 0 always streams, `math.inf`
        never does. None is half of the memory that this machine has free.

    Raises:
      UserError: if the data is missing or bad, or the cache cannot be written.
    """
    console = console or Console(quiet=True)
    source = sources.locate(data_root)
    shape = image_size, image_size, channels
    key = f"{FORMAT}-{image_size}x{channels}-{source.key[:24]}"
    cache = cache_root()
    limit = available_memory() // 2 if memory_limit is None else memory_limit
    loaded = _read(cache / key, source, limit)
    if loaded is None:
        with _locked(cache, key, source, console):
            # Another process may have prepared it while this one waited.
            loaded = _read(cache / key, source, limit)
            if loaded is None:
                _prepare(cache / key, source, shape, skip_bad, console)
                loaded = _read(cache / key, source, limit)
    if loaded is None:
        raise _unwritable(cache, "what was written reads back differently")
    dataset, problems = loaded
    if not skip_bad:
        problems.check(source.path)
    return dataset


def _unwritable(cache: Path, error: Exception | str) -> UserError:
    reason = getattr(error, "strerror", None) or error
    full = getattr(error, "errno", errno.ENOSPC) in (errno.ENOSPC, errno.EDQUOT)
    return UserError(
        f"the cache folder {cache} cannot be written ({reason}); "
        + "make room there or " * full
        + "name another folder with the environment variable FER_CACHE_DIR"
    )


@contextlib.contextmanager
def _locked(cache: Path, key: str, source: Source, console: Console) -> Iterator[None]:
    """Holds the lock of one prepared copy; it is released if the process dies."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        lock = (cache / f"{key}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(
                f"waiting for another process to prepare {source.description}"
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _unwritable(cache, error) from None
    with lock:
        yield


def _sweep(cache: Path) -> None:
    """Removes half-written copies of processes that were killed."""
    for folder in cache.glob("*.tmp"):
        lock_path = folder.with_suffix(".lock")
        with contextlib.suppress(BlockingIOError), lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


def _prepare(
    folder: Path, source: Source, shape: Shape, skip_bad: bool, console: Console
) -> None:
    """Writes the prepared copy of `source`; `folder` appears complete or not at all."""
    if folder.exists():
        console.print(f"the prepared copy {folder} is damaged; preparing it anew")
    start = time.monotonic()
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with progress(console) as bar:
            task = bar.add_task(f"reading {source.description}", total=1.0)

            def advance(fraction: float) -> None:
                bar.update(task, completed=fraction)

            meta = _write(temporary, source, shape, skip_bad, advance)
        (temporary / _META).write_text(json.dumps(meta, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    count, seconds = sum(meta["splits"].values()), time.monotonic() - start
    console.print(
        f"prepared {count:,} images from {source.description} in {seconds:.0f} s"
    )


def _write(
    folder: Path,
    source: Source,
    shape: Shape,
    skip_bad: bool,
    advance: Callable[[float], None],
) -> dict[str, Any]:
    """Writes the images of `source` as they are read, and returns the metadata."""
    from fer_jax.data import array_records  # TFDS takes half a second

    store = array_records.RecordWriter(folder, shape)
    contents = sources.read(source, shape, store, skip_bad=skip_bad, advance=advance)
    return {
        "splits": {name: len(split.rows) for name, split in contents.splits.items()},
        # Of the written files, because all images are never in memory.
        "fingerprint": fingerprint(contents.class_names, contents.splits),
        "class_names": contents.class_names,
        "image_shape": shape,
        "problems": dataclasses.asdict(contents.problems),
        "notes": contents.notes,
        "stored": contents.stored,
        **array_records.write_index(folder, contents.splits),
    }


def fingerprint(class_names: tuple[str, ...], splits: dict[str, Split]) -> str:
    """The 16 hex digits that are equal for data sets that are equal, bit for bit."""
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name} {split.images.shape}".encode())
        digest.update(split.labels.astype("<i4").tobytes())
        for images in chunks(split.images):
            digest.update(images.tobytes())
    return digest.hexdigest()[:16]


def _read(
    folder: Path, source: Source, memory_limit: float
) -> tuple[Dataset, Problems] | None:
    """The prepared copy; None if it is missing or not what was written."""
    if not os.path.exists(folder):  # unlike Path.exists, it never raises
        return None
    from fer_jax.data import array_records  # TFDS takes half a second

    try:
        meta = json.loads((folder / _META).read_text())
        splits = array_records.open_splits(folder, meta)
        class_names = tuple(meta.get("class_names", source.class_names))
        nbytes = sum(meta["splits"].values()) * math.prod(meta["image_shape"])
        if nbytes <= memory_limit:
            splits = {name: _in_memory(split) for name, split in splits.items()}
            if meta["fingerprint"] != fingerprint(class_names, splits):
                return None
        problems = Problems(**meta["problems"])
        dataset = Dataset(
            source=source.kind,
            description=source.description,
            fingerprint=meta["fingerprint"],
            class_names=class_names,
            splits=splits,
            skipped=problems.counts,
            notes=tuple(meta["notes"]),
            path=source.path,
            stored=meta["stored"],
            listing=source.listing,
            undivided=source.undivided,
            dropped=tuple(_places(source, problems)),
        )
    except Exception:  # each layer raises its own kinds; prepare anew for any of them
        return None
    return dataset, problems


def _places(source: Source, problems: Problems) -> Iterator[str]:
    """The bad rows as "fer2013.csv:5 has ...", images as "train/sad/1.png is ..."."""
    name = source.path.name if source.path and source.kind == "csv" else ""
    for text in problems.first:
        yield name + text if name else text.removeprefix(os.sep)


def _in_memory(split: Split) -> Split:
    pixels = read_pixels(split.images, np.arange(len(split.rows)))
    return dataclasses.replace(split, images=pixels)
