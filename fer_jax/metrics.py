"""Scores from predictions: accuracy, macro-F1, each class's own, and the clean ones."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int
) -> np.ndarray:
    """Counts of (true, predicted) pairs.

    Args:
      labels: int `[N]`, the true classes, in `0 .. num_classes - 1`.
      predictions: int `[N]`, the predicted classes, in the same range.
      num_classes: the number of classes C.

    Returns:
      int64 `[C, C]`; the row is the true class and the column the predicted one.
    """
    cells = labels.astype(np.int64) * num_classes + predictions
    counts = np.bincount(cells, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def from_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """All scores that the confusion matrix holds, as plain numbers for JSON.

    The definitions are scikit-learn's with `zero_division=0`: macro-F1 is the mean
    over the classes that occur among the labels or the predictions, balanced
    accuracy the mean recall over the classes that occur among the labels.

    Args:
      matrix: int `[C, C]` from `confusion_matrix`.
      class_names: the C names, in the order of the labels.

    Returns:
      `n`, `accuracy`, `macro_f1`, `balanced_accuracy`, `per_class` (for each name
      `precision`, `recall`, `f1` in 0..1 and `support`) and `confusion_matrix`.
    """
    hits = np.diagonal(matrix).astype(np.float64)
    support, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    precision = ratio(hits, predicted)
    recall = ratio(hits, support)
    f1 = ratio(2 * hits, support + predicted)
    present, occurs = support > 0, support + predicted > 0
    n = int(matrix.sum())
    return {
        "n": n,
        "accuracy": float(hits.sum() / n) if n else 0.0,
        "macro_f1": float(f1[occurs].mean()) if n else 0.0,
        "balanced_accuracy": float(recall[present].mean()) if n else 0.0,
        "per_class": {
            name: {
                "precision": float(precision[c]),
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "support": int(support[c]),
            }
            for c, name in enumerate(class_names)
        },
        "confusion_matrix": matrix.tolist(),
    }


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, and 0 where the denominator is 0; broadcasts as division does."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    zeros = np.zeros(shape, np.result_type(numerator, denominator, np.float32))
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


def score(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """The scores of `from_confusion`, and the plain cross-entropy.

    The loss is unweighted and unsmoothed, so that it compares between experiments.

    Args:
      logits: float32 `[N, C]`.
      labels: int `[N]`.
      class_names: the C names.
    """
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a NaN is for the caller to judge
        log_sum = np.logaddexp.reduce(wide, axis=1)
        loss = log_sum - wide[np.arange(len(labels)), labels]
    matrix = confusion_matrix(labels, logits.argmax(axis=1), len(class_names))
    scores = from_confusion(matrix, class_names)
    return {"n": scores.pop("n"), "loss": float(loss.mean()), **scores}


def scores_of(
    logits: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """`score`, and `n`, `accuracy`, `macro_f1`, `balanced_accuracy` with `_clean`.

    Args:
      logits: float32 `[N, C]`.
      labels: int `[N]`, -1 where an image has no label, and is not scored.
      clean: bool `[N]`, whether the data set has no copy of an image in train. That is
        the image's, whatever a run took of train: so all are scored on the same ones.
      class_names: the C names.
    """
    scores = score_labelled(logits, labels, class_names)
    chosen = clean & (labels >= 0)
    guesses = logits[chosen].argmax(axis=1)
    matrix = confusion_matrix(labels[chosen], guesses, len(class_names))
    kept = ("n", "accuracy", "macro_f1", "balanced_accuracy")
    found = from_confusion(matrix, class_names)
    return scores | {f"{key}_clean": found[key] for key in kept}


def score_labelled(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """`score` of the images that have a label, which is not -1."""
    has = labels >= 0
    return score(logits[has], labels[has], class_names)
