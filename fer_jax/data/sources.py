"""Where images come from: finds, checks and decodes a csv, a folder or drawn faces.

Everything here is read-only and strict. What concerns a whole file is a `UserError`
at once; bad rows and images are collected, so that one report covers them all.
"""

import bz2
import csv
import dataclasses
import gzip
import hashlib
import io
import lzma
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from fer_jax import labels
from fer_jax.data import embedded
from fer_jax.errors import UserError

SPLITS = ("train", "val", "test")
MAX_PIXELS = 64_000_000  # of one image; more is a mistake or a decompression bomb
SHOWN_PROBLEMS = 20

_USAGES = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_FOLDERS = {name: name for name in SPLITS} | {
    "training": "train",
    "validation": "val",
    "valid": "val",
}
_UNKNOWN = "unknown"  # the split of a row that does not say
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_COLUMNS = ("emotion", "pixels", "usage")
_RANGE = "expected a whole number from 0 to 255"
_LONGEST_LINE = 2**22  # room for 1024 x 1024 pixels; bounds what one line may take
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split, in their order in the source.

    Attributes:
      images: uint8 `[N, S, S, 1]`, grey values 0..255.
      labels: int32 `[N]`, indices into the class names.
      rows: int32 `[N]`, ascending: the row of the csv (0 is the first after the
        header), the place in the split's sorted listing, or the drawn face's index.
    """

    images: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Source:
    """What a data root names, before any image is read.

    Attributes:
      kind: "embedded", "csv" or "folder".
      description: the source in words for people.
      key: a digest that changes when the content does.
      path: the file or folder, None for the embedded set.
      class_names: the classes, in the order of the labels.
      listing: for a folder, split by split, sorted (relative path, label) pairs.
    """

    kind: str
    description: str
    key: str
    path: Path | None = None
    class_names: tuple[str, ...] = labels.EMOTIONS
    listing: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Problems:
    """Bad rows or images: the first few in words, and how many each split has."""

    first: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, split: str, text: str) -> None:
        """Notes one; `text` goes on where the path of the source stops."""
        self.counts[split] = self.counts.get(split, 0) + 1
        if len(self.first) < SHOWN_PROBLEMS:
            self.first.append(text)

    def check(self, path: Path | None) -> None:
        """Raises a `UserError` that names the first problem, if there is one."""
        if not self.counts:
            return
        more = sum(self.counts.values()) - 1
        others = f", and {more:,} more are bad" if more else ""
        raise UserError(
            f"{path}{self.first[0]}{others}; mend them or drop them with --skip_bad"
        )


@dataclasses.dataclass(frozen=True)
class Contents:
    """What was read: the splits, what was left out, and what to say about it."""

    splits: dict[str, Split]
    problems: Problems
    notes: tuple[str, ...]


def locate(data_root: str | None) -> Source:
    """Finds what `data_root` names; None is `FER_DATA_ROOT`, or the embedded set.

    Raises:
      UserError: where nothing is there, or it is neither a csv nor class folders.
    """
    root = os.environ.get("FER_DATA_ROOT") or None if data_root is None else data_root
    if root is None:
        key = _digest("embedded", embedded.VERSION, sorted(embedded.SIZES.items()))
        return Source("embedded", "embedded set (drawn faces)", key)
    if not root.strip():  # "$UNSET" in a script; never a fall-back
        raise UserError(
            "--data_root is empty, expected a path; name one or leave it out"
        )
    path = Path(os.path.expanduser(root))
    try:
        path.stat()
        if path.is_dir():
            return _locate_in_folder(path)
        if not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder; name a csv")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source("csv", path.name, _digest("csv", digest), path)
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}); give "
            "--data_root a fer2013.csv or a folder with train/<class>/<images>"
        ) from None


def read(
    source: Source,
    image_size: int,
    *,
    skip_bad: bool = False,
    advance: Callable[[float], None] = lambda fraction: None,
) -> Contents:
    """Reads all images of `source`, `image_size` square, and carves val if missing.

    `advance` is told now and then which fraction is done.

    Raises:
      UserError: where a file is unusable, where a split or class has no images, and
        (without `skip_bad`) where a row or an image is bad.
    """
    readers = {"csv": _read_csv, "folder": _read_folder, "embedded": _read_embedded}
    splits, problems = readers[source.kind](source, image_size, advance)
    if not skip_bad:
        problems.check(source.path)
    notes = []
    if problems.counts:
        counts = ", ".join(f"{name} {n:,}" for name, n in problems.counts.items())
        notes.append(f"bad rows or images were dropped: {counts}")
    for split in sorted(problems.counts.keys() - splits.keys() - {_UNKNOWN}):
        raise UserError(f"{source.path} has no good image in {split}; mend some")
    _check_classes(source, splits)
    if "val" not in splits:
        splits["train"], splits["val"] = _carve(source, splits["train"])
        notes.append("val was carved from train: 10 % of each class, seed 0")
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    return Contents(ordered, problems, tuple(notes))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _check_classes(source: Source, splits: dict[str, Split]) -> None:
    if "train" not in splits:
        raise UserError(
            f"{source.path} has no Training rows; add them, or give another"
        )
    counts = np.bincount(splits["train"].labels, minlength=len(source.class_names))
    # Carving val must leave each class an image to train on.
    needed = 1 if "val" in splits else 2
    for name, count in zip(source.class_names, counts, strict=True):
        if count < needed:
            raise UserError(
                f"{source.path} has {count} good train images of the class {name!r}, "
                f"expected at least {needed}; add some, or leave the class out"
            )


def _carve(source: Source, train: Split) -> tuple[Split, Split]:
    """Splits train into train and val: a tenth of each class, at least one image."""
    rng = np.random.default_rng(0)
    to_val = np.zeros(len(train.labels), bool)
    for label in range(len(source.class_names)):
        members = np.flatnonzero(train.labels == label)
        # rng.random's stream is the same in every numpy; that of choice may change.
        shuffled = members[np.argsort(rng.random(len(members)), kind="stable")]
        to_val[shuffled[: max(1, round(len(members) / 10))]] = True
    return tuple(
        Split(train.images[keep], train.labels[keep], train.rows[keep])
        for keep in (~to_val, to_val)
    )


def _fit(pixels: np.ndarray, image_size: int) -> np.ndarray:
    """Grey uint8 `[H, W]` to `[S, S, 1]`: centre-cropped, resized with antialiasing."""
    if pixels.shape != (image_size, image_size):
        size, method = (image_size, image_size), Image.Resampling.BICUBIC
        pixels = np.asarray(ImageOps.fit(Image.fromarray(pixels), size, method))
    return pixels[:, :, None]


def _read_embedded(
    source: Source, image_size: int, advance: Callable[[float], None]
) -> tuple[dict[str, Split], Problems]:
    splits = {}
    for i, split in enumerate(embedded.SIZES):
        images, targets = embedded.generate(split)
        images = [_fit(image, image_size) for image in images]
        rows = np.arange(len(targets), dtype=np.int32)
        splits[split] = Split(np.stack(images), targets.astype(np.int32), rows)
        advance((i + 1) / len(embedded.SIZES))
    return splits, Problems()


# A csv.


def _read_csv(
    source: Source, image_size: int, advance: Callable[[float], None]
) -> tuple[dict[str, Split], Problems]:
    problems = Problems()
    found: dict[str, list[tuple[np.ndarray, int, int]]] = {}
    row, side = 0, None
    with _open_csv(source.path) as (raw, text):
        size = os.fstat(raw.fileno()).st_size
        rows = _cells(source.path, text)
        _, header = next(rows, (0, []))
        names = [name.strip().lower() for name in header]
        if not set(_COLUMNS) <= set(names):
            start = ", ".join(names)[:60]
            raise UserError(
                f"{source.path} starts with {start!r} where a header line with "
                "emotion, pixels and Usage is expected; give the public fer2013.csv"
            )
        places = [names.index(name) for name in _COLUMNS]
        for row, (line, cells) in enumerate(rows):
            # A row that is cut short lacks what stands last, as Usage does.
            cut = len(cells) <= max(places)
            label, pixels, usage = ("" if cut else cells[i].strip() for i in places)
            split = _USAGES.get(usage)
            try:
                if cut:
                    raise ValueError(f"has {len(cells)} cells, expected {len(names)}")
                if split is None:
                    raise ValueError(
                        f"has Usage {usage[:20]!r}, expected {_or(_USAGES)}"
                    )
                if label not in tuple("0123456"):
                    raise ValueError(f"has emotion {label[:20]!r}, expected 0 to 6")
                values = _parse_pixels(pixels, side)
            except ValueError as error:
                problems.add(split or _UNKNOWN, f":{line} {error}")
                continue
            side = len(values)
            image = _fit(values, image_size)
            found.setdefault(split, []).append((image, int(label), row))
            if row % 256 == 0:
                advance(raw.tell() / size)
    if not found and not problems.counts:
        raise UserError(f"{source.path} has no rows below its header; give a whole one")
    return {split: _stack(rows) for split, rows in found.items()}, problems


def _stack(found: list[tuple[np.ndarray, int, int]]) -> Split:
    images, targets, rows = zip(*found, strict=True)
    return Split(np.stack(images), np.int32(targets), np.int32(rows))


def _or(names: Iterable[str]) -> str:
    *names, last = names
    return f"{', '.join(names)} or {last}"


def _parse_pixels(text: str, side: int | None) -> np.ndarray:
    """The grey values of a row as uint8 `[side, side]`; None takes any square.

    Raises:
      ValueError: where they are not that, in words that go on after file and line.
    """
    digits = text.replace(" ", "")
    if digits and not (digits.isascii() and digits.isdigit()):
        wrong = (v for v in text.split(" ") if not (v.isascii() and v.isdigit()))
        raise ValueError(f"has the pixel {next(filter(None, wrong))[:20]!r}, {_RANGE}")
    # With a separator fromstring is not deprecated, and four times as fast as split().
    values = np.fromstring(text, np.int64, sep=" ") if digits else np.empty(0)
    expected = side or math.isqrt(len(values))
    if len(values) != expected**2 or not digits:
        squares = f"{side**2:,}" if side else "a square such as 2,304"
        raise ValueError(f"has {len(values):,} pixels, expected {squares}")
    if values.max() > 255:
        raise ValueError(f"has the pixel {str(values.max())!r}, {_RANGE}")
    return values.astype(np.uint8).reshape(expected, expected)


@contextmanager
def _open_csv(path: Path) -> Iterator[tuple[IO[bytes], IO[str]]]:
    """Opens a csv, plain or compressed in any usual way: (the file itself, its text).

    Content decides, not the suffix. Nothing is unpacked to disk.
    """
    openers = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\0": lzma.open, b"BZh": bz2.open}
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            start = raw.read(8)
            raw.seek(0)
            if not start:
                raise UserError(f"{path} is empty, expected a csv; fetch it again")
            data = raw
            if start.startswith(b"PK"):
                data = stack.enter_context(_zip_member(path, raw, stack))
            for magic, opener in openers.items():
                if start.startswith(magic):
                    data = stack.enter_context(opener(raw))
            # A bad byte becomes a bad cell, which is told with its line.
            text = io.TextIOWrapper(data, "utf-8-sig", "replace", newline="")
            yield raw, stack.enter_context(text)
    except _DAMAGED as error:
        raise UserError(
            f"{path} is damaged or cut short ({error}); fetch it again"
        ) from None


def _zip_member(path: Path, raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    archive = stack.enter_context(zipfile.ZipFile(raw))
    members = [
        info
        for info in archive.infolist()
        if info.filename.lower().endswith(".csv")
        and not info.filename.startswith("__MACOSX/")
    ]
    if len(members) != 1:
        raise UserError(f"{path} holds {len(members)} csv files, expected one")
    try:
        return archive.open(members[0])
    except (RuntimeError, NotImplementedError) as error:  # encrypted, odd methods
        raise UserError(
            f"{path} cannot be unpacked ({error}); unpack it first"
        ) from None


def _cells(path: Path, text: IO[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number from 1, cells) of each line that is not blank.

    Each line is read for itself, so a stray quote spoils one row and not the rest.
    """
    csv.field_size_limit(_LONGEST_LINE)  # 131,072 would not hold 182 x 182 pixels
    lines = iter(lambda: text.readline(_LONGEST_LINE), "")
    for number, line in enumerate(lines, 1):
        if len(line) >= _LONGEST_LINE:
            raise UserError(
                f"{path}:{number} is over {_LONGEST_LINE:,} characters long"
            )
        if line.strip():
            yield number, next(csv.reader([line]))


