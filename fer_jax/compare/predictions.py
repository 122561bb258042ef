"""Reads what runs predicted, image by image, and checks it against their results."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from fer_jax.compare.results import Run
from fer_jax.errors import UserError
from fer_jax.metrics import confusion_matrix, from_confusion, score


@dataclass(frozen=True)
class Predictions:
    """What R runs predict on the N images of a split of their common data.

    Attributes:
      labels: int `[N]`, the true classes.
      image_ids: int `[N]`, equal for identical images.
      classes: int `[R, N]`, the predicted classes.
      confidence: float64 `[R, N]`, the predicted classes' probabilities.
      clean: bool `[N]`, whether an image has no copy in train; None where the files of
        an earlier version do not tell.
      identical_known: whether the files tell which images are identical; those of
        earlier versions do not, and then each image counts as one of its own.
    """

    labels: np.ndarray
    image_ids: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    clean: np.ndarray | None
    identical_known: bool

    def repeated(self) -> int:
        """How many images have an identical one before them."""
        return len(self.image_ids) - len(np.unique(self.image_ids))


def load_predictions(runs: Sequence[Run], split: str) -> Predictions:
    """The predictions of runs of one data set, which all have `split`.

    Raises:
      UserError: a file is missing or damaged, contradicts its run's `result.json`, or
        is of other images than the rest.
    """
    loaded = [_load(run, split) for run in runs]
    first = loaded[0]
    for run, arrays in zip(runs, loaded, strict=True):
        for key in ("rows", "labels"):
            if not np.array_equal(arrays[key], first[key]):
                raise UserError(
                    f"{run.label} and {runs[0].label} have other {key} of {split}, "
                    "though the same data fingerprint: one of the files is damaged; "
                    "repeat the newer run with --force"
                )
    known = all("image_ids" in arrays for arrays in loaded)
    logits = np.stack([arrays["logits"] for arrays in loaded]).astype(np.float64)
    return Predictions(
        labels=first["labels"],
        image_ids=first["image_ids"] if known else np.arange(len(first["labels"])),
        classes=logits.argmax(axis=2),
        confidence=softmax(logits, axis=2).max(axis=2),
        clean=first["clean"] if all("clean" in arrays for arrays in loaded) else None,
        identical_known=known,
    )


def only_clean(runs: Sequence[Run]) -> list[Run]:
    """The runs, scored on those images only that have no copy in train.

    Raises:
      UserError: where predictions cannot be used, do not tell which images those are,
        or there are none.
    """
    return [_cleaned(run) for run in runs]


def _cleaned(run: Run) -> Run:
    scores, names = {}, run.data["class_names"]
    for split in run.scores:
        arrays = _load(run, split)
        path = run.folder / f"predictions_{split}.npz"
        if "clean" not in arrays:
            raise UserError(
                f"{path} does not tell which images have a copy in train, as it was "
                "made by an earlier version; repeat that run with --force"
            )
        arrays = _where(arrays, arrays["clean"])
        if not len(arrays["labels"]):
            raise UserError(f"{path} has no image without a copy in train")
        scores[split] = score(arrays["logits"], arrays["labels"], names)
    told = f"{run.fingerprint}, only images without a copy in train"
    return replace(
        run, scores=scores, clean=True, data=run.data | {"fingerprint": told}
    )


def _where(arrays: dict[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays for the images that `kept`, bool `[N]`, says."""
    return {
        key: values[kept] if values.shape[:1] == kept.shape else values
        for key, values in arrays.items()
    }


def _load(run: Run, split: str) -> dict[str, np.ndarray]:
    path = run.folder / f"predictions_{split}.npz"
    again = "repeat that run with --force"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {again}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from None
    names = run.data["class_names"]
    if run.label_set:
        arrays["labels"] = arrays.pop(f"labels_{run.label_set}", np.empty(0))
    labels = arrays.get("labels")
    if labels is not None and labels.ndim == 1 and labels.dtype.kind == "i":
        arrays = _where(arrays, labels >= 0)  # -1: the chosen labels have none there
    if run.clean and arrays.get("clean", labels).dtype == bool:
        arrays = _where(arrays, arrays["clean"])
    if not _is_whole(arrays, len(names)):
        raise UserError(f"{path} lacks whole rows, labels and logits; {again}")
    guesses = arrays["logits"].argmax(axis=1)
    found = from_confusion(
        confusion_matrix(arrays["labels"], guesses, len(names)), names
    )
    told = run.scores[split]
    for metric in ("n", "accuracy", "macro_f1", "balanced_accuracy"):
        if abs(found[metric] - told[metric]) > 1e-9:
            raise UserError(
                f"{path} and result.json beside it disagree: {metric} is "
                f"{found[metric]:.6g} there and {told[metric]:.6g} here; {again}"
            )
    return arrays


def _is_whole(arrays: dict[str, np.ndarray], num_classes: int) -> bool:
    if not {"rows", "labels", "logits"} <= arrays.keys():
        return False
    labels, logits = arrays["labels"], arrays["logits"]
    more = ("rows", "image_ids", "clean")
    per_image = [arrays[key] for key in more if key in arrays]
    return (
        labels.ndim == 1
        and len(labels) > 0
        and all(each.shape == labels.shape for each in per_image)
        and logits.shape == (len(labels), num_classes)
        and np.issubdtype(labels.dtype, np.integer)
        and bool(np.isfinite(logits).all())
        and 0 <= labels.min() <= labels.max() < num_classes
    )
