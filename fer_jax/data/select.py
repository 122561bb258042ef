"""What a run uses of a data set: which splits, which labels, which train images.

val and test keep all their images, so that runs with other settings are scored on the
same ones; an image that the selected labels leave out has label -1.
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from fer_jax.config import Data
from fer_jax.data import ferplus, folds, split_notes
from fer_jax.data.duplicates.audit import Audit
from fer_jax.data.prepare import Dataset
from fer_jax.data.records import Split
from fer_jax.emotions import EMOTIONS, KNOWN
from fer_jax.errors import UserError


def select_images(
    dataset: Dataset, settings: Data, audit: Callable[[], Audit]
) -> Dataset:
    """The data set as the settings select it, with train and val.

    Args:
      dataset: from `load`.
      settings: the `data` section of a config.
      audit: returns the audit of `dataset`; called only to carve val, for a fold, or
        to leave out copies.

    Returns:
      the data set. Its `fingerprint` changes with the labels and images of val and
      test, its `subset` with those of train.

    Raises:
      UserError: if FER+ votes are selected and missing or of other images, or if a
        class has no train images or val no labels.
    """
    if settings.contempt and settings.labels == "fer2013":
        raise UserError(
            "data.contempt is true, which only FER+ labels have; set data.labels to "
            "ferplus_majority or ferplus_soft too"
        )
    find_copies = audit
    audit = functools.cache(
        lambda: folds.assign(find_copies(), settings.fold, undivided=dataset.undivided)
    )
    selected = dataset
    if settings.fold or "val" not in dataset.splits:
        selected = folds.regroup(dataset, audit(), settings.fold)
        selected = _scored_on(selected, settings.contempt)
    selected = _with_votes(selected, dataset, settings)
    if settings.deduplicate != "none":
        selected = _deduplicated(selected, settings.deduplicate, audit())
    if 0 < settings.train_subset < len(selected.splits["train"].labels):
        selected = _limited(selected, settings.train_subset)
    if selected.fingerprint != dataset.fingerprint or selected.left_out:
        _check_classes(selected)
    if settings.fold or selected.left_out or selected.labels != dataset.labels:
        subset = _digest(selected.fingerprint, settings.contempt, selected.splits)
        selected = dataclasses.replace(selected, subset=subset)
    return _noted(
        selected,
        *split_notes.other_names(dataset.splits),
        *split_notes.missing_classes(selected.splits, selected.class_names),
        *split_notes.small_val(selected.splits["val"], selected.class_names),
    )


def _with_votes(dataset: Dataset, loaded: Dataset, settings: Data) -> Dataset:
    """With FER+ labels if selected, and with both label sets if there are votes.

    The votes are checked against all of the data set as it was loaded.
    """
    required = settings.labels != "fer2013"
    try:
        votes = ferplus.load(loaded)
    except UserError as error:
        if required:
            raise
        return _noted(dataset, ferplus.unused_note(error))
    if votes is None and required:
        raise UserError(
            f"data.labels is {settings.labels}, which needs FER+'s {ferplus.NAME} "
            f"beside a fer2013.csv, and {dataset.path or dataset.description} has "
            "none; put it there"
        )
    if votes is None:
        return dataset
    majority = ferplus.majority(votes, contempt=settings.contempt)
    splits = dict(dataset.splits)
    for name in splits.keys() - {"train"}:
        own, other = splits[name].labels, majority[splits[name].rows]
        agreed = np.where(own == other, own, -1)
        sets = {"fer2013": own, "ferplus_majority": other, "agreed": agreed}
        splits[name] = dataclasses.replace(splits[name], label_sets=sets)
    dataset = dataclasses.replace(dataset, splits=splits)
    return _relabelled(dataset, votes, settings) if required else dataset


def _relabelled(dataset: Dataset, votes: ferplus.Votes, settings: Data) -> Dataset:
    """With FER+ labels; train without the images that have none."""
    soft = settings.labels == "ferplus_soft"
    shares, reasons = ferplus.targets(
        votes, soft=soft, vote_filter=settings.vote_filter, contempt=settings.contempt
    )
    splits, left_out, counted = {}, {}, []
    for name, split in dataset.splits.items():
        own, reason = shares[split.rows], reasons[split.rows]
        labelled = reason < 0
        labels = np.where(labelled, own.argmax(axis=1), -1).astype(np.int32)
        split = dataclasses.replace(split, labels=labels, soft=own if soft else None)
        splits[name] = split.take(labelled) if name == "train" else split
        counts = Counter(ferplus.REASONS[code] for code in reason[~labelled])
        left_out[name] = dict(sorted(counts.items()))
        why = ", ".join(f"{count:,} {words}" for words, count in counts.items())
        counted.append(
            f"{name} {labelled.sum():,} of {len(split.rows):,} ({why or 'all'})"
        )
    dataset = dataclasses.replace(
        dataset,
        class_names=KNOWN if settings.contempt else EMOTIONS,
        splits=splits,
        left_out=left_out,
        labels=f"{settings.labels}, votes: {settings.vote_filter}",
    )
    dataset = _scored_on(dataset, settings.contempt)
    return _noted(dataset, f"images with FER+ labels: {'; '.join(counted)}")


def _deduplicated(dataset: Dataset, kind: str, audit: Audit) -> Dataset:
    """Without the train images that have a copy in val or test."""
    train, others = audit.of("train"), [n for n in audit.splits if n != "train"]
    leaks = np.zeros(len(train), bool)
    for other in others:
        leaks |= audit.has_copy_in(other, near=kind == "near")
    # By row, because images without a label are gone already.
    keep = ~np.isin(dataset.splits["train"].rows, audit.rows[train & leaks])
    words = {"exact": "exact", "near": "exact or near"}[kind]
    return _with_train(
        dataset,
        keep,
        reason=f"{kind} copy",
        note=f"{(~keep).sum():,} train images are left out, as {words} copies of "
        f"{' and '.join(others)}",
    )


def _limited(dataset: Dataset, count: int) -> Dataset:
    """With `count` train images, each class in proportion, the same in every run."""
    labels = dataset.splits["train"].labels
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # Evenly spaced among images sorted by class.
    keep = np.zeros(len(order), bool)
    keep[order[np.arange(count) * len(order) // count]] = True
    return _with_train(
        dataset,
        keep,
        reason="beyond data.train_subset",
        note=f"train is {count:,} of {len(order):,} images",
    )


def _with_train(
    dataset: Dataset, keep: np.ndarray, *, reason: str, note: str
) -> Dataset:
    """With the train images where `keep`, bool `[N]`, is true."""
    train = dataset.splits["train"].take(keep)
    left_out = dataset.left_out.get("train", {}) | {reason: int((~keep).sum())}
    dataset = dataclasses.replace(
        dataset,
        splits=dataset.splits | {"train": train},
        left_out=dataset.left_out | {"train": left_out},
    )
    return _noted(dataset, note)


def _check_classes(dataset: Dataset) -> None:
    labels = dataset.splits["train"].labels
    counts = np.bincount(labels, minlength=len(dataset.class_names))
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
            "data.labels, so no checkpoint could be selected; choose others"
        )


def _scored_on(dataset: Dataset, contempt: bool) -> Dataset:
    """With the fingerprint of its new val and test."""
    others = {name: split for name, split in dataset.splits.items() if name != "train"}
    return dataclasses.replace(
        dataset,
        fingerprint=_digest(dataset.fingerprint, contempt, others),
        source_fingerprint=dataset.source_fingerprint or dataset.fingerprint,
    )


def _digest(fingerprint: str, contempt: bool, splits: Mapping[str, Split]) -> str:
    """16 hex digits of the images and labels of these splits."""
    digest = hashlib.sha256(f"{fingerprint} {contempt}".encode())
    for name, split in sorted(splits.items()):
        digest.update(name.encode())
        for array in (split.rows, split.labels, split.soft):
            digest.update(b"" if array is None else array.tobytes())
    return digest.hexdigest()[:16]


def _noted(dataset: Dataset, *notes: str) -> Dataset:
    return dataclasses.replace(dataset, notes=(*dataset.notes, *notes))
