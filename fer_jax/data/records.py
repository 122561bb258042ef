"""What all data sources share: splits, images as they are found, and problems."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fer_jax import emotions
from fer_jax.data.lazy_images import Images
from fer_jax.errors import UserError

SPLITS = ("train", "val", "test")
USAGES = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}  # FER2013's
UNKNOWN = "unknown"  # the split of a row that names none
MAX_PROBLEMS = 100_000  # that are kept in words
Shape = tuple[int, int, int]  # (S, S, C) of an image
Box = tuple[int, int, int, int]  # left, top, width and height, in pixels
# By split: how many images are stored in which format, size and mode.
Stored = dict[str, dict[str, int]]
OTHERS, MISNAMED = "others", "others, misnamed"

_MOST_KINDS = 20  # pictures from the web have as many sizes as there are pictures


@dataclasses.dataclass(frozen=True)
class Split:
    """The images of one split, in the order of the source.

    Attributes:
      images: uint8 `[N, S, S, C]`, 0..255: grey (C = 1) or RGB (C = 3), in memory or
        stored.
      labels: int32 `[N]`, indices into the class names; -1 in val and test for images
        that the selected labels leave out.
      rows: int32 `[N]`, ascending: the row of the csv (0 is the first after the
        header), the position in the sorted listing of a folder, or the index of a
        drawn face.
      soft: float32 `[N, C]`, rows that sum to 1, or None; `labels` is its argmax.
      label_sets: of val and test, by name, int32 `[N]`: the images' labels in other
        label sets, or -1.
    """

    images: Images
    labels: np.ndarray
    rows: np.ndarray
    soft: np.ndarray | None = None
    label_sets: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def take(self, keep: np.ndarray) -> "Split":
        """The images where `keep`, bool `[N]`, is true."""
        soft = None if self.soft is None else self.soft[keep]
        sets = {name: labels[keep] for name, labels in self.label_sets.items()}
        return Split(self.images[keep], self.labels[keep], self.rows[keep], soft, sets)


class Found(NamedTuple):
    """A good image of a source."""

    split: str
    image: np.ndarray  # uint8 [S, S, C]
    label: int
    row: int
    kind: str  # how it is stored: format (if it has one), size and mode


@dataclasses.dataclass
class Problems:
    """Bad rows or images: the first 100,000 in words, and a count by split."""

    first: list[str] = dataclasses.field(default_factory=list)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, split: str, text: str) -> None:
        """Adds a problem; `text` continues the path of the source."""
        self.counts[split] = self.counts.get(split, 0) + 1
        if len(self.first) < MAX_PROBLEMS:
            self.first.append(text)

    def check(self, path: Path | None) -> None:
        """Raises a `UserError` that names the first problem, if there is one."""
        if not self.counts:
            return
        more = sum(self.counts.values()) - 1
        others = f", and {more:,} more are bad" if more else ""
        raise UserError(
            f"{path}{self.first[0]}{others}; mend them or drop them with --skip_bad"
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A data root before any image is read.

    Attributes:
      kind: "embedded", "csv" or "folder".
      description: the source in words.
      key: a digest that changes with the content.
      path: the file or folder; None for the embedded set.
      class_names: the classes, in the order of the labels.
      listing: for a folder, by split, sorted (relative path, label) pairs.
      boxes: by relative path, the part of an image to read, if not all of it.
      problems: bad labels in the listing.
      notes: what the user must know about the listing.
      undivided: whether it has no splits, so that a run divides it.
    """

    kind: str
    description: str
    key: str
    path: Path | None = None
    class_names: tuple[str, ...] = emotions.EMOTIONS
    listing: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)
    boxes: dict[str, Box] = dataclasses.field(default_factory=dict)
    problems: Problems = dataclasses.field(default_factory=Problems)
    notes: tuple[str, ...] = ()
    undivided: bool = False


def digest(*parts: object) -> str:
    """A SHA-256 of values that have a stable repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def resize_to_square(
    pixels: np.ndarray, image_size: int, channels: int = 1
) -> np.ndarray:
    """Crops the centre to a square and resizes it (bicubic, antialiased).

    Args:
      pixels: uint8, grey `[H, W]`, or `[H, W, 3]` if `channels` is 3.
      image_size: S.
      channels: C, 1 or 3; grey values are repeated.

    Returns:
      uint8 `[S, S, C]`.
    """
    if pixels.shape[:2] != (image_size, image_size):
        size, method = (image_size, image_size), Image.Resampling.BICUBIC
        pixels = np.asarray(ImageOps.fit(Image.fromarray(pixels), size, method))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], channels, axis=2)
    return pixels


def few_kinds(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent kinds of stored images; the rest as `OTHERS` and `MISNAMED`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:_MOST_KINDS])
    for kind, count in ranked[_MOST_KINDS:]:
        rest = MISNAMED if is_misnamed(kind) else OTHERS
        kept[rest] = kept.get(rest, 0) + count
    return kept


def is_misnamed(kind: str) -> bool:
    """Whether files of this kind have the suffix of another format."""
    return " named ." in kind or kind == MISNAMED


def either(names: Iterable[str]) -> str:
    """Names as a choice: a, b or c."""
    *names, last = names
    return f"{', '.join(names)} or {last}"
