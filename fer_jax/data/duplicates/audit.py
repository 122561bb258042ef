"""What is wrong with a data set: copies within and across splits, conflicts, blanks.

An audit is of pixels, so it finds copies across files and formats. It is made once for
a data set and kept in the cache folder under the data's fingerprint.
"""

import contextlib
import dataclasses
import time
import zipfile
from pathlib import Path

import numpy as np
from rich.console import Console

from fer_jax.data.duplicates import candidates
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.duplicates.search import Copies
from fer_jax.data.lazy_images import concatenate
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import SPLITS
from fer_jax.system.cache import cache_root
from fer_jax.system.files import replacing

FORMAT = 2  # raised when kept audits of before are no longer to be used
# What is to be said of near copies that were not looked for among all images.
IN_CELLS = (
    f"note: beyond {candidates.ALL_PAIRS:,} images near copies are looked for "
    "approximately, among the most similar images; a few are missed"
)
_ARRAYS = ("exact", "pairs", "correlation", "mirrored", "scale", "shift")


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found among the N images of a data set, split after split.

    Attributes:
      class_names: the classes.
      splits: the names of the splits, in order.
      split: int8 `[N]`, the split of each image, as a place in `splits`.
      labels: int32 `[N]`.
      rows: int32 `[N]`, each image's place in its source.
      blank: bool `[N]`, whether it shows nothing.
      copies: which images are copies of which.
    """

    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    split: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    blank: np.ndarray
    copies: Copies

    def of(self, split: str) -> np.ndarray:
        """Which images are of a split: bool `[N]`."""
        return self.split == self.splits.index(split)

    def identical(self, split: str) -> np.ndarray:
        """The first image of a split that each of its images is identical to: `[N]`."""
        groups = self.copies.exact[self.of(split)]
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        return first[group].astype(np.int32)

    def has_copy_in(self, other: str, *, near: bool) -> np.ndarray:
        """Which images have a copy among the others of a split: bool `[N]`.

        Args:
          other: the split in which copies are looked for.
          near: near copies count too.
        """
        exact, there = self.copies.exact, self.of(other)
        # How many images of the split each exact group has; an image is no copy of
        # itself.
        counts = np.bincount(exact[there], minlength=len(exact))
        found = counts[exact] - there > 0
        if near:
            first, second = self.copies.pairs.T
            linked = np.zeros(len(exact), bool)
            linked[first[counts[second] > 0]] = True
            linked[second[counts[first] > 0]] = True
            found |= linked[exact]
        return found

    def conflicts(self, *, near: bool) -> np.ndarray:
        """Which images have a copy with another label: int32 `[N]`, the group or -1.

        Groups are those of exact copies, or with `near` those that copies link.
        """
        groups = self.copies.groups() if near else self.copies.exact
        pairs = np.unique(np.stack([groups, self.labels], axis=1), axis=0)
        labels_of = np.bincount(pairs[:, 0], minlength=len(groups))
        return np.where(labels_of[groups] > 1, groups, -1).astype(np.int32)


def audit(dataset: Dataset, console: Console | None = None) -> Audit:
    """The audit of a data set, from the cache or made now and kept there."""
    console = console or Console(quiet=True)
    path = cache_root() / "audits" / f"{FORMAT}-{dataset.fingerprint}.npz"
    names = tuple(name for name in SPLITS if name in dataset.splits)
    parts = [dataset.splits[name] for name in names]
    sizes = [len(part.labels) for part in parts]
    copies, blank = _kept(path, sum(sizes)) or (None, None)
    if copies is None:
        started = time.monotonic()
        images = concatenate([part.images for part in parts])
        with console.status("looking for copies among the images"):
            copies, blank = duplicates.find(images), duplicates.blank(images)
        _keep(path, copies, blank)
        seconds = time.monotonic() - started
        console.print(
            f"looked for copies among {len(blank):,} images in {seconds:.0f} s"
        )
        if copies.in_cells:
            console.print(IN_CELLS)
    return Audit(
        class_names=dataset.class_names,
        splits=names,
        split=np.repeat(np.arange(len(names), dtype=np.int8), sizes),
        labels=np.concatenate([part.labels for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        blank=blank,
        copies=copies,
    )


def _kept(path: Path, count: int) -> tuple[Copies, np.ndarray] | None:
    """What an earlier audit found; None where none is whole."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _ARRAYS}
            blank, least = file["blank"], float(file["least"])
            # Audits from before there were cells compared all images.
            in_cells = "in_cells" in file and bool(file["in_cells"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if len(blank) != count or len(arrays["exact"]) != count:
        return None
    return Copies(**arrays, least=least, in_cells=in_cells), blank


def _keep(path: Path, copies: Copies, blank: np.ndarray) -> None:
    """Keeps an audit; where it cannot be kept, it is made again the next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: getattr(copies, key) for key in _ARRAYS}
        with replacing(path) as partial, partial.open("wb") as file:
            told = {"least": copies.least, "in_cells": copies.in_cells}
            np.savez_compressed(file, **arrays, blank=blank, **told)
