"""Lists AffectNet in each of its layouts: which image shows which emotion, and where.

A. Mollahosseini, B. Hasani and M. H. Mahoor, "AffectNet: A database for facial
expression, valence, and arousal computing in the wild" (2017):

- `train_set` and `val_set`, with `images/<id>.jpg` and `annotations/<id>_exp.npy`;
- `training.csv` and `validation.csv` beside the pictures, in which a box has the face;
- class folders that are numbers, where the root's own name says that it is AffectNet.
"""

import csv
import dataclasses
import functools
import io
import math
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from fer_jax import emotions
from fer_jax.data.records import Box, Source, digest, either
from fer_jax.data.sources.class_folders import (
    MISSING,
    SUFFIXES,
    list_images,
    scan,
    stamp,
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
_LARGEST_LABEL = 4096  # bytes of a file that holds one number
_LONGEST_LINE = 2**16  # characters; 68 landmarks take about 1,000
_NO_TEST = (
    "AffectNet has no public test split, so papers report on its validation set, "
    "which is val here and chooses the epoch"
)


def find(root: Path) -> Source | None:
    """The AffectNet that `root` holds with annotations or lists; None for others.

    Raises:
      UserError: where it is of no use as a whole.
      OSError: where something may not be read.
    """
    if (root / "train_set/annotations").is_dir():
        return _with_annotations(root)
    with_lists = _header(root / _LISTS["train"])
    return _with_lists(root) if set(_COLUMNS) <= set(with_lists) else None


def find_numbered(root: Path, splits: Mapping[str, Path]) -> Source | None:
    """The AffectNet of numbered class folders; None where the root is not so named.

    Numbers alone do not tell: FER2013, FER+ and RAF-DB number differently.

    Args:
      root: the folder whose own name has "affectnet" in it, in any case.
      splits: the folders of its splits.

    Raises:
      UserError: where it is of no use as a whole.
      OSError: where something may not be read.
    """
    classes = {
        split: [entry.name for entry in scan(path) if os.path.isdir(entry)]
        for split, path in splits.items()
    }
    known = NUMBERS.keys() | LEFT_OUT.keys()
    told = "affectnet" in Path(os.path.abspath(root)).name.lower()
    if not told or not classes["train"] or not known.issuperset(classes["train"]):
        return None
    found = _Found(root)
    for split, path in splits.items():
        for number in classes[split]:
            for relative, times in list_images(root, path / number):
                found.add(split, relative, number, os.sep + relative, times)
    return found.source()


@dataclasses.dataclass
class _Found:
    """What was listed so far, below `root`."""

    root: Path
    emotions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, Box] = dataclasses.field(default_factory=dict)
    stats: list[tuple] = dataclasses.field(default_factory=list)
    bad: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    left_out: Counter = dataclasses.field(default_factory=Counter)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(
        self,
        split: str,
        relative: str,
        number: str,
        place: str,
        times: tuple[int, int] | None = None,
    ) -> bool:
        """Takes an image with its number, said at `place`; false if it is left out."""
        number = number.strip().removesuffix(".0")  # of numbers that were floats once
        if number in LEFT_OUT:
            self.left_out[split, number] += 1
            return False
        if number not in NUMBERS:
            text = f"{place} has the expression {number[:20]!r}, expected 0 to 10"
            self.bad.append((split, text))
            return False
        self.emotions.setdefault(split, {})[relative] = NUMBERS[number]
        times = times or stamp(self.root / relative)
        self.stats.append((relative, NUMBERS[number], times))
        return True

    def is_missing(self) -> bool:
        """Whether not one of the images that were named is there."""
        return bool(self.stats) and all(times == MISSING for *_, times in self.stats)

    def source(self) -> Source:
        """All of it as a source, its classes in the canonical order."""
        there = set(self.emotions.get("train", {}).values())
        class_names = tuple(name for name in emotions.KNOWN if name in there)
        if len(class_names) < 2:
            raise UserError(
                f"{self.root} has train images of {len(class_names)} of AffectNet's "
                "emotions, expected at least two; add the images and their labels"
            )
        listing = {}
        for split, images in self.emotions.items():
            if unknown := sorted(set(images.values()) - there):
                raise UserError(
                    f"{self.root} has {unknown[0]} images in {split} but none in "
                    f"train, expected {either(class_names)}; add some or remove them"
                )
            listing[split] = sorted(
                (relative, class_names.index(name)) for relative, name in images.items()
            )
        notes = [*self._left_out_note(), *self.notes]
        if "val" in listing and "test" not in listing:
            notes.append(_NO_TEST)
        return Source(
            kind="folder",
            description=f"{Path(os.path.abspath(self.root)).name}/ (AffectNet)",
            key=digest(
                "AffectNet", sorted(self.stats), sorted(self.boxes.items()), self.bad
            ),
            path=self.root,
            class_names=class_names,
            listing=listing,
            boxes=self.boxes,
            bad=tuple(self.bad),
            notes=tuple(notes),
        )

    def _left_out_note(self) -> Iterator[str]:
        if self.left_out:
            counts = ", ".join(
                f"{split} {count:,} {LEFT_OUT[number]}"
                for (split, number), count in sorted(self.left_out.items())
            )
            yield f"images whose label is no emotion were left out: {counts}"


