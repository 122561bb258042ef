"""The audit of a data set: copies within and across splits, conflicts and blanks.

It compares pixels, so it finds copies across files and formats. It is made once for a
data set and kept in the cache folder under the data's fingerprint.
"""

import contextlib
import dataclasses
import time
import zipfile
from pathlib import Path

import numpy as np
from rich.console import Console

from fer_jax.data.duplicates import search
from fer_jax.data.duplicates.search import Copies
from fer_jax.data.lazy_images import concatenate
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import SPLITS
from fer_jax.system.cache import cache_root
from fer_jax.system.files import replacing

FORMAT = 3  # raised when the kept audits of earlier versions must not be used
SHIPPED = Path(__file__).parent  # of known data sets, so that nobody searches them


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found among the N images of a data set, split by split.

    Attributes:
      class_names: the classes.
      splits: the names of the splits, in order.
      split: int8 `[N]`, the split of each image, an index into `splits`.
      labels: int32 `[N]`.
      rows: int32 `[N]`, as in `Split`.
      blank: bool `[N]`, whether an image shows nothing.
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
        """Which images are in a split: bool `[N]`."""
        return self.split == self.splits.index(split)

    def identical(self, split: str) -> np.ndarray:
        """The first identical image in a split, for each image of it: int32 `[N]`."""
        groups = self.copies.exact[self.of(split)]
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        return first[group].astype(np.int32)

    def has_copy_in(self, other: str, *, near: bool) -> np.ndarray:
        """Which images have a copy, other than themselves, in a split: bool `[N]`.

        Args:
          other: the split with the copies.
          near: whether near copies count.
        """
        exact, there = self.copies.exact, self.of(other)
        # How many images of the split are in each exact group.
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
        """The group of each image that has a copy with another label, or -1: `[N]`.

        Groups are of exact copies, or with `near` of exact and near copies.
        """
        groups = self.copies.groups() if near else self.copies.exact
        pairs = np.unique(np.stack([groups, self.labels], axis=1), axis=0)
        labels_of = np.bincount(pairs[:, 0], minlength=len(groups))
        return np.where(labels_of[groups] > 1, groups, -1).astype(np.int32)


def audit(dataset: Dataset, console: Console | None = None) -> Audit:
    """The audit of a data set, from the cache, or made now and kept there."""
    console = console or Console(quiet=True)
    name = f"{FORMAT}-{dataset.fingerprint}.npz"
    path = cache_root() / "audits" / name
    names = tuple(name for name in SPLITS if name in dataset.splits)
    parts = [dataset.splits[name] for name in names]
    sizes = [len(part.labels) for part in parts]
    # The package has the audit of the embedded set, which takes half a minute. It has
    # two, as with AVX-512 NumPy draws 12 of 7,833,600 pixels one level differently.
    kept = _load(path, sum(sizes)) or _load(SHIPPED / name, sum(sizes))
    if kept is None:
        started = time.monotonic()
        images = concatenate([part.images for part in parts])
        with console.status("searching the images for copies"):
            kept = search.find(images), search.blank(images)
        _save(path, *kept)
        seconds = time.monotonic() - started
        console.print(f"searched {len(images):,} images for copies in {seconds:.0f} s")
    copies, blank = kept
    return Audit(
        class_names=dataset.class_names,
        splits=names,
        split=np.repeat(np.arange(len(names), dtype=np.int8), sizes),
        labels=np.concatenate([part.labels for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        blank=blank,
        copies=copies,
    )


def _load(path: Path, count: int) -> tuple[Copies, np.ndarray] | None:
    """The kept copies and blanks; None if there are none, or they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        blank, least = arrays.pop("blank"), float(arrays.pop("least"))
        copies = Copies(**arrays, least=least)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    return (copies, blank) if len(blank) == len(copies.exact) == count else None


def _save(path: Path, copies: Copies, blank: np.ndarray) -> None:
    """Keeps an audit; if that fails, the next run makes it again."""
    arrays = dataclasses.asdict(copies)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, blank=blank, **arrays)
