"""Prepares a source once, as ArrayRecord in a cache folder, and loads it from there.

A prepared copy appears under its final name only when it is whole. A set that fits is
loaded as a whole, and its fingerprint checked. One that does not is streamed: images
stay in the copy until they are needed, and are vouched for by ArrayRecord's checksums,
the digests of the index and the sizes of the files.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from fer_jax.data import array_records as blocks
from fer_jax.data import signatures
from fer_jax.data.lazy_images import chunks, is_stored, taken
from fer_jax.data.records import Problems, Source, Split, Stored
from fer_jax.data.sources import locate as sources
from fer_jax.errors import UserError
from fer_jax.system.cache import cache_root
from fer_jax.system.console import progress
from fer_jax.system.memory import available_memory

FORMAT = 1  # raised when prepared copies of before are no longer to be used

_META = "meta.json"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A whole data set, its images in memory or streamed.

    Attributes:
      source: "embedded", "csv" or "folder".
      description: the source in words for people.
      fingerprint: 16 hex digits of a SHA-256 over the class names and, split by split,
        shape, labels and pixels; it knows nothing of paths and formats.
      class_names: the classes, in the order of the labels.
      splits: "train" and "val", and "test" where there is one.
      skipped: how many bad rows were dropped, by split.
      notes: what must be said aloud about the data.
      path: the file or folder it was read from; None for the embedded set.
      labels: which labels they are, in words.
      source_fingerprint: with other labels or splits than the data's own `fingerprint`
        is another, and this is what it was; else "".
      chosen: a digest of what a run takes of the data set; "" for all of it, as read.
      left_out: of how many images that takes none, by split and reason.
      stored: of each split of the source, how many good images are stored in which
        format, size and mode, as {"train": {"JPEG 100 x 100 colour": 12271}}; the many
        rare kinds are summed. Empty where a copy from before was read.
      listing: for a folder, split by split, (relative path, label) pairs by row.
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
    chosen: str = ""
    left_out: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    stored: Stored = dataclasses.field(default_factory=dict)
    listing: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)

    def file_of(self, split: str, row: int) -> str:
        """The file of an image, as a path below `path`; "" where it has none."""
        listing = self.listing.get(split) or self.listing.get("train")  # carved val
        return listing[row][0] if listing else ""

    @property
    def streamed(self) -> bool:
        """Whether the images are read as they are needed."""
        return any(is_stored(split.images) for split in self.splits.values())

    @property
    def nbytes(self) -> int:
        """How many bytes all images take in memory, or would take there."""
        return sum(split.images.nbytes for split in self.splits.values())


def load(
    data_root: str | None,
    *,
    image_size: int = 48,
    channels: int = 1,
    skip_bad: bool = False,
    console: Console | None = None,
    stream: Literal["auto", "always", "never"] = "auto",
    room: int | None = None,
) -> Dataset:
    """Loads the data that `data_root` names, and prepares it where that is still to do.

    Args:
      data_root: a csv, a folder that holds one, a folder with
        `train|val|test/<class>/<images>`, RAF-DB or AffectNet; None is
        `FER_DATA_ROOT`, or without that the embedded set.
      image_size: the side S of the square images.
      channels: 1 for grey images, 3 for colour.
      skip_bad: drop bad rows and images, and count them, instead of refusing them.
      console: where progress is shown; None shows nothing.
      stream: whether images stay in the prepared copy until they are needed; "auto":
        where they take more than `room`.
      room: in bytes; None is half of the memory that this machine has free.

    Raises:
      UserError: where the data is missing or bad, or the cache cannot be written.
    """
    console = console or Console(quiet=True)
    source = sources.locate(data_root)
    # Grey copies have the name that they had before there was colour.
    shape = str(image_size) if channels == 1 else f"{image_size}x{channels}"
    key = f"{FORMAT}-{shape}-{source.key[:24]}"
    cache = cache_root()
    if room is None:
        room = available_memory() // 2
    # What may take more bytes than these is streamed.
    most = {"auto": room, "always": -1, "never": math.inf}[stream]
    loaded = _read(cache / key, source, most)
    if loaded is None:
        with _locked(cache, key, source, console):
            # Another process may have prepared it while this one waited.
            loaded = _read(cache / key, source, most)
            if loaded is None:
                pixels = image_size, channels
                _prepare(cache / key, source, *pixels, skip_bad, console)
                loaded = _read(cache / key, source, most)
    if loaded is None:
        raise _unwritable(cache, "what was written reads back differently")
    dataset, problems = loaded
    if not skip_bad:
        problems.check(source.path)
    counts = {
        name: np.bincount(split.labels, minlength=len(dataset.class_names))
        for name, split in dataset.splits.items()
    }
    told = signatures.notes(counts)
    return dataclasses.replace(dataset, notes=(*dataset.notes, *told))


def _unwritable(cache: Path, error: Exception | str) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"the cache folder {cache} cannot be written ({reason}); make room there or "
        "name another folder with the environment variable FER_CACHE_DIR"
    )


@contextlib.contextmanager
def _locked(cache: Path, key: str, source: Source, console: Console) -> Iterator[None]:
    """Holds the lock of one prepared copy; a process that dies lets go of it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        lock = (cache / f"{key}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"waiting until {source.description} is prepared elsewhere")
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise _unwritable(cache, error) from None
    with lock:
        yield


def _sweep(cache: Path) -> None:
    """Removes what killed preparations left: half-written folders nobody has locked."""
    for left in cache.glob("*.tmp"):
        lock_path = left.with_suffix(".lock")
        with contextlib.suppress(BlockingIOError), lock_path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


def _prepare(
    folder: Path,
    source: Source,
    image_size: int,
    channels: int,
    skip_bad: bool,
    console: Console,
) -> None:
    """Reads `source` and writes its prepared copy; `folder` appears whole or not."""
    if folder.exists():
        told = "is damaged" if _has_index(folder) else "is damaged or of an older kind"
        console.print(f"the prepared copy {folder} {told}; preparing it anew")
    start = time.monotonic()
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with progress(console) as bar:
            task = bar.add_task(f"reading {source.description}", total=1.0)
            meta = _write(
                temporary,
                source,
                image_size,
                channels,
                skip_bad,
                lambda fraction: bar.update(task, completed=fraction),
            )
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
    image_size: int,
    channels: int,
    skip_bad: bool,
    advance: Callable[[float], None],
) -> dict[str, Any]:
    """Writes the images of `source` as they are read, and returns the copy's notes."""
    writer = blocks.BlockWriter(folder, (image_size, image_size, channels))
    contents = sources.read(
        source, image_size, channels, skip_bad=skip_bad, advance=advance, shelf=writer
    )
    return {
        "splits": {name: len(split.rows) for name, split in contents.splits.items()},
        # Of what was written, as it reads back: all images never are in memory.
        "fingerprint": fingerprint(source.class_names, contents.splits),
        "image_size": image_size,
        "channels": channels,
        "problems": dataclasses.asdict(contents.problems),
        "notes": contents.notes,
        "stored": contents.stored,
        "records": writer.records,
        **blocks.write_index(folder, contents.splits),
    }


