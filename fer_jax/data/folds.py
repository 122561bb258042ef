"""A stratified fifth of train as val, to judge settings without looking at the rest.

All splits move by one place: the fold becomes val, the data's own val becomes test, and
its test is left out. So whoever tries many settings reads val's images once for each,
after the selection, and test's not at all. Copies stay together, exact and near, so
that none of a fold's images is trained on.
"""

import dataclasses

import numpy as np

from fer_jax.data.duplicates.audit import Audit
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import USAGES

FOLDS = 5
_SEED = 0  # of the order in which groups are dealt out; the folds are always the same


def assign(audit: Audit, fold: int) -> Audit:
    """The audit with the splits that a fold makes; images left out have split -1.

    Args:
      audit: of the data set as it was read.
      fold: 1 to `FOLDS`; 0 leaves all as it is.
    """
    if not fold:
        return audit
    split = np.full(len(audit.split), -1, np.int8)
    split[audit.of("train")] = 0
    split[audit.of("val")] = 2
    split[folds(audit) == fold] = 1
    return dataclasses.replace(audit, splits=("train", "val", "test"), split=split)


def folds(audit: Audit) -> np.ndarray:
    """The fold of each train image, 1 to `FOLDS`, copies in the same: int32 `[N]`.

    Groups of copies are dealt out class by class, the class of a group being that of
    its first image in train, so that each fold has nearly the same share of every
    class. Images of other splits have 0.
    """
    train = np.flatnonzero(audit.of("train"))
    _, first, group = np.unique(
        audit.copies.groups()[train], return_index=True, return_inverse=True
    )
    shuffled = np.random.default_rng(_SEED).permutation(len(first))
    classes = audit.labels[train][first]
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    dealt = np.zeros(len(first), np.int32)
    dealt[by_class] = np.arange(len(first)) % FOLDS + 1
    found = np.zeros(len(audit.split), np.int32)
    found[train] = dealt[group]
    return found


def take(dataset: Dataset, audit: Audit, fold: int) -> Dataset:
    """The data set with the splits that a fold makes.

    Args:
      dataset: as it was read.
      audit: of `assign`.
      fold: 1 to `FOLDS`.
    """
    train, val = dataset.splits["train"], dataset.splits["val"]
    rows = audit.rows[audit.of("val")]
    held = np.isin(train.rows, rows)
    splits = {"train": train.take(~held), "val": train.take(held), "test": val}
    listing = dict(dataset.listing)
    if listing:
        listing |= {"val": listing["train"], "test": listing.get("val", [])}
    own = USAGES["val"] if dataset.source == "csv" else "the data's own val"
    note = (
        f"fold {fold} of {FOLDS}: val is {held.sum():,} images of train, test is {own}"
        + (", and the data's own test is left out" if "test" in dataset.splits else "")
    )
    return dataclasses.replace(
        dataset, splits=splits, listing=listing, notes=(*dataset.notes, note)
    )
