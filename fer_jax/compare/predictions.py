"""Reads what runs predicted, image by image, and checks it against their results."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy

from fer_jax.compare.results import FinishedRun
from fer_jax.errors import UserError
from fer_jax.metrics import confusion_matrix, score

_AGAIN = "repeat that run with --force"
_PER_IMAGE = ("rows", "image_ids", "clean", "labels")


@dataclass(frozen=True)
class Predictions:
    """What R runs predict on the N images of a split of their common data."""

    labels: np.ndarray  # int `[N]`, the true classes
    image_ids: np.ndarray  # int `[N]`, equal for identical images
    probabilities: np.ndarray  # float64 `[R, N, C]`

    @property
    def classes(self) -> np.ndarray:
        """The predicted classes, int `[R, N]`."""
        return self.probabilities.argmax(axis=2)

    @property
    def confidence(self) -> np.ndarray:
        """The predicted classes' probabilities, float64 `[R, N]`."""
        return self.probabilities.max(axis=2)

    def repeated(self) -> int:
        """How many images have an identical one before them."""
        return len(self.image_ids) - len(np.unique(self.image_ids))


def load_predictions(runs: Sequence[FinishedRun], split: str) -> Predictions:
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
                    f"{run.label} and {runs[0].label} have different {key} of {split}, "
                    "though the same data fingerprint: one of the files is damaged; "
                    "repeat the newer run with --force"
                )
    logits = np.stack([arrays["logits"] for arrays in loaded]).astype(np.float64)
    return Predictions(
        labels=first["labels"],
        image_ids=first["image_ids"],
        probabilities=scipy.special.softmax(logits, axis=2),
    )


def only_clean(run: FinishedRun) -> FinishedRun:
    """The run, scored on the images without a copy in train.

    Raises:
      UserError: its predictions cannot be used, or every image has a copy.
    """
    scores = {}
    for split in run.scores:
        arrays = _load(run, split)
        clean = arrays["clean"]
        if not clean.any():
            raise UserError(
                f"every {split} image of {run.label} has a copy in train, so that "
                "--clean leaves none; compare without it"
            )
        scores[split] = score(
            arrays["logits"][clean], arrays["labels"][clean], run.class_names
        )
    fingerprint = f"{run.fingerprint}, only images without a copy in train"
    data = run.data | {"fingerprint": fingerprint}
    return replace(run, scores=scores, clean=True, data=data)


def _load(run: FinishedRun, split: str) -> dict[str, np.ndarray]:
    """The arrays of the images that are scored, by name; logits are float32."""
    path = run.folder / f"predictions_{split}.npz"
    arrays = read_file(path)
    if run.label_set:
        arrays["labels"] = arrays.pop(f"labels_{run.label_set}", np.empty(0))
    if not _is_complete(arrays, len(run.class_names)):
        raise UserError(
            f"{path} lacks complete arrays of {', '.join(_PER_IMAGE)} and logits; "
            f"{_AGAIN}"
        )
    kept = arrays["labels"] >= 0  # the chosen labels may have none for an image
    if run.clean:
        kept &= arrays["clean"]
    arrays = {key: arrays[key][kept] for key in (*_PER_IMAGE, "logits")}
    arrays["logits"] = arrays["logits"].astype(np.float32)  # published ones are float16
    guesses = arrays["logits"].argmax(axis=1)
    matrix = confusion_matrix(arrays["labels"], guesses, len(run.class_names))
    if matrix.tolist() != run.scores[split]["confusion_matrix"]:
        raise UserError(
            f"{path} and result.json beside it disagree: their confusion matrices of "
            f"{split} differ; {_AGAIN}"
        )
    return arrays


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of predictions, by name.

    Raises:
      UserError: it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_AGAIN}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); {_AGAIN}") from None


def _is_complete(arrays: dict[str, np.ndarray], num_classes: int) -> bool:
    if not {*_PER_IMAGE, "logits"} <= arrays.keys():
        return False
    labels, logits, clean = arrays["labels"], arrays["logits"], arrays["clean"]
    return (
        labels.ndim == 1
        and len(labels) > 0
        and all(arrays[key].shape == labels.shape for key in _PER_IMAGE)
        and logits.shape == (len(labels), num_classes)
        and np.issubdtype(labels.dtype, np.integer)
        and clean.dtype == bool
        and bool(np.isfinite(logits).all())
        and -1 <= labels.min() <= labels.max() < num_classes
        and bool((labels >= 0).any())
    )
