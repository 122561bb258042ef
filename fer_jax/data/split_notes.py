"""What the user must know about the splits: other names, missing classes, a small val.

Where val is what others report as test, or a part of train, scores mean something else
than their names say. FER2013's own splits are recognised by how many images they have
of each emotion.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fer_jax.data.records import USAGES, Split

# Goodfellow et al., "Challenges in representation learning" (2013): images of angry,
# disgust, fear, happy, sad, surprise and neutral, by Usage.
FER2013 = {
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}
# Late epochs of one run rarely differ by more than a few points of macro-F1.
MAX_STANDARD_ERROR = 0.05


def other_names(splits: Mapping[str, Split]) -> list[str]:
    """A sentence for each split that is FER2013's under another name, or several."""
    parts = {name: _fer2013_parts(_counts(split)) for name, split in splits.items()}
    return [
        f"this {split} is FER2013's {' and '.join(usages)}"
        + (" together" if len(usages) > 1 else "")
        + f"; what is usually called {split} is its {USAGES[split]}"
        for split, usages in parts.items()
        if usages and usages != (USAGES[split],)
    ]


def _fer2013_parts(counts: np.ndarray) -> tuple[str, ...]:
    """The splits of FER2013 whose counts sum to these; () if none do."""
    for size in range(1, len(FER2013) + 1):
        for names in itertools.combinations(FER2013, size):
            total = np.sum([FER2013[name] for name in names], axis=0)
            if np.array_equal(total, counts):
                return names
    return ()


def missing_classes(
    splits: Mapping[str, Split], class_names: Sequence[str]
) -> list[str]:
    """A sentence for each split that has no image of some classes."""
    notes = []
    for name, split in splits.items():
        counts = _counts(split, len(class_names))
        if missing := [class_names[i] for i in np.flatnonzero(counts == 0).tolist()]:
            notes.append(
                f"{name} has no image of {', '.join(missing)}; its macro-F1 is the "
                "mean over the other classes"
            )
    return notes


def small_val(val: Split, class_names: Sequence[str]) -> list[str]:
    """A sentence if val is too small to select an epoch by its macro-F1.

    That is if the standard error of the mean recall, at most
    `sqrt(sum(1 / (4 n_c))) / C` over C classes with n_c images, exceeds 5 points.
    """
    counts = _counts(val, len(class_names))
    present = counts[counts > 0]
    error = np.sqrt((0.25 / present).sum()) / max(len(present), 1)
    if error <= MAX_STANDARD_ERROR:
        return []
    rarest = int(np.argmin(np.where(counts > 0, counts, counts.max() + 1)))
    return [
        f"val has {counts.sum():,} images, of {class_names[rarest]} only "
        f"{counts[rarest]:,}: the standard error of its macro-F1 is about "
        f"{100 * error:.0f} points, so the selection of an epoch is largely chance"
    ]


def _counts(split: Split, num_classes: int = 0) -> np.ndarray:
    """How many images a split has of each class, int `[C]`."""
    return np.bincount(split.labels[split.labels >= 0], minlength=num_classes)