def fingerprint(class_names: tuple[str, ...], splits: dict[str, Split]) -> str:
    """The 16 hex digits that two data sets share if they are the same, bit for bit."""
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name} {split.images.shape}".encode())
        digest.update(np.ascontiguousarray(split.labels, "<i4"))
        for images in chunks(split.images):
            digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()[:16]


def _has_index(folder: Path) -> bool:
    """Whether a copy, whole or not, was made to be streamed too."""
    return any(folder.glob("*.npy"))


def _read(folder: Path, source: Source, most: float) -> tuple[Dataset, Problems] | None:
    """The prepared copy, or None where it is not there or not what was written.

    More than `most` bytes of images are not loaded, and stay there.
    """
    if not os.path.exists(folder):  # which, unlike Path.exists, never raises
        return None
    try:
        meta = json.loads((folder / _META).read_text())
        splits = _splits(folder, meta, most)
        streamed = any(is_stored(split.images) for split in splits.values())
        # A streamed set would be read as a whole only for this.
        if not streamed and meta["fingerprint"] != fingerprint(
            source.class_names, splits
        ):
            return None
        problems = Problems(**meta["problems"])
        notes = tuple(meta["notes"])
        stored = {name: dict(kinds) for name, kinds in meta.get("stored", {}).items()}
    except Exception:  # each layer has its own kinds; whichever it is, prepare anew
        return None
    return Dataset(
        source=source.kind,
        description=source.description,
        fingerprint=meta["fingerprint"],
        class_names=source.class_names,
        splits=splits,
        skipped=problems.counts,
        notes=notes,
        path=source.path,
        stored=stored,
        listing=source.listing,
    ), problems


def _splits(folder: Path, meta: dict[str, Any], most: float) -> dict[str, Split]:
    """The splits of a prepared copy, streamed where they take more than `most` bytes.

    Raises:
      Exception: of many kinds, where it is not what was written.
    """
    # Copies from before there was colour do not tell; those of blocks of 256 have no
    # index.
    meta = {"channels": 1} | meta
    shape = meta["image_size"], meta["image_size"], meta["channels"]
    streamed = sum(meta["splits"].values()) * math.prod(shape) > most
    if "index" not in meta:
        if streamed:
            raise ValueError("no index to its images")
        return {n: blocks.read_old_split(folder, n, shape) for n in meta["splits"]}
    splits = blocks.open_splits(folder, meta)
    if streamed:
        return splits
    return {
        name: dataclasses.replace(
            split, images=taken(split.images, np.arange(len(split.images)))
        )
        for name, split in splits.items()
    }
