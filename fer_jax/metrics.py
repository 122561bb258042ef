"""Scores of predictions: accuracy, macro-F1, balanced accuracy, and each class's own.

All scores in fer_jax are computed here. Macro-F1 and balanced accuracy are means over
the classes that have images among the labels, as scikit-learn's
`f1_score(labels=present, average="macro")` and `balanced_accuracy_score`: predicting a
class that a split lacks is an error like any other and adds no class to the mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

Metric = Literal["accuracy", "macro_f1", "balanced_accuracy"]
METRICS: tuple[Metric, ...] = get_args(Metric)
CLASS_METRICS = ("f1", "precision", "recall")


def metric_names(class_names: Sequence[str]) -> list[str]:
    """The K = 3 + 3 C metrics in the order of `scores_of_counts`: `f1_<class>`, ..."""
    by_class = (f"{kind}_{name}" for kind in CLASS_METRICS for name in class_names)
    return [*METRICS, *by_class]


def scores_of_counts(
    hits: np.ndarray,
    predicted: np.ndarray,
    support: np.ndarray,
    present: np.ndarray | None = None,
) -> np.ndarray:
    """All metrics of counts by class, which broadcast against each other.

    Args:
      hits: `[..., C]`, correct predictions of each class.
      predicted: `[..., C]`, predictions of each class.
      support: `[..., C]`, images of each class.
      present: bool `[..., C]`, the classes that macro-F1 and balanced accuracy average
        over. Default: those with images.

    Returns:
      `[..., K]` in 0..1, of the counts' dtype. A class without images has NaN.
    """
    present = support > 0 if present is None else present
    f1 = ratio(2 * hits, support + predicted)
    precision, recall = ratio(hits, predicted), ratio(hits, support)
    classes = present.sum(axis=-1)
    overall = (
        ratio(hits.sum(axis=-1), support.sum(axis=-1)),
        ratio(_sum(f1), classes),
        ratio(_sum(recall), classes),
    )
    by_class = [f1, precision, recall]
    if not (support > 0).all():
        absent = np.where(support > 0, 0, np.float32(np.nan))
        by_class = [each + absent for each in by_class]
    # Unlike `np.stack`, this keeps the order in which the counts lie in memory.
    return np.concatenate([*(each[..., None] for each in overall), *by_class], axis=-1)


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
    """All scores of a confusion matrix, as plain numbers for JSON.

    Args:
      matrix: int `[C, C]` from `confusion_matrix`.
      class_names: the C names, in the order of the labels.

    Returns:
      `n`, `accuracy`, `macro_f1`, `balanced_accuracy`, `per_class` (for each name
      `precision`, `recall`, `f1` in 0..1 and `support`) and `confusion_matrix`. What is
      undefined is 0.
    """
    support = matrix.sum(axis=1)
    values = scores_of_counts(np.diagonal(matrix), matrix.sum(axis=0), support)
    names = metric_names(class_names)
    found = dict(zip(names, np.nan_to_num(values).tolist(), strict=True))
    return {
        "n": int(matrix.sum()),
        **{metric: found[metric] for metric in METRICS},
        "per_class": {
            name: {
                **{k: found[f"{k}_{name}"] for k in ("precision", "recall", "f1")},
                "support": int(count),
            }
            for name, count in zip(class_names, support, strict=True)
        },
        "confusion_matrix": matrix.tolist(),
    }


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The share of counts that a part of them is; 0 where there are none."""
    return part / np.maximum(whole, 1)  # twice as fast as a division with a mask


def _sum(by_class: np.ndarray) -> np.ndarray:
    """The sum over the classes, rounded alike in whatever order they lie in memory."""
    return np.ascontiguousarray(by_class).sum(axis=-1)


def score(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """The scores of `from_confusion`, and `loss`, the plain cross-entropy.

    The loss is unweighted and unsmoothed, so that it compares between experiments.

    Args:
      logits: float32 `[N, C]`.
      labels: int `[N]`; images with the label -1 are left out.
      class_names: the C names.
    """
    labelled = labels >= 0
    wide, labels = logits[labelled].astype(np.float64), labels[labelled]
    with np.errstate(invalid="ignore"):  # the caller judges a NaN
        log_sum = np.logaddexp.reduce(wide, axis=1)
        loss = log_sum - wide[np.arange(len(labels)), labels]
    matrix = confusion_matrix(labels, wide.argmax(axis=1), len(class_names))
    scores = from_confusion(matrix, class_names)
    mean_loss = float(loss.mean()) if len(loss) else 0.0
    return {"n": scores.pop("n"), "loss": mean_loss, **scores}


def not_learnt(scores: Mapping[str, Any]) -> str:
    """Says why scores are those of a network that has learnt nothing; "" if not.

    Either it predicts one class only, or it is right no more often than a guess that is
    always the most frequent class.

    Args:
      scores: what `from_confusion` returns.
    """
    matrix, names = np.array(scores["confusion_matrix"]), list(scores["per_class"])
    predicted, support = matrix.sum(axis=0), matrix.sum(axis=1)
    if np.count_nonzero(support) < 2:
        return ""
    if np.count_nonzero(predicted) == 1:
        return f"it predicts {names[predicted.argmax()]} for every image"
    share = support.max() / support.sum()
    if scores["accuracy"] > share:
        return ""
    return (
        f"its accuracy is {100 * scores['accuracy']:.1f} %, and predicting "
        f"{names[support.argmax()]} for every image gives {100 * share:.1f} %"
    )


def score_with_clean(
    logits: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """`score`, and `n` and the overall metrics of the clean images as `<name>_clean`.

    Without a clean image these metrics are None.

    Args:
      logits: float32 `[N, C]`.
      labels: int `[N]`, -1 where an image has no label.
      clean: bool `[N]`, whether the image has no copy in the data set's train split,
        whatever part of train a run uses: so all runs are scored on the same images.
      class_names: the C names.
    """
    of_clean = score(logits[clean], labels[clean], class_names)
    if not of_clean["n"]:
        of_clean |= dict.fromkeys(METRICS)
    kept = {f"{key}_clean": of_clean[key] for key in ("n", *METRICS)}
    return score(logits, labels, class_names) | kept
