"""Finds what a data root names, reads it, and checks it as a whole.

Everything here is read-only and strict. What concerns a whole file is a `UserError`
at once; bad rows and images are collected, so that one report covers them all.
"""

import dataclasses
import hashlib
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fer_jax.data.array_records import RecordWriter, Shape
from fer_jax.data.records import (
    SPLITS,
    UNKNOWN,
    Found,
    Problems,
    Source,
    Split,
    Stored,
    digest,
    few_kinds,
    resize_to_square,
)
from fer_jax.data.sources import (
    affectnet as affectnet_source,
)
from fer_jax.data.sources import (
    drawn_faces as embedded,
)
from fer_jax.data.sources import (
    rafdb as rafdb_source,
)
from fer_jax.data.sources.class_folders import list_folder, read_folder, scan
from fer_jax.data.sources.fer2013_csv import read_csv
from fer_jax.errors import UserError

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
    """What was read: the splits, what was left out, and what to say about it.

    `stored` tells, of each split of the source, how its images are stored.
    """

    splits: dict[str, Split]
    problems: Problems
    notes: tuple[str, ...]
    stored: Stored


def locate(data_root: str | None) -> Source:
    """Finds what `data_root` names; None is `FER_DATA_ROOT`, or the embedded set.

    Raises:
      UserError: where nothing is there, or it is neither a csv nor class folders.
    """
    root = os.environ.get("FER_DATA_ROOT") or None if data_root is None else data_root
    if root is None:
        key = digest("embedded", embedded.VERSION, sorted(embedded.SIZES.items()))
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
            content = hashlib.file_digest(file, "sha256").hexdigest()
        return Source("csv", path.name, digest("csv", content), path)
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}); give "
            "--data_root a fer2013.csv or a folder with train/<class>/<images>"
        ) from None


def read(
    source: Source,
    shape: Shape,
    store: RecordWriter,
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
      UserError: where a file is unusable, where a split or class has no images, and
        (without `skip_bad`) where a row or an image is bad.
    """
    readers = {"csv": read_csv, "folder": read_folder, "embedded": _read_embedded}
    problems = Problems()
    # Of each image its label and its row, 8 bytes where a list would take 130.
    told: dict[str, array] = defaultdict(lambda: array("i"))
    kinds: dict[str, Counter] = defaultdict(Counter)
    reader = readers[source.kind]
    for found in reader(source, shape[0], shape[2], problems, advance):
        if problems.counts and not skip_bad:
            continue  # the rest is read for what is wrong with it
        store.add(found.split, found.image)
        told[found.split].extend((found.label, found.row))
        kinds[found.split][found.kind] += 1
    if not skip_bad:
        problems.check(source.path)
    notes = list(source.notes)
    if problems.counts:
        counts = ", ".join(f"{name} {n:,}" for name, n in problems.counts.items())
        notes.append(f"bad rows or images were dropped: {counts}")
    for split in sorted(problems.counts.keys() - told.keys() - {UNKNOWN}):
        raise UserError(f"{source.path} has no good image in {split}; mend some")
    splits = {
        split: Split(images, *np.array(told[split], np.int32).reshape(-1, 2).T)
        for split, images in store.images().items()
    }
    _check_classes(source, splits)
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    stored = {name: few_kinds(kinds[name]) for name in SPLITS if name in kinds}
    return Contents(ordered, problems, tuple(notes), stored)


def _check_classes(source: Source, splits: dict[str, Split]) -> None:
    if "train" not in splits:
        raise UserError(
            f"{source.path} has no Training rows; add them, or give another"
        )
    counts = np.bincount(splits["train"].labels, minlength=len(source.class_names))
    for name, count in zip(source.class_names, counts, strict=True):
        if not count:
            raise UserError(
                f"{source.path} has 0 good train images of the class {name!r}, "
                "expected at least 1; add some, or leave the class out"
            )


def _read_embedded(
    source: Source,
    image_size: int,
    channels: int,
    problems: Problems,
    advance: Callable[[float], None],
) -> Iterator[Found]:
    for i, split in enumerate(embedded.SIZES):
        images, targets = embedded.generate(split)
        for row, (image, label) in enumerate(zip(images, targets, strict=True)):
            image = resize_to_square(image, image_size, channels)
            yield Found(split, image, int(label), row, "48 x 48 grey")
        advance((i + 1) / len(embedded.SIZES))


def _locate_in_folder(root: Path) -> Source:
    if source := rafdb_source.find(root) or affectnet_source.find(root):
        return source
    entries = scan(root)
    splits: dict[str, Path] = {}
    for entry in entries:
        split = _FOLDERS.get(entry.name.lower())
        if split and os.path.isdir(entry):
            if split in splits:
                names = f"{splits[split].name} and {entry.name}"
                raise UserError(f"{root} holds both {names}; keep one of them")
            splits[split] = Path(entry.path)
    if "train" in splits:
        numbered = affectnet_source.find_numbered(root, splits)
        return numbered or list_folder(root, splits)
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
        "train/<class>/<images>, one csv, or RAF-DB or AffectNet as shipped"
    )
