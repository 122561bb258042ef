"""The labelled images that models are evaluated on, as the models see them."""

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from fer_jax import data
from fer_jax.data import Dataset
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
      labels: int32 `[N]`, indices into the model's labels.
      places: the split, the row and the file ("" if it has none) of each image.
      image_ids: int `[N]`, equal for identical images.
      left_out: how many images there are of each class that the model does not know.
    """

    dataset: Dataset
    split: str
    images: Images
    labels: np.ndarray
    places: list[tuple[str, int, str]]
    image_ids: np.ndarray
    left_out: dict[str, int]


def load_labelled(
    data_root: str | None,
    model: ModelFile,
    *,
    split: str | None = None,
    skip_bad: bool = False,
    console: Console | None = None,
) -> Labelled:
    """Loads the images of a data set that a model is evaluated on.

    Args:
      data_root: as `data.load` takes it.
      model: decides their size and labels.
      split: "train", "val", "test" or "all"; None: test, or else val, or all of data
        without splits.
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
    split = _chosen(dataset, split)
    names = [n for n in SPLITS if n in dataset.splits and split in (n, ALL)]
    parts = [dataset.splits[name] for name in names]
    places = [
        (name, int(row), dataset.file_of(name, row))
        for name, part in zip(names, parts, strict=True)
        for row in part.rows
    ]
    labels = np.concatenate([part.labels for part in parts])
    known = model.description.labels
    theirs, ours = canonical(known), canonical(dataset.class_names)
    to_known = np.array([theirs.index(n) if n in theirs else -1 for n in ours])
    found = to_known[labels].astype(np.int32)
    kept = found >= 0
    if not kept.any():
        raise UserError(
            f"the {split} images of {dataset.description} are of "
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
        places=[place for place, keep in zip(places, kept, strict=True) if keep],
        image_ids=_image_ids(images),
        left_out={
            name: int(count)
            for name, count in zip(dataset.class_names, lost, strict=True)
            if count
        },
    )


def have_copies(
    found: Labelled, model: ModelFile, console: Console
) -> np.ndarray | None:
    """Which images are copies of what the model was trained on: bool `[N]`, or None.

    In the data set that it was trained on, copies are those of the audit. In others
    they are recognised by hash. None: its train images are not known.
    """
    known = model.info.get("data", {})
    whole = found.dataset.fingerprint == known.get("fingerprint")
    if whole and not known.get("chosen") and found.split in ("val", "test"):
        copies = audit(found.dataset, console)
        return copies.has_copy_in("train", near=True)[copies.of(found.split)]
    if model.train_hashes is None:
        return None
    with console.status("looking for copies of the model's train images"):
        return hashes.are_known(found.images, model.train_hashes)


def _chosen(dataset: Dataset, split: str | None) -> str:
    present = [name for name in SPLITS if name in dataset.splits]
    if dataset.undivided:
        present = []
    if split is None:
        return next((name for name in ("test", "val") if name in present), ALL)
    if split not in (*present, ALL):
        there = ", ".join(present) or "no splits"
        raise UserError(
            f"--split {split}: {dataset.description} has {there}; choose "
            f"{' or '.join([*present, ALL])}"
        )
    return split


def _image_ids(images: Images) -> np.ndarray:
    """The first image that is identical to each."""
    seen: dict[bytes, int] = {}
    every = (image.tobytes() for chunk in chunks(images) for image in chunk)
    return np.array([seen.setdefault(pixels, n) for n, pixels in enumerate(every)])
