"""Lists AffectNet in each of its layouts.

A. Mollahosseini, B. Hasani and M. H. Mahoor, "AffectNet: A database for facial
expression, valence, and arousal computing in the wild" (2017):

- `train_set` and `val_set`, with `images/<id>.jpg` and `annotations/<id>_exp.npy`;
- `training.csv` and `validation.csv` beside the images, with a box around each face;
- class folders named by numbers, in a folder that has "affectnet" in its name.
"""

import csv
import functools
import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from fer_jax.data.records import Box, Source
from fer_jax.data.sources.image_files import SUFFIXES
from fer_jax.data.sources.listing import (
    MISSING,
    Listing,
    class_folders,
    image_paths,
    scan,
)
from fer_jax.errors import UserError

EMOTIONS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry")
NUMBERS = {str(n): name for n, name in enumerate((*EMOTIONS, "contempt"))}
LEFT_OUT = {"8": "none", "9": "uncertain", "10": "no face"}

_SETS = {"train": "train_set", "val": "val_set"}
_SUFFIX = "_exp.npy"
_LISTS = {"train": "training.csv", "val": "validation.csv"}
_FOLDERS = ("Manually_Annotated_Images", "Manually_Annotated/Manually_Annotated_Images")
_COLUMNS = ("subDirectory_filePath", "expression")
_BOX = ("face_x", "face_y", "face_width", "face_height")
_LARGEST_LABEL = 4096  # bytes of a file with one number
_LONGEST_LINE = 2**16  # characters; 68 landmarks take about 1,000
_NO_TEST = (
    "AffectNet has no public test split; papers report its validation set, which is "
    "val here and selects the epoch"
)


def find(root: Path, splits: Mapping[str, Path]) -> Source | None:
    """The AffectNet in `root`; None if there is none.

    Args:
      root: the folder of the data set.
      splits: the folders that are named like splits.

    Raises:
      UserError: if it is unusable as a whole.
      OSError: if something cannot be read.
    """
    listing = Listing(root, "AffectNet")
    if (root / "train_set/annotations").is_dir():
        _with_annotations(listing)
    elif set(_COLUMNS) <= set(_header(root / _LISTS["train"])):
        _with_lists(listing)
    elif _is_numbered(root, splits):
        _with_folders(listing, splits)
    else:
        return None
    if listing.images["val"]:
        listing.notes.append(_NO_TEST)
    return listing.source()


def _add(listing: Listing, split: str, path: str, number: str) -> bool:
    """Adds an image by the number of its label; false if it is left out.

    Raises:
      ValueError: if there is no such label, as a continuation of its place.
    """
    number = number.strip().removesuffix(".0")  # tables may hold 3.0 for 3
    if number in LEFT_OUT:
        listing.leave_out(split, LEFT_OUT[number])
        return False
    if number not in NUMBERS:
        raise ValueError(f"has the expression {number[:20]!r}, expected 0 to 10")
    listing.add(split, path, NUMBERS[number])
    return True


# With numbered folders.


def _is_numbered(root: Path, splits: Mapping[str, Path]) -> bool:
    """Whether class folders are AffectNet's, by the name of `root`.

    Numbers alone do not identify it: FER2013, FER+ and RAF-DB number differently.
    """
    if "affectnet" not in Path(os.path.abspath(root)).name.lower():
        return False
    train = set(class_folders(splits).get("train", ()))
    return bool(train) and train <= NUMBERS.keys() | LEFT_OUT.keys()


def _with_folders(listing: Listing, splits: Mapping[str, Path]) -> None:
    for split, numbers in class_folders(splits).items():
        for number in numbers:
            for path in image_paths(
                listing.root, splits[split] / number, listing.unread
            ):
                try:
                    _add(listing, split, path, number)
                except ValueError as error:
                    listing.problems.add(split, f"{os.sep}{path} {error}")


# With annotations.


