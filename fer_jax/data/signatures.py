"""Recognises FER2013's own splits, whatever a data set calls them.

A split is known by how many images it has of each emotion. Where val is what others
report as test, or a part of train, scores mean something else than their names say,
and that has to be told.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from fer_jax.data.records import USAGES

# Goodfellow et al., "Challenges in representation learning" (2013): images of angry,
# disgust, fear, happy, sad, surprise and neutral, by Usage.
FER2013 = {
    "Training": (3995, 436, 4097, 7215, 4830, 3171, 4965),
    "PublicTest": (467, 56, 496, 895, 653, 415, 607),
    "PrivateTest": (491, 55, 528, 879, 594, 416, 626),
}


def notes(counts: Mapping[str, np.ndarray]) -> list[str]:
    """What must be said of splits that are FER2013's under other names.

    Args:
      counts: for each split how many images it has of each class, int `[C]`.

    Returns:
      a sentence for each split that is another one of FER2013's, or several together.
    """
    found = {split: _parts(own) for split, own in counts.items()}
    return [
        f"this {split} is FER2013's {' and '.join(parts)}"
        + (" together" if len(parts) > 1 else "")
        + f"; what is usually called {split} is its {USAGES[split]}"
        for split, parts in found.items()
        if parts and parts != (USAGES[split],)
    ]


def _parts(counts: np.ndarray) -> tuple[str, ...]:
    """The splits of FER2013 that these counts are the sum of; none, if none are."""
    for size in range(1, len(FER2013) + 1):
        for names in itertools.combinations(FER2013, size):
            total = np.sum([FER2013[name] for name in names], axis=0)
            if np.array_equal(total, counts):
                return names
    return ()