# A folder.


def _scan(path: Path) -> list[os.DirEntry]:
    # Ask os.path about entries: their own is_dir() raises on links that loop.
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def _locate_in_folder(root: Path) -> Source:
    entries = _scan(root)
    splits: dict[str, Path] = {}
    for entry in entries:
        split = _FOLDERS.get(entry.name.lower())
        if split and os.path.isdir(entry):
            if split in splits:
                names = f"{splits[split].name} and {entry.name}"
                raise UserError(f"{root} holds both {names}; keep one of them")
            splits[split] = Path(entry.path)
    if "train" in splits:
        return _list_folder(root, splits)
    names = [entry.name for entry in entries if os.path.isfile(entry)]
    for fits in (
        lambda name: name.startswith("fer2013.csv"),
        lambda name: name.startswith("icml_face_data.csv"),
        lambda name: name.endswith(".csv"),
    ):
        found = [name for name in names if fits(name.lower())]
        if len(found) > 1:
            raise UserError(f"{root} holds {' and '.join(found)}; name one of them")
        if found:
            return locate(str(root / found[0]))
    raise UserError(
        f"{root} holds neither a train folder nor a fer2013.csv; expected "
        "train/<class>/<images> or one csv"
    )


def _list_folder(root: Path, splits: dict[str, Path]) -> Source:
    """Lists the images of all splits, with a key of their names, sizes and times."""
    classes = {
        split: [entry.name for entry in _scan(path) if os.path.isdir(entry)]
        for split, path in splits.items()
    }
    names = labels.class_names(classes["train"])
    class_names = tuple(dict.fromkeys(names.values()))
    if len(class_names) < 2:
        raise UserError(
            f"{splits['train']} holds {len(class_names)} class folders, expected one "
            "for each emotion, at least two; sort the images into them"
        )
    listing, stats = {}, []
    for split in SPLITS:
        listing[split] = []
        for folder in classes.get(split, []):
            name = names.get(folder) or labels.emotion(folder)
            if name not in class_names:
                raise UserError(
                    f"{splits[split] / folder} is a class that train lacks, expected "
                    f"{_or(class_names)}; rename or remove it"
                )
            for relative, stat in _list_images(root, splits[split] / folder):
                listing[split].append((relative, class_names.index(name)))
                stats.append((relative, *stat))
    listing = {split: files for split, files in listing.items() if files}
    description = f"{Path(os.path.abspath(root)).name}/ (folder)"
    key = _digest("folder", class_names, stats)
    return Source("folder", description, key, root, class_names, listing)


