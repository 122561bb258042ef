"""Which train images become val or test: a tenth if the data has none, and folds.

A fold is a stratified fifth of train, to compare settings without looking at test: the
fold becomes val, the data's val becomes test, and its test is left out.

Copies of one photograph, exact or near, stay together: val has no copy in train.
"""

import dataclasses

import numpy as np

from fer_jax.data.duplicates.audit import Audit
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import SPLITS, USAGES, Split
from fer_jax.errors import UserError

FOLDS = 5
_SEED = 0  # of the order of the groups; the same in every run


def assign(audit: Audit, fold: int, *, undivided: bool = False) -> Audit:
    """The audit with a run's splits: val carved if the data has none, then the fold.

    Args:
      audit: of the data set as loaded.
      fold: 1 to `FOLDS`; 0 for none.
      undivided: whether test is carved too, as the data has no splits.

    Returns:
      the audit; images that the fold leaves out have split -1.
    """
    groups, labels = audit.copies.groups(), audit.labels
    masks = {name: audit.of(name) for name in audit.splits}
    lacking = ["test"] if undivided else []
    lacking += ["val"] if "val" not in masks else []
    for name in lacking:
        train = masks["train"]
        masks[name] = train.copy()
        masks[name][train] = carve(groups[train], labels[train])
        masks["train"] = train & ~masks[name]
    if fold:
        train, val = masks["train"], masks["train"].copy()
        val[train] = fold_numbers(groups[train], labels[train]) == fold
        masks = {"train": train & ~val, "val": val, "test": masks["val"]}
    names = tuple(name for name in SPLITS if name in masks)
    split = np.full(len(audit.split), -1, np.int8)
    for place, name in enumerate(names):
        split[masks[name]] = place
    return dataclasses.replace(audit, splits=names, split=split)


def carve(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which train images become val: about a tenth of each class.

    The groups of a class, by the label of their first image, are sorted by size, the
    largest first, and every tenth becomes val; of two to nine groups, the smallest. So
    a group of many frames stays in train, and no class leaves train altogether.

    Args:
      groups: int `[N]`, equal for copies of one photograph.
      labels: int32 `[N]`.

    Returns:
      bool `[N]`.
    """
    _, first, group, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    # The stream of random is the same in every numpy; that of permutation may change.
    shuffled = np.random.default_rng(_SEED).random(len(size))
    order = np.lexsort((shuffled, -size, labels[first]))
    label = labels[first][order]  # ascending
    rank = np.arange(len(order)) - np.searchsorted(label, label)
    count = np.bincount(label)[label]
    smallest_of_few = (rank == count - 1) & (count > 1) & (count < 10)
    is_val = np.zeros(len(order), bool)
    is_val[order] = (rank % 10 == 9) | smallest_of_few
    to_val = is_val[group]
    # A class may be found only in groups that are counted under another one.
    lost = np.setdiff1d(labels[to_val], labels[~to_val])
    return to_val & ~np.isin(group, group[np.isin(labels, lost)])


def fold_numbers(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The fold of each train image, 1 to `FOLDS`: int32 `[N]`. Arguments as `carve`.

    Groups are dealt out class by class, by the label of their first image, so that all
    folds have nearly the same share of every class.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(_SEED).permutation(len(first))
    by_class = shuffled[np.argsort(labels[first][shuffled], kind="stable")]
    numbers = np.zeros(len(first), np.int32)
    numbers[by_class] = np.arange(len(first)) % FOLDS + 1
    return numbers[group]


def regroup(dataset: Dataset, audit: Audit, fold: int) -> Dataset:
    """The data set with a run's splits.

    Args:
      dataset: as loaded.
      audit: of `assign`.
      fold: that of `assign`, for the notes.

    Raises:
      UserError: if there are too few train images to carve val.
    """
    splits: dict[str, Split] = {}
    listing, start = {}, 0
    for origin in (name for name in SPLITS if name in dataset.splits):
        split = dataset.splits[origin]
        places = audit.split[start : start + len(split.rows)]
        start += len(split.rows)
        for place in np.unique(places[places >= 0]):
            name = audit.splits[place]
            splits[name] = split.take(places == place)
            listing[name] = dataset.listing.get(origin, [])
    if "val" not in splits:
        raise UserError(
            f"{dataset.description} has no val split, and too few train images to "
            "carve one: expected at least two of a class; add images"
        )
    return dataclasses.replace(
        dataset,
        splits={name: splits[name] for name in SPLITS if name in splits},
        listing=listing if dataset.listing else {},
        notes=(*dataset.notes, *_notes(dataset, splits, fold)),
    )


def _notes(dataset: Dataset, splits: dict[str, Split], fold: int) -> list[str]:
    notes, carved = [], "val" not in dataset.splits
    if dataset.undivided:
        notes.append(
            "the data have no splits: val and test are about 10 % of each class each, "
            "train is the rest, copies kept together, the same in every run"
        )
    elif carved:
        notes.append(
            "val was carved from train: about 10 % of each class, copies kept together"
        )
    if fold:
        own = "the carved val" if carved else "the data's own val"
        if dataset.source == "csv" and not carved:
            own = USAGES["val"]
        left_out = ", and the data's own test is left out"
        notes.append(
            f"fold {fold} of {FOLDS}: val is {len(splits['val'].rows):,} images of "
            f"train, test is {own}" + (left_out if "test" in dataset.splits else "")
        )
    return notes
