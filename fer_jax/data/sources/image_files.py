"""Reads image files: format, orientation, transparency, colour and size."""

import contextlib
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer_jax.data.records import (
    Box,
    Found,
    Problems,
    Shape,
    Source,
    resize_to_square,
)

MAX_PIXELS = 64_000_000  # of one image; more is a mistake or a decompression bomb
# By suffix, the format that Pillow reads. HEIF needs the plugin pillow-heif.
_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
}
SUFFIXES = tuple(_FORMATS)
FORMATS = "jpg, png, bmp, webp, tiff, gif, avif or heic"
# What is found under the names of images, by its first bytes.
_IMAGES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_OTHERS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched",
    b"%pdf": "a PDF",
    b"pk": "a zip",
}


def read_folder(
    source: Source, shape: Shape, problems: Problems, advance: Callable[[float], None]
) -> Iterator[Found]:
    """The good images of a folder, split by split.

    Args:
      source: a folder with its listing.
      shape: (S, S, C) of the images.
      problems: receives the bad images.
      advance: called now and then with the fraction done.
    """
    assert source.path
    done, total = 0, sum(map(len, source.listing.values()))
    for split, files in source.listing.items():
        for row, (relative, label) in enumerate(files):
            try:
                box = source.boxes.get(relative)
                image, kind = decode(source.path / relative, shape, box)
            except ValueError as error:
                problems.add(split, f"{os.sep}{relative} {error}")
            else:
                yield Found(split, image, label, row, kind)
            done += 1
            if done % 256 == 0:
                advance(done / total)


def decode(path: Path, shape: Shape, box: Box | None = None) -> tuple[np.ndarray, str]:
    """One image as uint8 `shape` = (S, S, C), and its kind as stored.

    Args:
      path: the file.
      shape: C is 1 for grey or 3 for RGB.
      box: the part of the image to read; None for all.

    Raises:
      ValueError: what is wrong with the image, as a continuation of its path.
    """
    picture, kind = read_picture(path, "RGB" if shape[2] > 1 else "L")
    inside = _intersection(box, picture.size)
    if inside is None:
        size = "{:,} x {:,}".format(*picture.size)
        raise ValueError(f"has {size} pixels, expected some in its face box {box}")
    return resize_to_square(np.asarray(picture.crop(inside)), shape[0], shape[2]), kind


def read_picture(path: Path, mode: str = "RGB") -> tuple[Image.Image, str]:
    """A whole image, upright, in mode L or RGB, and its kind as stored.

    Raises:
      ValueError: what is wrong with the image, as a continuation of its path.
    """
    # Opening a pipe would wait forever. Path.is_file raises if a name is too long.
    if not os.path.isfile(path):
        raise ValueError(no_file(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata does not matter here
            # A short list of decoders is a small attack surface.
            with Image.open(path, formats=_readable()) as image:
                if image.width * image.height <= MAX_PIXELS:
                    return upright(image, mode), _kind(image, path.suffix)
                size = f"{image.width:,} x {image.height:,}"
    except Exception as error:  # Pillow's decoders raise a dozen kinds on bad bytes
        reason = " ".join(str(error).split()).replace(str(path), "it")[:100]
        raise ValueError(_describe(path, reason)) from None
    raise ValueError(f"has {size} pixels, expected at most {MAX_PIXELS:,}")


def no_file(path: Path) -> str:
    """What a path is that is not a file, as its continuation."""
    closed = os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK)
    found = "is a folder that cannot be read" if closed else "is not a file"
    return f"{found}, expected an image"


@functools.cache
def _readable() -> tuple[str, ...]:
    """The formats of `_FORMATS` that the installed Pillow and its plugins read."""
    for name in ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP"):
        with contextlib.suppress(ImportError):  # an older Pillow has no AVIF
            importlib.import_module(f"PIL.{name}ImagePlugin")
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in set(_FORMATS.values()) if name in Image.OPEN)


def _describe(path: Path, reason: str) -> str:
    """What an unreadable file is by its first bytes, as a continuation of its path."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        return f"cannot be read ({error.strerror}), expected an image"
    if not start:
        return "is empty, expected an image"
    for mark, what in _OTHERS.items():
        if start.lower().startswith(mark):
            return f"is {what}, expected an image"
    found = next((kind for mark, kind in _IMAGES.items() if start.startswith(mark)), "")
    if start[4:8] == b"ftyp":
        found = "AVIF" if start[8:12] in (b"avif", b"avis") else "HEIF"
        if found not in _readable():
            needs = {"AVIF": "a newer Pillow", "HEIF": "the package pillow-heif"}[found]
            reason = f"that needs {needs}"
    if not found:
        return f"is no readable {FORMATS} ({reason})"
    as_named = _FORMATS.get(path.suffix.lower()) == found
    named = "" if as_named else f" named {path.suffix or '.'}"
    return f"is {_article(found)} {found}{named} that cannot be read ({reason})"


def _article(word: str) -> str:
    return "an" if word[0] in "AEIOU" else "a"


def _kind(image: Image.Image, suffix: str) -> str:
    """Format, size and mode of an image as opened, as "JPEG 9 x 9 grey".

    A wrong suffix is part of it.
    """
    # Phones write jpg files with several images, which Pillow calls MPO.
    stored = "JPEG" if image.format == "MPO" else image.format
    mode = "grey" if image.mode[0] in "1LIF" else "colour"
    kind = f"{stored} {image.width} x {image.height} {mode}"
    expected = _FORMATS.get(suffix.lower())  # lists may name files of any suffix
    return kind if expected == stored else f"{kind} named {suffix or '.'}"


def _intersection(box: Box | None, size: tuple[int, int]) -> Box | None:
    """Left, top, right and bottom of a box inside an image; None if it is outside."""
    left, top, width, height = box or (0, 0, *size)
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    left, top = max(left, 0), max(top, 0)
    return (left, top, right, bottom) if left < right and top < bottom else None


def upright(image: Image.Image, mode: str) -> Image.Image:
    """The image turned upright, in mode L or RGB, transparency on white.

    16 bit images are grey; they become 8 bit, in mode L.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
