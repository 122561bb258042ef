"""Finds the source that a data root names, reads it and checks it as a whole.

Sources are never changed. An unusable file is a `UserError` at once; bad rows and
images are collected, so that one message covers them all.
"""

import contextlib
import copy
import dataclasses
import hashlib
import os
import re
import zipfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_jax.data.records import (
    SPLITS,
    UNKNOWN,
    Found,
    Problems,
    Shape,
    Source,
    Split,
    Stored,
    digest,
    few_kinds,
    resize_to_square,
)
from fer_jax.data.sources import affectnet, drawn_faces, rafdb
from fer_jax.data.sources.class_folders import list_folder
from fer_jax.data.sources.fer2013_csv import read_csv, read_layout
from fer_jax.data.sources.image_files import SUFFIXES, read_folder
from fer_jax.data.sources.listing import scan
from fer_jax.errors import UserError

if TYPE_CHECKING:  # importing it would import TFDS
    from fer_jax.data.array_records import RecordWriter

_WRAPPERS = 2  # folders around the data that are looked through
_SIZE, _SQUARE = re.compile(r"(\d+) x (\d+)"), 1.25  # of sides, at most, in a crop
_FOLDERS = {name: name for name in SPLITS} | {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "train_set": "train",
    "val_set": "val",
    "test_set": "test",
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a source holds.

    Attributes:
      splits: the good images.
      problems: the bad rows and images.
      notes: what the user must know.
      stored: by split, how its images are stored.
      class_names: those of the source that train has images of.
    """

    splits: dict[str, Split]
    problems: Problems
    notes: tuple[str, ...]
    stored: Stored
    class_names: tuple[str, ...]


def locate(data_root: str | None) -> Source:
    """The source at `data_root`; None is `FER_DATA_ROOT`, or else the embedded set.

    Raises:
      UserError: if there is none, or it is neither a csv nor a folder of images.
    """
    path = check_root(data_root)
    if path is None:
        key = digest("embedded", drawn_faces.VERSION, sorted(drawn_faces.SIZES.items()))
        return Source("embedded", "embedded set (drawn faces)", key)
    try:
        return _locate_in_folder(path) if path.is_dir() else _csv(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def check_root(data_root: str | None) -> Path | None:
    """The file or folder that `data_root` names, unread; None for the embedded set.

    Raises:
      UserError: if it does not exist, or is neither.
    """
    root = data_root
    if root is None:
        root = os.environ.get("FER_DATA_ROOT") or None
    if root is None:
        return None
    if not root.strip():  # "$UNSET" in a script must not select the embedded set
        raise UserError("--data_root is empty, expected a path; give one or omit it")
    path = Path(os.path.expanduser(root))
    try:
        path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder; give a csv")
    return path


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{error.filename or path} cannot be read ({error.strerror}); give "
        "--data_root a fer2013.csv or a folder with train/<class>/<images>"
    )


def _csv(path: Path) -> Source:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
        if any(name.endswith(SUFFIXES) for name in names) and not any(
            n.endswith(".csv") for n in names
        ):
            raise UserError(
                f"{path} is a zip of images; unzip it, and give --data_root the folder"
            )
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    layout = read_layout(path)
    undivided = layout.usage is None
    return Source("csv", path.name, digest("csv", content), path, undivided=undivided)


def _locate_in_folder(root: Path, given: Path | None = None) -> Source:
    """The source in a folder, or in the only folder of it, `_WRAPPERS` deep at most.

    `given`: the data root, if `root` is a folder inside of it.
    """
    given, entries = given or root, scan(root)
    splits: dict[str, Path] = {}
    for entry in entries:
        split = _FOLDERS.get(entry.name.lower())
        if split and os.path.isdir(entry):
            if split in splits:
                both = f"{splits[split].name} and {entry.name}"
                raise UserError(f"{root} holds both {both}; keep one of them")
            splits[split] = Path(entry.path)
    if source := rafdb.find(root) or affectnet.find(root, splits):
        return source
    found = [] if root == given else [f"the data are in {root.relative_to(given)}"]
    if "train" in splits:
        return list_folder(root, splits, found)
    names = [entry.name for entry in entries if os.path.isfile(entry)]
    for prefix in ("fer2013.csv", "icml_face_data.csv", ""):
        suffix = "" if prefix else ".csv"
        files = [
            name
            for name in names
            if name.lower().startswith(prefix) and name.lower().endswith(suffix)
        ]
        if len(files) > 1:
            raise UserError(f"{root} holds {' and '.join(files)}; name one of them")
        if files:
            return _csv(root / files[0])
    folders = [Path(entry.path) for entry in entries if os.path.isdir(entry)]
    if sum(map(_has_images, folders)) > 1 and not splits:
        return list_folder(root, {"train": root}, found)
    depth = len(root.relative_to(given).parts)
    if len(folders) == 1 and depth < _WRAPPERS and not splits:
        with contextlib.suppress(_Nothing):
            return _locate_in_folder(folders[0], given)
    raise _Nothing(
        f"{given} has neither a train folder, nor folders of classes, nor a "
        "fer2013.csv; expected train/<class>/<images>, <class>/<images>, one csv, or "
        "RAF-DB or AffectNet as shipped"
    )


class _Nothing(UserError):
    """There is no source in a folder."""


def _has_images(folder: Path) -> bool:
    return any(
        entry.name.lower().endswith(SUFFIXES) and not os.path.isdir(entry)
        for entry in scan(folder)
    )


def read(
    source: Source,
    shape: Shape,
    store: "RecordWriter",
    *,
    skip_bad: bool = False,
    advance: Callable[[float], None] = lambda fraction: None,
) -> Contents:
    """Reads all images of `source` and adds them to `store` one by one.

    Args:
      source: of `locate`.
      shape: (S, S, C) of the images; grey values are repeated if C is 3.
      store: receives the images.
      skip_bad: drop and count bad rows and images instead of refusing them.
      advance: called now and then with the fraction done.

    Raises:
      UserError: if a file is unusable, if a split or class has no images, and (without
        `skip_bad`) if a row or an image is bad.
    """
    readers = {"csv": read_csv, "folder": read_folder, "embedded": _read_embedded}
    problems = copy.deepcopy(source.problems)
    # By split: label and row of each image, in 8 bytes where lists would take 130.
    columns: dict[str, array[int]] = defaultdict(lambda: array("i"))
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for found in readers[source.kind](source, shape, problems, advance):
        if problems.counts and not skip_bad:
            continue  # the rest is read to count its problems
        store.add(found.split, found.image)
        columns[found.split].extend((found.label, found.row))
        kinds[found.split][found.kind] += 1
    if not skip_bad:
        problems.check(source.path)
    notes = list(source.notes)
    if problems.counts:
        counts = ", ".join(f"{name} {n:,}" for name, n in problems.counts.items())
        notes.append(f"bad rows or images were dropped: {counts}")
    if source.kind == "folder" and not source.boxes:
        notes += _photographs(kinds)
    for split in sorted(problems.counts.keys() - columns.keys() - {UNKNOWN}):
        raise UserError(f"{source.path} has no good image in {split}; mend some")
    images, splits = store.images(), {}
    for name in SPLITS:
        if name in images:
            labels, rows = np.array(columns[name], np.int32).reshape(-1, 2).T
            splits[name] = Split(images[name], labels, rows)
    class_names = _present_classes(source, splits)
    if absent := [name for name in source.class_names if name not in class_names]:
        notes.append(
            f"train has no image of {', '.join(absent)}; the classes are "
            f"{', '.join(class_names)}"
        )
        splits = _renumbered(splits, source.class_names, class_names)
    stored = {name: few_kinds(kinds[name]) for name in SPLITS if name in kinds}
    return Contents(splits, problems, tuple(notes), stored, class_names)


def _photographs(kinds: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence if images are too wide or high to be crops of faces."""
    wide = total = 0
    for of_split in kinds.values():
        for kind, count in of_split.items():
            total += count
            if size := _SIZE.search(kind):
                width, height = map(int, size.groups())
                wide += count * (max(width, height) > _SQUARE * min(width, height))
    if not wide:
        return []
    return [
        f"{wide:,} of {total:,} images are not square, as crops of faces are: the "
        "middle of each is taken, and no face is looked for; predict FOLDER --crops "
        "DIR finds the faces and writes crops of them"
    ]


def _present_classes(source: Source, splits: dict[str, Split]) -> tuple[str, ...]:
    """The classes that train has images of.

    Raises:
      UserError: if they are fewer than two, or another split has images of others.
    """
    if "train" not in splits:
        raise UserError(
            f"{source.path} has no Training rows; add them, or remove the column Usage "
            "to have the rows split"
        )
    names, num = source.class_names, len(source.class_names)
    in_train = np.bincount(splits["train"].labels, minlength=num) > 0
    present = tuple(name for name, kept in zip(names, in_train, strict=True) if kept)
    if len(present) < 2:
        raise UserError(
            f"{source.path} has good train images of {' and '.join(present)} only, "
            "expected at least two classes; add images of other emotions"
        )
    for split, found in splits.items():
        counts = np.bincount(found.labels, minlength=num)
        for label in np.flatnonzero((counts > 0) & ~in_train):
            raise UserError(
                f"{source.path} has {counts[label]:,} {names[label]} images in {split} "
                "but no good ones in train; add some there, or remove these"
            )
    return present


def _renumbered(
    splits: dict[str, Split], old: tuple[str, ...], new: tuple[str, ...]
) -> dict[str, Split]:
    """The splits with labels that index `new` instead of `old`."""
    places = np.array([new.index(n) if n in new else -1 for n in old], np.int32)
    return {
        name: dataclasses.replace(split, labels=places[split.labels])
        for name, split in splits.items()
    }


def _read_embedded(
    source: Source, shape: Shape, problems: Problems, advance: Callable[[float], None]
) -> Iterator[Found]:
    for number, split in enumerate(drawn_faces.SIZES, 1):
        images, labels = drawn_faces.generate(split)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            image = resize_to_square(image, shape[0], shape[2])
            yield Found(split, image, int(label), row, "48 x 48 grey")
        advance(number / len(drawn_faces.SIZES))
