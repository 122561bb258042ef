"""Reads fer2013.csv and files like it, plain or compressed, row by row."""

import bz2
import csv
import gzip
import io
import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from fer_jax.data.records import (
    UNKNOWN,
    USAGES,
    Found,
    Problems,
    Shape,
    Source,
    either,
    resize_to_square,
)
from fer_jax.emotions import EMOTIONS, emotion
from fer_jax.errors import UserError

_SPLITS = {usage: split for split, usage in USAGES.items()}
_SPLITS |= {name: name for name in USAGES}  # train, val and test too
_SPLITS |= {"validation": "val", "valid": "val", "dev": "val"}
_SPLITS |= {name.capitalize(): split for name, split in _SPLITS.items()} | _SPLITS
# The names of the columns in a header, in lower case.
_COLUMNS = {
    "emotion": ("emotion", "label", "expression"),
    "pixels": ("pixels", "pixel"),
    "usage": ("usage", "split"),
}
_DELIMITERS = (",", ";", "\t")
_FEWEST_PIXELS = 16  # of a first line without header
_RANGE = "expected a whole number from 0 to 255"
_LONGEST_LINE = 2**22  # enough for 1024 x 1024 pixels
# Decimal pixels unpack to about 3 times their size. A file that unpacks to far more,
# and to more than is harmless, is a decompression bomb.
_BOMB_RATIO, _HARMLESS = 100, 2**22
_DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)


def read_csv(
    source: Source, shape: Shape, problems: Problems, advance: Callable[[float], None]
) -> Iterator[Found]:
    """The images of the good rows of a csv, in order.

    Args:
      source: a csv.
      shape: (S, S, C) of the images.
      problems: receives the bad rows.
      advance: called now and then with the fraction done.

    Raises:
      UserError: if the file as a whole is unusable.
    """
    assert source.path
    side, layout = None, read_layout(source.path)
    columns = [layout.emotion, layout.pixels]
    columns += [] if layout.usage is None else [layout.usage]
    with _open_csv(source.path) as (raw, text):
        rows = _cells(source.path, raw, text, layout.delimiter)
        if layout.has_header:
            next(rows, None)
        for row, (line, cells) in enumerate(rows):
            # A truncated row lacks its last cells, Usage among them.
            cut = len(cells) <= max(columns)
            label, pixels, *rest = ("" if cut else cells[i].strip() for i in columns)
            usage = rest[0] if rest else "train"
            split = _SPLITS.get(usage, UNKNOWN)
            try:
                if cut:
                    raise ValueError(f"has {len(cells)} cells, expected {layout.width}")
                number, values = _parse_row(label, pixels, usage, side)
            except ValueError as error:
                problems.add(split, f":{line} {error}")
                continue
            side = len(values)
            image = resize_to_square(values, shape[0], shape[2])
            yield Found(split, image, number, row, f"{side} x {side} grey")
            if row % 256 == 0:
                advance(raw.tell() / os.fstat(raw.fileno()).st_size)
    if side is None and not problems.counts:
        raise UserError(f"{source.path} has no rows below its header; fetch it again")


class Layout(NamedTuple):
    """Where a csv has what."""

    delimiter: str
    has_header: bool
    width: int  # cells of a row
    emotion: int  # the place of a column
    pixels: int
    usage: int | None  # None: there is no such column


def read_layout(path: Path) -> Layout:
    """The layout of a csv, from its first line.

    Raises:
      UserError: if the line is no header and no row, or can be read in two ways.
    """
    with _open_csv(path) as (raw, text):
        for delimiter in _DELIMITERS:
            text.seek(0)
            _, cells = next(_cells(path, raw, text, delimiter), (0, []))
            names = [cell.strip().lower() for cell in cells]
            if header := _header(path, names):
                return Layout(delimiter, True, len(names), *header)
            if first_row := _first_row(names):
                return Layout(delimiter, False, len(names), *first_row)
        text.seek(0)
        start = text.readline(60).strip()
    if not start.isprintable() or "\ufffd" in start:
        raise UserError(
            f"{path} is no text, expected a csv; of images, give --data_root the "
            "folder with train/<class>/<images> or <class>/<images>"
        )
    raise UserError(
        f"{path} starts with {start!r} where a header line with emotion, pixels and "
        "Usage is expected; give the public fer2013.csv"
    )


def _header(path: Path, names: Sequence[str]) -> tuple[int, int, int | None] | None:
    """The places of emotion, pixels and usage in a header; None if it is none."""
    places = []
    for known in _COLUMNS.values():
        found = [place for place, name in enumerate(names) if name in known]
        if len(found) > 1:
            both = " and ".join(names[place] for place in found)
            raise UserError(f"{path} has the columns {both}; keep one of them")
        places.append(found[0] if found else None)
    emotion, pixels, usage = places
    return None if emotion is None or pixels is None else (emotion, pixels, usage)