def _with_annotations(listing: Listing) -> None:
    for split, name in _SETS.items():
        folder = listing.root / name
        if not folder.is_dir():
            continue
        annotated = {
            entry.name.removesuffix(_SUFFIX)
            for entry in scan(folder / "annotations")
            if entry.name.endswith(_SUFFIX)
        }
        images = {
            entry.name
            for entry in scan(folder / "images")
            if entry.name.lower().endswith(SUFFIXES)
        }
        # Reading the images reports those that are missing.
        missing = annotated - {Path(image).stem for image in images}
        for image in sorted(images | {f"{each}.jpg" for each in missing}):
            path = os.path.join(name, "images", image)
            label = os.path.join(name, "annotations", Path(image).stem + _SUFFIX)
            place = label
            try:
                if Path(image).stem not in annotated:
                    place = path
                    raise ValueError(f"has no label, expected {label}")
                _add(listing, split, path, _label(listing.root / label))
            except ValueError as error:
                listing.problems.add(split, f"{os.sep}{place} {error}")


def _label(path: Path) -> str:
    """The label in a .npy file, text or number.

    Raises:
      ValueError: what is wrong with the file, as a continuation of its path.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_LABEL:
            raise ValueError("it is large or no file")
        with open(path, "rb") as file:
            return _parse(file.read(_LARGEST_LABEL))
    except Exception as error:  # a damaged header can raise nearly anything
        reason = " ".join(str(error).split())[:80]
        raise ValueError(
            f"cannot be used ({reason}), expected a .npy file of one number"
        ) from None


# 290,000 files have a dozen contents, and parsing one takes a tenth of a millisecond.
@functools.lru_cache(maxsize=1024)
def _parse(content: bytes) -> str:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.size != 1:
        raise ValueError(f"it has {array.size:,} values")
    return str(array.item())


# With lists.


def _with_lists(listing: Listing) -> None:
    root, boxless = listing.root, 0
    folder = next((name for name in _FOLDERS if (root / name).is_dir()), "")
    places: dict[str, str] = {}
    for split, name in _LISTS.items():
        if not (root / name).is_file():
            continue
        for number, row in _rows(root / name):
            try:
                path = _image_path(folder, row, places)
                places[path] = f"{name}:{number}"
                if _add(listing, split, path, row.get(_COLUMNS[1], "")):
                    if box := _box(row):
                        listing.boxes[path] = box
                    else:
                        boxless += 1
            except ValueError as error:
                listing.problems.add(split, f"{os.sep}{name}:{number} {error}")
    if listing.stamps and set(listing.stamps.values()) == {MISSING}:
        raise UserError(
            f"{root} has none of the images in {_LISTS['train']}, expected them in "
            f"{_FOLDERS[0]}; unpack them there"
        )
    if boxless:
        listing.notes.append(f"{boxless:,} images have no face box and are read whole")


def _header(path: Path) -> list[str]:
    """The column names of a csv; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return _cells(file.readline(_LONGEST_LINE))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column; a stray quote affects one line only."""
    columns = _header(path)
    if missing := sorted(set(_COLUMNS) - set(columns)):
        raise UserError(
            f"{path} has no column {missing[0]}, expected a header line with "
            f"{' and '.join(_COLUMNS)}; give AffectNet's own lists"
        )
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = iter(lambda: file.readline(_LONGEST_LINE), "")
        for number, line in enumerate(lines, 1):
            if number > 1 and line.strip():
                yield number, dict(zip(columns, _cells(line), strict=False))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]), [])]


def _image_path(folder: str, row: Mapping[str, str], places: Mapping[str, str]) -> str:
    """The path of a row's image, which must be inside the data and new."""
    image = PurePosixPath(row.get(_COLUMNS[0], "").strip())
    if not image.name or image.is_absolute() or ".." in image.parts:
        raise ValueError(
            f"names the image {str(image)[:40]!r}, expected a path inside the folder"
        )
    path = os.path.join(folder, image)
    if path in places:
        raise ValueError(f"names {image} again, after {places[path]}, expected once")
    return path


def _box(row: Mapping[str, str]) -> Box | None:
    """Left, top, width and height of the face; None if they are not a box."""
    try:
        values = [float(row[name]) for name in _BOX]
    except (KeyError, ValueError):
        return None
    if not all(map(math.isfinite, values)):
        return None
    left, top, width, height = (round(value) for value in values)
    return (left, top, width, height) if width > 0 and height > 0 else None
