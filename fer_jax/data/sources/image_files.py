"""Reads image files: format, orientation, transparency, colour and size."""

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
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FORMATS = dict(zip(SUFFIXES, ("JPEG", "JPEG", "PNG", "BMP", "WEBP"), strict=True))


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
    # Opening a pipe would wait forever. Path.is_file raises if a name is too long.
    if not os.path.isfile(path):
        raise ValueError("is not a file, expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata does not matter here
            # A short list of decoders is a small attack surface.
            with Image.open(path, formats=("JPEG", "PNG", "BMP", "WEBP")) as image:
                size = f"{image.width:,} x {image.height:,}"
                wrong = f"has {size} pixels, expected at most {MAX_PIXELS:,}"
                if image.width * image.height <= MAX_PIXELS:
                    kind = _kind(image, path.suffix)
                    whole = upright(image, "RGB" if shape[2] > 1 else "L")
                    if inside := _intersection(box, whole.size):
                        pixels = np.asarray(whole.crop(inside))
                        return resize_to_square(pixels, shape[0], shape[2]), kind
                    wrong = f"has {size} pixels, expected some in its face box {box}"
    except Exception as error:  # Pillow's decoders raise a dozen kinds on bad bytes
        reason = " ".join(str(error).split()).replace(str(path), "it")[:100]
        raise ValueError(f"is no readable jpg, png, bmp or webp ({reason})") from None
    raise ValueError(wrong)


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
