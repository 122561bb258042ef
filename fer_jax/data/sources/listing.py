"""Collects the labelled images of a folder, in whatever layout they come."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from fer_jax import emotions
from fer_jax.data.records import SPLITS, Box, Problems, Source, digest, either
from fer_jax.data.sources.image_files import FORMATS, SUFFIXES
from fer_jax.errors import UserError

_NAMED = 5  # unread files in a note
MISSING = (-1, -1)  # the stamp of a file that is not there


class Listing:
    """The images of one folder, and what is wrong with its labels.

    Attributes:
      root: the folder; all paths are relative to it.
      images: by split, the class name of each path.
      stamps: the size in bytes and time of change in ns of each path.
      boxes: the face box of each path that has one.
      problems: bad labels.
      notes: what the user must know.
    """

    def __init__(self, root: Path, layout: str) -> None:
        self.root, self.layout = root, layout
        self.images: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
        self.stamps: dict[str, tuple[int, int]] = {}
        self.boxes: dict[str, Box] = {}
        self.problems = Problems()
        self.notes: list[str] = []
        self.unread: list[str] = []  # paths of files that are no images of a class
        self._left_out: Counter[tuple[str, str]] = Counter()

    def add(self, split: str, path: str, class_name: str) -> None:
        """Adds an image; a missing one is reported when it is read."""
        self.images[split][path] = class_name
        try:
            status = os.stat(self.root / path)
            self.stamps[path] = status.st_size, status.st_mtime_ns
        except (OSError, ValueError):  # a broken link or an impossible name too
            self.stamps[path] = MISSING

    def leave_out(self, split: str, label: str) -> None:
        """Counts an image whose label is not an emotion."""
        self._left_out[split, label] += 1

    def source(self) -> Source:
        """All images as a `Source`; the classes are those of train.

        Raises:
          UserError: if train has fewer than two classes, or lacks one of another split.
        """
        names = emotions.class_names(self.images["train"].values())
        class_names = tuple(dict.fromkeys(names.values()))
        if len(class_names) < 2:
            self.problems.check(self.root)  # bad labels explain it better
            raise UserError(
                f"{self.root} has train images of {len(class_names)} classes, expected "
                "at least two; add images of other emotions"
            )
        listing: dict[str, list[tuple[str, int]]] = {}
        for split, images in self.images.items():
            for path, given in sorted(images.items()):
                name = names.get(given) or emotions.emotion(given)
                if name not in class_names:
                    raise UserError(
                        f"{self.root} has {given} images in {split} but none in train, "
                        f"expected {either(class_names)}; add some or remove them"
                    )
                listing.setdefault(split, []).append((path, class_names.index(name)))
        notes = tuple(self.notes)
        if self._left_out:
            counts = ", ".join(
                f"{split} {count:,} {label}"
                for (split, label), count in sorted(self._left_out.items())
            )
            notes = (f"images without an emotion label are left out: {counts}", *notes)
        if self.unread:
            files = (
                "1 file is"
                if len(self.unread) == 1
                else f"{len(self.unread):,} files are"
            )
            named = ", ".join(sorted(self.unread)[:_NAMED])
            more = len(self.unread) - _NAMED
            named += f" and {more:,} more" if more > 0 else ""
            notes = (
                *notes,
                f"{files} no image of a class folder and not read: {named}",
            )
        stamps = [self.stamps[path] for files in listing.values() for path, _ in files]
        boxes = sorted(self.boxes.items())
        return Source(
            kind="folder",
            description=f"{Path(os.path.abspath(self.root)).name}/ ({self.layout})",
            key=digest(class_names, listing, stamps, boxes, self.problems, notes),
            path=self.root,
            class_names=class_names,
            listing=listing,
            boxes=self.boxes,
            problems=self.problems,
            notes=notes,
        )


def scan(path: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without hidden ones."""
    # os.path.isdir(entry) is safe; entry.is_dir() raises on links that loop.
    with os.scandir(path) as entries:
        shown = [entry for entry in entries if not is_hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or what macOS adds to its zips."""
    return name.startswith(".") or name == "__MACOSX"


def class_folders(splits: Mapping[str, Path]) -> dict[str, list[str]]:
    """By split, the names of its class folders."""
    return {
        split: [entry.name for entry in scan(path) if os.path.isdir(entry)]
        for split, path in splits.items()
    }


def loose_files(root: Path, splits: Mapping[str, Path]) -> Iterator[str]:
    """The files beside class folders, as paths relative to `root`."""
    for folder in splits.values():
        for entry in scan(folder):
            if not os.path.isdir(entry):
                yield os.path.relpath(entry.path, root)


def image_paths(root: Path, folder: Path, unread: list[str]) -> Iterator[str]:
    """The images of a class folder, as paths relative to `root`.

    Other files are added to `unread`.

    Raises:
      UserError: if there is none, or if there is a folder among them.
    """
    count = 0
    for entry in scan(folder):
        if os.path.isdir(entry):
            raise UserError(
                f"{entry.path} is a folder where images are expected; move its images "
                "up into the class folder, or remove it"
            )
        if entry.name.lower().endswith(SUFFIXES):
            count += 1
            yield os.path.relpath(entry.path, root)
        else:
            unread.append(os.path.relpath(entry.path, root))
    if not count:
        raise UserError(
            f"{folder} has no {FORMATS} image; add some or remove the folder"
        )