# With annotations.


def _with_annotations(root: Path) -> Source:
    found = _Found(root)
    for split, name in _SETS.items():
        if not (root / name).is_dir():
            continue
        annotated = {
            entry.name.removesuffix(_SUFFIX)
            for entry in scan(root / name / "annotations")
            if entry.name.endswith(_SUFFIX)
        }
        images = {
            entry.name
            for entry in scan(root / name / "images")
            if entry.name.lower().endswith(SUFFIXES)
        }
        # Those that are missing are told when they are read.
        missing = annotated - {Path(image).stem for image in images}
        for image in sorted(images | {f"{each}.jpg" for each in missing}):
            relative = os.path.join(name, "images", image)
            label = os.path.join(name, "annotations", Path(image).stem + _SUFFIX)
            if Path(image).stem not in annotated:
                text = f"{os.sep}{relative} has no label, expected {label}"
                found.bad.append((split, text))
                continue
            try:
                number = _label(root / label)
            except ValueError as error:
                found.bad.append((split, f"{os.sep}{label} {error}"))
            else:
                found.add(split, relative, number, os.sep + label)
    return found.source()


def _label(path: Path) -> str:
    """The label in a .npy file, text or number; a ValueError says what is wrong."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_LABEL:
            raise ValueError("it is large or no file")
        with open(path, "rb") as file:
            return _parse(file.read(_LARGEST_LABEL))
    except Exception as error:  # a damaged header may raise nearly anything
        reason = " ".join(str(error).split())[:80]
        raise ValueError(
            f"cannot be used ({reason}), expected a .npy file of one number"
        ) from None


# 290,000 files have a dozen contents, and each takes a tenth of a millisecond to parse.
@functools.lru_cache(maxsize=1024)
def _parse(content: bytes) -> str:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.size != 1:
        raise ValueError(f"it has {array.size:,} values")
    return str(array.item())


# With lists.


def _with_lists(root: Path) -> Source:
    found, boxless = _Found(root), 0
    folder = next((name for name in _FOLDERS if (root / name).is_dir()), "")
    places: dict[str, str] = {}
    for split, name in _LISTS.items():
        if not (root / name).is_file():
            continue
        for number, row in _rows(root / name):
            place = f"{os.sep}{name}:{number}"
            image = PurePosixPath(row.get(_COLUMNS[0], "").strip())
            if not image.name or image.is_absolute() or ".." in image.parts:
                text = f"names the image {str(image)[:40]!r}, expected one below {root}"
                found.bad.append((split, f"{place} {text}"))
                continue
            relative = os.path.join(folder, image)
            if relative in places:
                text = f"names {image} again, after {places[relative]}, expected once"
                found.bad.append((split, f"{place} {text}"))
                continue
            places[relative] = f"{name}:{number}"
            if found.add(split, relative, row.get(_COLUMNS[1], ""), place):
                if box := _box(row):
                    found.boxes[relative] = box
                else:
                    boxless += 1
    if found.is_missing():
        raise UserError(
            f"{root} has none of the images that {_LISTS['train']} names, expected "
            f"them in {_FOLDERS[0]}; unpack them there"
        )
    if boxless:
        found.notes.append(f"{boxless:,} images have no face box and are read whole")
    return found.source()


def _header(path: Path) -> list[str]:
    """The column names of a csv; none where it is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return _cells(file.readline(_LONGEST_LINE))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and cells by column, each line read for itself."""
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


def _box(row: Mapping[str, str]) -> Box | None:
    """The face's left, top, width and height; None where they are no box."""
    try:
        values = [float(row[name]) for name in _BOX]
    except (KeyError, ValueError):
        return None
    if not all(map(math.isfinite, values)):
        return None
    left, top, width, height = (round(value) for value in values)
    return (left, top, width, height) if width > 0 and height > 0 else None
