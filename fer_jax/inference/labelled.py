"""The labelled images that a model is evaluated on, as it sees them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from fer_jax import data
from fer_jax.data import Dataset, folds
from fer_jax.data.duplicates import hashes
from fer_jax.data.duplicates.audit import audit
from fer_jax.data.lazy_images import Images, chunks, concatenate
from fer_jax.data.records import SPLITS
from fer_jax.emotions import canonical
from fer_jax.errors import UserError
from fer_jax.pretrained.model_file import ModelFile

ALL = "all"


@dataclass(frozen=True)
class Labelled:
    """N images of a data set that a model can know, with its labels.

    Attributes:
      dataset: what they are from.
      split: "train", "val", "test" or "all".
      images: uint8 `[N, S, S, C]`, as the model takes them.
      labels: int32 `[N]`, indices into `known`.
      known: the labels that count.
      kept: bool `[M]`, which images of the split these are; others have no such label.
      places: the split, the row and the file ("" if it has none) of each image.
      image_ids: int `[N]`, equal for identical images.
      left_out: how many images there are of each class that the model does not know.
    """

    dataset: Dataset
    split: str
    images: Images
    labels: np.ndarray
    known: Sequence[str]
    kept: np.ndarray
    places: list[tuple[str, int, str]]
    image_ids: np.ndarray
    left_out: dict[str, int]


def load_labelled(
    data_root: str | None,
    model: ModelFile,
    known: Sequence[str],
    *,
    split: str | None = None,
    skip_bad: bool = False,
    console: Console | None = None,
) -> Labelled:
    """Loads the images of a data set that a model is evaluated on.

    Args:
      data_root: as `data.load` takes it.
      model: decides their size.
      known: the labels that count; images of others are left out.
      split: "train", "val", "test" or "all"; None: test, or else val. Of data without
        splits, None is all, or the test that a run divides off if the model was
        trained on these data.
      skip_bad: drop bad rows and images instead of refusing them.
      console: shows progress.

    Raises:
      UserError: if the data are missing or bad, lack the split, or have no class that
        the model knows.
    """
    shape = model.description.preprocessing
    dataset = data.load(
        data_root,
        image_size=shape.image_size,
        channels=shape.channels,
        skip_bad=skip_bad,
        console=console,
    )
    split, dataset = _chosen(dataset, split, model, console)
    names = [n for n in SPLITS if n in dataset.splits and split in (n, ALL)]
    parts = [dataset.splits[name] for name in names]
    places = [
        (name, int(row), dataset.file_of(name, row))
        for name, part in zip(names, parts, strict=True)
        for row in part.rows
    ]
    labels = np.concatenate([part.labels for part in parts])
    found = _among(known, dataset)[labels]
    kept = found >= 0
    if not kept.any():
        raise UserError(
            f"the images of {dataset.description} are of "
            f"{', '.join(dataset.class_names)}, and the model knows {', '.join(known)};"
            " name data that have one of these"
        )
    lost = np.bincount(labels[~kept], minlength=len(dataset.class_names))
    images = concatenate([part.images for part in parts])[kept]
    return Labelled(
        dataset=dataset,
        split=split,
        images=images,
        labels=found[kept],
        known=known,
        kept=kept,
        places=[place for place, keep in zip(places, kept, strict=True) if keep],
        image_ids=_image_ids(images),
        left_out={
            name: int(count)
            for name, count in zip(dataset.class_names, lost, strict=True)
            if count
        },
    )


def _among(known: Sequence[str], dataset: Dataset) -> np.ndarray:
    """The place of each class of the data among the known ones, int32, or -1."""
    theirs, ours = canonical(known), canonical(dataset.class_names)
    places = [theirs.index(name) if name in theirs else -1 for name in ours]
    return np.array(places, np.int32)


def have_copies(
    found: Labelled, model: ModelFile, console: Console
) -> np.ndarray | None:
    """Which images are copies of what the model was trained on: bool `[N]`, or None.

    In the data set that it was trained on, copies are those of the audit. In others
    they are recognised by hash. None: its train images are not known.
    """
    known, dataset = model.info.get("data", {}), found.dataset
    whole = dataset.fingerprint == known.get("fingerprint")
    started = "pretrained" in model.info.get("network", {})
    if whole and not known.get("chosen") and not started:
        copies = audit(dataset, console)
        has_copy = copies.has_copy_in("train", near=True) | copies.of("train")
        if found.split != ALL:
            has_copy = has_copy[copies.of(found.split)]
        return has_copy[found.kept]
    if model.train_hashes is None:
        return None
    with console.status("looking for copies of the model's train images"):
        return hashes.are_known(found.images, model.train_hashes)


def is_of(dataset: Dataset, model: ModelFile) -> bool:
    """Whether a model was trained on images of a data set."""
    known = model.info.get("data", {})
    prints = known.get("fingerprint"), known.get("source_fingerprint")
    return (dataset.source_fingerprint or dataset.fingerprint) in prints


def _chosen(
    dataset: Dataset, split: str | None, model: ModelFile, console: Console | None
) -> tuple[str, Dataset]:
    """The split, and the data set with it: divided as a run does, if it must be."""
    if split is None and dataset.undivided:
        split = "test" if is_of(dataset, model) else ALL
    if split in ("val", "test") and split not in dataset.splits:
        audited = audit(dataset, console)
        divided = folds.assign(audited, 0, undivided=dataset.undivided)
        dataset = dataclasses.replace(
            folds.regroup(dataset, divided, 0), source_fingerprint=dataset.fingerprint
        )
    present = [name for name in SPLITS if name in dataset.splits]
    if split is None:
        split = next((name for name in ("test", "val") if name in present), ALL)
    if split not in (*present, ALL):
        raise UserError(
            f"--split {split}: {dataset.description} has {', '.join(present)}; choose "
            f"{' or '.join([*present, ALL])}"
        )
    return split, dataset


def _image_ids(images: Images) -> np.ndarray:
    """The first image that is identical to each."""
    seen: dict[bytes, int] = {}
    every = (image.tobytes() for chunk in chunks(images) for image in chunk)
    return np.array([seen.setdefault(pixels, n) for n, pixels in enumerate(every)])