def _list_images(root: Path, folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    count = 0
    for entry in _scan(folder):
        if os.path.isdir(entry):
            raise UserError(
                f"{entry.path} is a folder where images are expected; move its images "
                "up into the class folder, or remove it"
            )
        if not entry.name.lower().endswith(_SUFFIXES):
            continue
        count += 1
        try:
            stat = entry.stat()
            times = (stat.st_size, stat.st_mtime_ns)
        except OSError:  # a dangling or looping link; told when it is read
            times = (-1, -1)
        yield os.path.relpath(entry.path, root), times
    if not count:
        raise UserError(
            f"{folder} holds no {_or(_SUFFIXES)} image; add some or remove the folder"
        )


def _read_folder(
    source: Source, image_size: int, advance: Callable[[float], None]
) -> tuple[dict[str, Split], Problems]:
    problems, splits, done = Problems(), {}, 0
    total = sum(map(len, source.listing.values()))
    for split, files in source.listing.items():
        found = []
        for row, (relative, label) in enumerate(files):
            try:
                found.append((_decode(source.path / relative, image_size), label, row))
            except ValueError as error:
                problems.add(split, f"{os.sep}{relative} {error}")
            done += 1
            if done % 256 == 0:
                advance(done / total)
        if found:
            splits[split] = _stack(found)
    return splits, problems


def _decode(path: Path, image_size: int) -> np.ndarray:
    """One image file as uint8 `[S, S, 1]`; a ValueError says what is wrong with it."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("is not a file, expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no matter for the user
            # No other decoder gets to see the bytes: fewer parsers, fewer holes.
            with Image.open(path, formats=("JPEG", "PNG", "BMP", "WEBP")) as image:
                if image.width * image.height <= MAX_PIXELS:
                    return _fit(np.asarray(_to_grey(image)), image_size)
                size = f"{image.width:,} x {image.height:,}"
    except Exception as error:  # Pillow's decoders raise a dozen kinds on bad bytes
        reason = " ".join(str(error).split()).replace(str(path), "it")[:100]
        raise ValueError(f"is no readable jpg, png, bmp or webp ({reason})") from None
    raise ValueError(f"has {size} pixels, expected at most {MAX_PIXELS:,}")


def _to_grey(image: Image.Image) -> Image.Image:
    """Upright and grey; what is transparent becomes white, as on a page."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L")
