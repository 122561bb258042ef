"""Prepares a source once, as ArrayRecord in a cache folder, and loads it from there.

A record is a block of images: single records cost 80 to 200 microseconds each to read,
which is seconds for FER2013, blocks of 256 a few tenths of one. A prepared copy appears
under its final name only when it is whole, and its fingerprint is checked on loading.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from rich.console import Console

from fer_jax.console import progress
from fer_jax.data import signatures, sources
from fer_jax.data.records import Problems, Source, Split, Stored
from fer_jax.errors import UserError

FORMAT = 1  # raised when prepared copies of before are no longer to be used
BLOCK = 256

_META = "meta.json"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A whole data set in memory.

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
      source_fingerprint: with other labels than the data's own `fingerprint` is
        another, and this is what it was; else "".
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


def load(
    data_root: str | None,
    *,
    image_size: int = 48,
    channels: int = 1,
    skip_bad: bool = False,
    console: Console | None = None,
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

    Raises:
      UserError: where the data is missing or bad, or the cache cannot be written.
    """
    console = console or Console(quiet=True)
    source = sources.locate(data_root)
    # Grey copies have the name that they had before there was colour.
    shape = str(image_size) if channels == 1 else f"{image_size}x{channels}"
    key = f"{FORMAT}-{shape}-{source.key[:24]}"
    cache = cache_root()
    loaded = _read(cache / key, source)
    if loaded is None:
        with _locked(cache, key, source, console):
            # Another process may have prepared it while this one waited.
            loaded = _read(cache / key, source)
            if loaded is None:
                pixels = image_size, channels
                _prepare(cache / key, source, *pixels, skip_bad, console)
                loaded = _read(cache / key, source)
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


def cache_root() -> Path:
    """The folder for what can be made anew: `$FER_CACHE_DIR`, or the user's cache."""
    if own := os.environ.get("FER_CACHE_DIR"):
        return Path(os.path.expanduser(own))
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "fer_jax"


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
        console.print(f"the prepared copy {folder} is damaged; preparing it anew")
    start = time.monotonic()
    with progress(console) as bar:
        task = bar.add_task(f"reading {source.description}", total=1.0)
        contents = sources.read(
            source,
            image_size,
            channels,
            skip_bad=skip_bad,
            advance=lambda fraction: bar.update(task, completed=fraction),
        )
    meta = {
        "splits": {name: len(split.rows) for name, split in contents.splits.items()},
        "fingerprint": fingerprint(source.class_names, contents.splits),
        "image_size": image_size,
        "channels": channels,
        "problems": dataclasses.asdict(contents.problems),
        "notes": contents.notes,
        "stored": contents.stored,
    }
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(temporary, image_size, channels, contents.splits)
        (temporary / _META).write_text(json.dumps(meta, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except (OSError, RuntimeError) as error:  # ArrayRecord's own are RuntimeErrors
        raise _unwritable(folder.parent, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    count, seconds = sum(meta["splits"].values()), time.monotonic() - start
    console.print(
        f"prepared {count:,} images from {source.description} in {seconds:.0f} s"
    )


def fingerprint(class_names: tuple[str, ...], splits: dict[str, Split]) -> str:
    """The 16 hex digits that two data sets share if they are the same, bit for bit."""
    digest = hashlib.sha256(json.dumps(class_names).encode())
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name} {split.images.shape}".encode())
        digest.update(np.ascontiguousarray(split.labels, "<i4"))
        digest.update(np.ascontiguousarray(split.images))
    return digest.hexdigest()[:16]


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Looks for nothing on the web, and leaves no empty folder in /tmp for it."""


class FaceBlocks(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Blocks of up to `BLOCK` images, with their labels and rows."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would look for checksums of downloads beside this file, with a package that
    # it does not require.
    code_path = None

    def __init__(
        self,
        data_dir: Path,
        image_size: int,
        channels: int,
        splits: dict[str, Split] | None = None,
    ):
        """`splits` is needed to write only."""
        self._shape = (None, image_size, image_size, channels)
        self._splits = splits or {}
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        # As bytes: zlib takes eight times as long to write for the same size on disk,
        # because ArrayRecord compresses too, and unencoded tensors become int64.
        def tensor(shape: tuple, dtype: type) -> tfds.features.Tensor:
            return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

        features = {
            "images": tensor(self._shape, np.uint8),
            "labels": tensor((None,), np.int32),
            "rows": tensor((None,), np.int32),
        }
        return _Info(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {name: self._generate_examples(name) for name in self._splits}

    def _generate_examples(self, name: str) -> Iterator[tuple[int, dict]]:
        split = self._splits[name]
        for start in range(0, len(split.rows), BLOCK):
            part = slice(start, start + BLOCK)
            yield (
                start,
                {
                    "images": split.images[part],
                    "labels": split.labels[part],
                    "rows": split.rows[part],
                },
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's bars, log lines and prints about downloads off the terminal."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _write(
    folder: Path, image_size: int, channels: int, splits: dict[str, Split]
) -> None:
    offline = tfds.download.DownloadConfig(try_download_gcs=False)
    with _quiet():
        FaceBlocks(folder, image_size, channels, splits).download_and_prepare(
            download_dir=folder / "downloads", download_config=offline
        )


def _read(folder: Path, source: Source) -> tuple[Dataset, Problems] | None:
    """The prepared copy, or None where it is not there or not what was written."""
    if not os.path.exists(folder):  # which, unlike Path.exists, never raises
        return None
    try:
        meta = json.loads((folder / _META).read_text())
        with _quiet():
            # Copies from before there was colour do not tell.
            channels = meta.get("channels", 1)
            builder = FaceBlocks(folder, meta["image_size"], channels)
            splits = {
                name: _join(list(builder.as_data_source(name)))
                for name in meta["splits"]
            }
        if fingerprint(source.class_names, splits) != meta["fingerprint"]:
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


def _join(blocks: list[dict[str, np.ndarray]]) -> Split:
    """Puts blocks, which TFDS shuffles, back into the order of their rows."""
    blocks = sorted(blocks, key=lambda block: block["rows"][0])
    return Split(
        *(
            np.concatenate([block[name] for block in blocks])
            for name in ("images", "labels", "rows")
        )
    )