def _first_row(cells: Sequence[str]) -> tuple[int, int, int | None] | None:
    """The same for a row in a file without header; None if it cannot be told."""
    usages = {name.lower() for name in _SPLITS}
    kinds = {
        "pixels": [i for i, cell in enumerate(cells) if _are_pixels(cell)],
        "usage": [i for i, cell in enumerate(cells) if cell in usages],
        "emotion": [i for i, cell in enumerate(cells) if _emotion(cell) is not None],
    }
    pixels, usage, emotion = kinds.values()
    if len(pixels) != 1 or len(emotion) != 1 or len(usage) > 1:
        return None
    return emotion[0], pixels[0], usage[0] if usage else None


def _are_pixels(cell: str) -> bool:
    values = cell.split(" ")
    return len(values) >= _FEWEST_PIXELS and all(map(str.isdecimal, values))


def _emotion(label: str) -> int | None:
    """The label of a number from 0 to 6, or of the name of an emotion."""
    if label.removesuffix(".0") in tuple("0123456"):  # floats, where pandas had a NaN
        return int(label[0])
    name = emotion(label)
    return EMOTIONS.index(name) if name in EMOTIONS else None


def _parse_row(
    label: str, pixels: str, usage: str, side: int | None
) -> tuple[int, np.ndarray]:
    """The label of a row, and its grey values as `_parse_pixels` has them."""
    if usage not in _SPLITS:
        usages = either(USAGES.values())
        raise ValueError(f"has Usage {usage[:20]!r}, expected {usages}")
    if (number := _emotion(label)) is None:
        raise ValueError(f"has emotion {label[:20]!r}, expected 0 to 6 or a name")
    return number, _parse_pixels(pixels, side)


def _parse_pixels(text: str, side: int | None) -> np.ndarray:
    """The grey values of a row as uint8 `[side, side]`; any square if side is None.

    Raises:
      ValueError: what is wrong with them, as a continuation of file and line.
    """
    digits = text.replace(" ", "")
    if digits and not (digits.isascii() and digits.isdigit()):
        wrong = (v for v in text.split(" ") if not (v.isascii() and v.isdigit()))
        raise ValueError(f"has the pixel {next(filter(None, wrong))[:20]!r}, {_RANGE}")
    # With a separator, fromstring is not deprecated, and four times as fast as split.
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
    """Opens a csv, plain or compressed: (the file itself, its text).

    The content decides, not the suffix. Nothing is unpacked to disk.
    """
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            start = raw.read(8)
            raw.seek(0)
            if not start:
                raise UserError(f"{path} is empty, expected a csv; fetch it again")
            data = stack.enter_context(_unpacked(path, raw, start, stack))
            # A bad byte becomes a bad cell, which is reported with its line.
            text = io.TextIOWrapper(data, "utf-8-sig", "replace", newline="")
            yield raw, stack.enter_context(text)
    except _DAMAGED as error:
        raise UserError(
            f"{path} is damaged or cut short ({error}); fetch it again"
        ) from None


def _unpacked(path: Path, raw: IO[bytes], start: bytes, stack: ExitStack) -> IO[bytes]:
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw))
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(raw)
    if start.startswith(b"BZh"):
        return bz2.open(raw)
    if not start.startswith(b"PK"):
        return raw
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
        raise UserError(f"{path} cannot be unpacked ({error}); unpack it") from None


def _cells(
    path: Path, raw: IO[bytes], text: IO[str], delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number from 1, cells) of each line that is not blank.

    Lines are parsed one by one, so that a stray quote spoils only its own.
    """
    csv.field_size_limit(_LONGEST_LINE)  # the default is too small for 182 x 182
    lines = iter(lambda: text.readline(_LONGEST_LINE), "")
    unpacked = 0
    for number, line in enumerate(lines, 1):
        unpacked += len(line)
        if unpacked > _HARMLESS and unpacked > _BOMB_RATIO * raw.tell():
            raise UserError(
                f"{path} unpacks to more than {_BOMB_RATIO} times its size, unlike "
                "any images; unpack it yourself if you trust it"
            )
        if len(line) >= _LONGEST_LINE:
            raise UserError(
                f"{path}:{number} is over {_LONGEST_LINE:,} characters long; fetch "
                "the file again"
            )
        if line.strip():
            yield number, next(csv.reader([line], delimiter=delimiter))
