"""What a run takes of a data set: which splits, which labels, and which train images.

The images of val and test stay all in place, so that runs that chose otherwise are
scored on the same ones; where the chosen labels have none for an image, it is -1.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from fer_jax.config import Data
from fer_jax.data import ferplus
from fer_jax.data import folds as fold
from fer_jax.data.duplicates.audit import Audit
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import Split
from fer_jax.emotions import EMOTIONS, KNOWN
from fer_jax.errors import UserError


def choose(dataset: Dataset, settings: Data, audit: Callable[[], Audit]) -> Dataset:
    """The data set as the settings want it.

    Args:
      dataset: from `load`.
      settings: the `data` section of a config.
      audit: gives the audit of the data set; called where copies are to be left out,
        or a fold is to be held out.

    Returns:
      the data set; with other labels or splits its `fingerprint` is another, and
      `chosen` tells what was taken.

    Raises:
      UserError: where the FER+ votes are asked for and missing or of other images, or
        no train image of a class is left.
    """
    if settings.contempt and settings.labels == "fer2013":
        raise UserError(
            "data.contempt is true, which only FER+ labels have; set data.labels to "
            "ferplus_majority or ferplus_soft too"
        )
    whole = dataset
    if settings.fold:
        audit = functools.cache(functools.partial(_folded, audit, settings.fold))
        dataset = fold.take(dataset, audit(), settings.fold)
        dataset = _scored_on(dataset, settings.contempt)
    chosen = _with_votes(dataset, whole, settings)
    if settings.deduplicate != "none":
        chosen = _deduplicated(chosen, settings.deduplicate, audit())
    if 0 < settings.train_subset < len(chosen.splits["train"].labels):
        chosen = _limited(chosen, settings.train_subset)
    if settings.fold or chosen.left_out or chosen.labels != dataset.labels:
        _check_classes(chosen)
        digest = _digest(dataset.fingerprint, settings.contempt, chosen.splits)
        chosen = dataclasses.replace(chosen, chosen=digest)
    return chosen


def _folded(audit: Callable[[], Audit], number: int) -> Audit:
    return fold.assign(audit(), number)


def _with_votes(dataset: Dataset, whole: Dataset, settings: Data) -> Dataset:
    """With FER+ labels where they are asked for, and beside FER2013's in any case.

    The votes are checked against the `whole` data set, as it was read.
    """
    asked = settings.labels != "fer2013"
    try:
        votes = ferplus.load(whole)
    except UserError as error:
        if asked:
            raise
        return _noted(dataset, ferplus.left_aside(error))
    if votes is None and not asked:
        return dataset
    if votes is None:
        where = dataset.path.parent if dataset.source == "csv" else dataset.description
        raise UserError(
            f"data.labels is {settings.labels}, which needs FER+'s {ferplus.NAME} "
            f"beside a fer2013.csv, and {where} has none; put it there"
        )
    majority = ferplus.majority(votes, contempt=settings.contempt)
    splits = {}
    for name, split in dataset.splits.items():
        if name == "train":
            splits[name] = split
            continue
        own, other = split.labels, majority[split.rows]
        agreed = np.where(own == other, own, -1)
        sets = {"fer2013": own, "ferplus_majority": other, "agreed": agreed}
        splits[name] = dataclasses.replace(split, label_sets=sets)
    dataset = dataclasses.replace(dataset, splits=splits)
    return _relabelled(dataset, votes, settings) if asked else dataset


def _relabelled(dataset: Dataset, votes: ferplus.Votes, settings: Data) -> Dataset:
    soft = settings.labels == "ferplus_soft"
    shares, reasons = ferplus.targets(
        votes, soft=soft, vote_filter=settings.vote_filter, contempt=settings.contempt
    )
    splits, left_out, notes = {}, {}, []
    for name, split in dataset.splits.items():
        own, why = shares[split.rows], reasons[split.rows]
        has = why < 0
        labels = np.where(has, own.argmax(axis=1), -1).astype(np.int32)
        split = dataclasses.replace(split, labels=labels, soft=own if soft else None)
        splits[name] = split.take(has) if name == "train" else split
        counts = Counter(ferplus.REASONS[place] for place in why[~has])
        left_out[name] = dict(sorted(counts.items()))
        told = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        notes.append(
            f"{name} {int(has.sum()):,} of {len(has):,} ({told or 'none out'})"
        )
    chosen = dataclasses.replace(
        dataset,
        class_names=KNOWN if settings.contempt else EMOTIONS,
        splits=splits,
        left_out=left_out,
        labels=f"{settings.labels}, votes: {settings.vote_filter}",
    )
    chosen = _scored_on(chosen, settings.contempt)
    return _noted(chosen, f"images with FER+ labels: {'; '.join(notes)}")


def _deduplicated(dataset: Dataset, kind: str, audit: Audit) -> Dataset:
    """Without the train images that have a copy in val or test."""
    others = [name for name in audit.splits if name != "train"]
    leaks = np.zeros(int(audit.of("train").sum()), bool)
    for other in others:
        leaks |= audit.has_copy_in(other, near=kind == "near")[audit.of("train")]
    train = dataset.splits["train"]
    # Some may be gone for want of a label.
    drop = np.isin(train.rows, audit.rows[audit.of("train")][leaks])
    count, word = int(drop.sum()), {"exact": "exact", "near": "exact or near"}[kind]
    left_out = {name: dict(reasons) for name, reasons in dataset.left_out.items()}
    left_out.setdefault("train", {})[f"{kind} copy"] = count
    chosen = dataclasses.replace(
        dataset,
        splits=dataset.splits | {"train": train.take(~drop)},
        left_out=left_out,
    )
    where = " and ".join(others)
    return _noted(
        chosen, f"{count:,} train images are left out, as {word} copies of {where}"
    )


def _limited(dataset: Dataset, count: int) -> Dataset:
    """With at most so many train images, each class in proportion, always the same."""
    train = dataset.splits["train"]
    order = np.random.default_rng(0).permutation(len(train.labels))
    order = order[np.argsort(train.labels[order], kind="stable")]
    # Evenly spaced among images sorted by class.
    places = np.arange(count) * len(order) // count
    keep = np.zeros(len(order), bool)
    keep[order[places]] = True
    left_out = {name: dict(reasons) for name, reasons in dataset.left_out.items()}
    left_out.setdefault("train", {})["beyond data.train_subset"] = int((~keep).sum())
    chosen = dataclasses.replace(
        dataset,
        splits=dataset.splits | {"train": train.take(keep)},
        left_out=left_out,
    )
    return _noted(chosen, f"train is {count:,} of {len(order):,} images")


def _check_classes(dataset: Dataset) -> None:
    train: Split = dataset.splits["train"]
    counts = np.bincount(train.labels, minlength=len(dataset.class_names))
    for name, count in zip(dataset.class_names, counts, strict=True):
        if not count:
            raise UserError(
                f"no train image of {name!r} is left of {dataset.description} with "
                "these settings of data (labels, deduplicate, fold, train_subset); "
                "choose others"
            )
    if not (dataset.splits["val"].labels >= 0).any():
        raise UserError(
            f"no val image of {dataset.description} has a label with these "
            "data.labels, so nothing could choose the checkpoint; choose others"
        )


def _scored_on(dataset: Dataset, contempt: bool) -> Dataset:
    """With a fingerprint of what val and test have become."""
    others = {name: split for name, split in dataset.splits.items() if name != "train"}
    return dataclasses.replace(
        dataset,
        fingerprint=_digest(dataset.fingerprint, contempt, others),
        source_fingerprint=dataset.source_fingerprint or dataset.fingerprint,
    )


def _digest(whole: str, contempt: bool, splits: Mapping[str, Split]) -> str:
    """16 hex digits that tell which images and labels of a data set these are."""
    digest = hashlib.sha256(f"{whole} {contempt}".encode())
    for name, split in sorted(splits.items()):
        digest.update(name.encode())
        for array in (split.rows, split.labels, split.soft):
            digest.update(b"" if array is None else np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def _noted(dataset: Dataset, note: str) -> Dataset:
    return dataclasses.replace(dataset, notes=(*dataset.notes, note))
