"""Ranks train images by how much training fought their label, over finished runs.

The mean margin of an image over the epochs is its area under the margin (Pleiss et al.
2020, arXiv:2001.10528); how often it was right and then wrong again is its count of
forgetting events (Toneva et al. 2019, arXiv:1812.05159). Both are ranked within each
run, since their scale depends on the loss and the schedule, and averaged over runs.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from fer_jax import runs
from fer_jax.data import Dataset
from fer_jax.errors import UserError

LEAST_EPOCHS = 2  # seen in fewer, an image says nothing of how it is learnt


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The train images of a data set as runs learnt them, in the data's order.

    Attributes:
      runs: the labels of the runs that tell, as `baseline/seed_42`.
      left_out: for runs that do not, why.
      suspicion: float64 `[N]`, 0 for the best learnt image to 1 for the worst; NaN
        where no run trained on it.
      margin: float32 `[N]`, the mean margin.
      forgotten: float32 `[N]`, the mean number of forgetting events.
      never: float32 `[N]`, the share of runs in which it was never right.
      rival: int `[N]`, the class that was preferred most often instead; -1 where none
        ever was.
    """

    runs: tuple[str, ...]
    left_out: dict[str, str]
    suspicion: np.ndarray
    margin: np.ndarray
    forgotten: np.ndarray
    never: np.ndarray
    rival: np.ndarray

    def order(self) -> np.ndarray:
        """Places of the images that were ranked, the most suspicious first."""
        ranked = np.flatnonzero(~np.isnan(self.suspicion))
        return ranked[np.argsort(-self.suspicion[ranked], kind="stable")]


@dataclasses.dataclass(frozen=True)
class _Learnt:
    """What one run says of the images that it trained on, in its own order."""

    rows: np.ndarray
    margin: np.ndarray
    forgotten: np.ndarray
    never: np.ndarray
    rivals: np.ndarray  # int [N, C], how often each class was preferred


def rank_labels(runs_dir: str | Path, dataset: Dataset) -> Ranking:
    """Ranks the train images of a data set by the finished runs in a folder.

    Raises:
      UserError: if no run there tells of these images and labels.
    """
    runs_dir = Path(runs_dir)
    if not runs_dir.is_dir():
        raise UserError(f"there is no folder {runs_dir}; name the folder of the runs")
    found, left_out = {}, {}
    for folder in sorted(runs_dir.glob("*/seed_*")):
        label = f"{folder.parent.name}/{folder.name}"
        learnt = _read(folder, dataset)
        if isinstance(learnt, str):
            left_out[label] = learnt
        else:
            found[label] = learnt
    if not found:
        told = "; ".join(f"{label}: {why}" for label, why in list(left_out.items())[:3])
        raise UserError(
            f"no run in {runs_dir} tells how the train images of "
            f"{dataset.description} were learnt ({told or 'there is none'}); train "
            "one on them, with the data's own labels"
        )
    return _combine(found, left_out, dataset)


def average_precision(hits: np.ndarray) -> float:
    """The mean precision at each hit of a ranking, as scikit-learn's without ties.

    Args:
      hits: bool `[N]`, in order of the ranking: whether each is one looked for.
    """
    if not hits.any():
        return 0.0
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def _read(folder: Path, dataset: Dataset) -> _Learnt | str:
    """What a run says; or in words why it does not."""
    if not runs.is_finished(folder):
        return "not finished"
    try:
        result = runs.read_result(folder)
        told = result["data"]
        if told.get("source_fingerprint", told["fingerprint"]) != dataset.fingerprint:
            return "of other data, or read with another image_size or channels"
        rows, labels, margins, rivals = (
            np.load(folder / runs.DYNAMICS / f"{name}.npy", allow_pickle=False)
            for name in ("rows", "labels", "margins", "rivals")
        )
    except FileNotFoundError:
        return "has no training dynamics, as it was made by an earlier version"
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read ({error})"
    train = dataset.splits["train"]
    place = np.searchsorted(train.rows, rows)
    inside = place < len(train.rows)
    whole = margins.shape == rivals.shape == (len(margins), len(rows))
    if not whole or rows.shape != labels.shape or not inside.all():
        return "has damaged training dynamics"
    if (train.rows[place] != rows).any() or (train.labels[place] != labels).any():
        return "was trained on other labels"
    return _learnt(rows, np.float32(margins), rivals, len(dataset.class_names))


def _learnt(
    rows: np.ndarray, margins: np.ndarray, rivals: np.ndarray, num_classes: int
) -> _Learnt:
    seen = ~np.isnan(margins)
    often = seen.sum(axis=0) >= LEAST_EPOCHS
    rows, margins = rows[often], margins[:, often]
    rivals, seen = rivals[:, often], seen[:, often]
    # An epoch that did not show the image neither learns nor forgets it.
    right = np.zeros(margins.shape[1], bool)
    forgotten, ever = np.zeros(len(right)), np.zeros(len(right), bool)
    for epoch, shown in zip(margins, seen, strict=True):
        now = np.where(shown, epoch > 0, right)
        forgotten += right & ~now
        ever |= now
        right = now
    preferred = seen & (margins <= 0)
    counts = np.stack(
        [(preferred & (rivals == c)).sum(axis=0) for c in range(num_classes)], axis=1
    )
    return _Learnt(rows, np.nanmean(margins, axis=0), forgotten, ~ever, counts)


def _combine(
    found: dict[str, _Learnt], left_out: dict[str, str], dataset: Dataset
) -> Ranking:
    train, classes = dataset.splits["train"], len(dataset.class_names)
    count = np.zeros(len(train.rows))
    sums = {key: np.zeros(len(count)) for key in ("rank", "margin", "forgot", "never")}
    rivals = np.zeros((len(count), classes), int)
    for each in found.values():
        place = np.searchsorted(train.rows, each.rows)
        count[place] += 1
        worst_last = rankdata(-each.margin)
        sums["rank"][place] += (worst_last - 1) / max(1, len(place) - 1)
        sums["margin"][place] += each.margin
        sums["forgot"][place] += each.forgotten
        sums["never"][place] += each.never
        rivals[place] += each.rivals
    with np.errstate(invalid="ignore"):  # 0 / 0 where no run trained on the image
        mean = {key: values / count for key, values in sums.items()}
    return Ranking(
        runs=tuple(found),
        left_out=left_out,
        suspicion=mean["rank"],
        margin=np.float32(mean["margin"]),
        forgotten=np.float32(mean["forgot"]),
        never=np.float32(mean["never"]),
        rival=np.where(rivals.any(axis=1), rivals.argmax(axis=1), -1),
    )


def overlap(order: Sequence[int], hits: np.ndarray) -> dict[str, float]:
    """How well a ranking finds the `hits`, bool `[N]` by place: AP and chance."""
    ranked = hits[np.asarray(order)]
    return {
        "average_precision": average_precision(ranked),
        "chance": float(ranked.mean()),
        "first_100": float(ranked[:100].mean()),
    }
