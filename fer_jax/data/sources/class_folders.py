"""Lists and decodes a folder `train|val|test/<class>/<images>`."""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer_jax import emotions
from fer_jax.data.records import (
    SPLITS,
    Box,
    Found,
    Problems,
    Source,
    digest,
    either,
    resize_to_square,
)
from fer_jax.errors import UserError

MAX_PIXELS = 64_000_000  # of one image; more is a mistake or a decompression bomb

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FORMATS = dict(zip(SUFFIXES, ("JPEG", "JPEG", "PNG", "BMP", "WEBP"), strict=True))
MISSING = (-1, -1)  # the stamp of what is not there

_NUMBERED = (
    "the classes are numbers, which FER2013, FER+, RAF-DB and AffectNet give to "
    "different emotions, so they stay numbers: name the folders neutral, happy and so "
    "on, or, if they are AffectNet's, have affectnet in the name of the data's folder"
)


def scan(path: Path) -> list[os.DirEntry]:
    """The entries of a folder by name, without the hidden ones."""
    # Ask os.path about entries: their own is_dir() raises on links that loop.
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def list_folder(root: Path, splits: dict[str, Path]) -> Source:
    """Lists the images of all splits, with a key of their names, sizes and times."""
    classes = {
        split: [entry.name for entry in scan(path) if os.path.isdir(entry)]
        for split, path in splits.items()
    }
    names = emotions.class_names(classes["train"])
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
            name = names.get(folder) or emotions.emotion(folder)
            if name not in class_names:
                raise UserError(
                    f"{splits[split] / folder} is a class that train lacks, expected "
                    f"{either(class_names)}; rename or remove it"
                )
            for relative, stat in list_images(root, splits[split] / folder):
                listing[split].append((relative, class_names.index(name)))
                stats.append((relative, *stat))
    listing = {split: files for split, files in listing.items() if files}
    description = f"{Path(os.path.abspath(root)).name}/ (folder)"
    notes = (_NUMBERED,) if all(map(str.isdecimal, class_names)) else ()
    # Copies that were prepared without what is now said are not used any more.
    key = digest("folder", class_names, stats, *notes)
    return Source("folder", description, key, root, class_names, listing, notes=notes)


def list_images(root: Path, folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """The images of a class folder, as paths from `root`, with their stamps.

    Raises:
      UserError: where there are none, or a folder is among them.
    """
    count = 0
    for entry in scan(folder):
        if os.path.isdir(entry):
            raise UserError(
                f"{entry.path} is a folder where images are expected; move its images "
                "up into the class folder, or remove it"
            )
        if not entry.name.lower().endswith(SUFFIXES):
            continue
        count += 1
        yield os.path.relpath(entry.path, root), stamp(entry.path)
    if not count:
        raise UserError(
            f"{folder} holds no {either(SUFFIXES)} image; add some or remove the folder"
        )


def stamp(path: str | os.PathLike) -> tuple[int, int]:
    """The size and the time of a file, by which a change is known."""
    try:
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns
    # Missing, a dangling or looping link, no possible name; told when it is read.
    except (OSError, ValueError):
        return MISSING


def read_folder(
    source: Source,
    image_size: int,
    channels: int,
    problems: Problems,
    advance: Callable[[float], None],
) -> Iterator[Found]:
    """The good images of a listed folder, split after split.

    Bad ones are noted in `problems`, and `advance` hears progress.
    """
    done, total = 0, sum(map(len, source.listing.values()))
    for split, text in source.bad:
        problems.add(split, text)
    for split, files in source.listing.items():
        for row, (relative, label) in enumerate(files):
            try:
                box = source.boxes.get(relative)
                path = source.path / relative
                image, kind = decode(path, image_size, channels, box)
            except ValueError as error:
                problems.add(split, f"{os.sep}{relative} {error}")
            else:
                yield Found(split, image, label, row, kind)
            done += 1
            if done % 256 == 0:
                advance(done / total)


def decode(
    path: Path, image_size: int, channels: int, box: Box | None = None
) -> tuple[np.ndarray, str]:
    """One image file as uint8 `[S, S, C]`, and its kind as it is stored.

    Raises:
      ValueError: what is wrong with it, in words that go on after its path.
    """
    # Opening a pipe would wait for ever. Path.is_file raises on too long a name.
    if not os.path.isfile(path):
        raise ValueError("is not a file, expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is no matter for the user
            # No other decoder gets to see the bytes: fewer parsers, fewer holes.
            with Image.open(path, formats=("JPEG", "PNG", "BMP", "WEBP")) as image:
                size = f"{image.width:,} x {image.height:,}"
                wrong = f"has {size} pixels, expected at most {MAX_PIXELS:,}"
                if image.width * image.height <= MAX_PIXELS:
                    kind = _kind(image, path.suffix)
                    image = upright(image, "RGB" if channels > 1 else "L")
                    if face := _inside(box, image.size):
                        pixels = np.asarray(image.crop(face))
                        return resize_to_square(pixels, image_size, channels), kind
                    wrong = f"has {size} pixels, expected some in its face box {box}"
    except Exception as error:  # Pillow's decoders raise a dozen kinds on bad bytes
        reason = " ".join(str(error).split()).replace(str(path), "it")[:100]
        raise ValueError(f"is no readable jpg, png, bmp or webp ({reason})") from None
    raise ValueError(wrong)


def _kind(image: Image.Image, suffix: str) -> str:
    """Format, size and mode of an image that was not touched yet, as "JPEG 9 x 9 grey".

    A suffix that lies is part of it.
    """
    # What phones write as jpg may hold several images, which Pillow calls MPO.
    stored = "JPEG" if image.format == "MPO" else image.format
    mode = "grey" if image.mode[0] in "1LIF" else "colour"
    kind = f"{stored} {image.width} x {image.height} {mode}"
    told = _FORMATS.get(suffix.lower())  # lists may name any file
    return kind if told == stored else f"{kind} named {suffix or '.'}"


def _inside(box: Box | None, size: tuple[int, int]) -> Box | None:
    """What of a box lies in an image: left, top, right and bottom; None for nothing."""
    left, top, width, height = box or (0, 0, *size)
    right, bottom = min(left + width, size[0]), min(top + height, size[1])
    left, top = max(left, 0), max(top, 0)
    return (left, top, right, bottom) if left < right and top < bottom else None


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Upright, in mode L or RGB; what is transparent becomes white, as on a page.

    16 bits, which are grey only, become 8, and the mode L.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: PIL's own conversion would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
