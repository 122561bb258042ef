"""Ranks train images by how badly finished runs learned their label.

The area under the margin of an image is its mean margin over the epochs (Pleiss et al.
2020, arXiv:2001.10528). Margins depend on the loss and the schedule, so images are
ranked within each run, and the ranks averaged over runs. A forgetting event is a change
from right to wrong (Toneva et al. 2019, arXiv:1812.05159).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy

from fer_jax import runs
from fer_jax.data import Dataset
from fer_jax.errors import UserError

MIN_EPOCHS = 2  # an image shown in fewer is not ranked


class Ranking(NamedTuple):
    """How runs learned the N train images of a data set, in the data's order.

    Attributes:
      runs: the runs that were used, as `baseline/seed_42`.
      left_out: the reason for each run that was not.
      suspicion: float64 `[N]`, the mean rank, from 0 for the best learned image to 1;
        NaN if no run trained on it.
      margin: float64 `[N]`, the mean margin.
      forgotten: float64 `[N]`, the mean number of forgetting events.
      never_right: float64 `[N]`, the share of runs that never predicted the label.
      rival: int `[N]`, the class predicted most often instead; -1 for none.
    """

    runs: tuple[str, ...]
    left_out: dict[str, str]
    suspicion: np.ndarray
    margin: np.ndarray
    forgotten: np.ndarray
    never_right: np.ndarray
    rival: np.ndarray

    def order(self) -> np.ndarray:
        """Returns the indices of the ranked images, the most suspicious first."""
        ranked = np.flatnonzero(~np.isnan(self.suspicion))
        return ranked[np.argsort(-self.suspicion[ranked], kind="stable")]


class _Learned(NamedTuple):
    """How one run learned the M images it trained on, in its own order."""

    rows: np.ndarray  # int [M], of the source
    margin: np.ndarray  # float [M], mean over the epochs
    forgotten: np.ndarray  # float [M]
    never_right: np.ndarray  # bool [M]
    rivals: np.ndarray  # int [M, C], epochs in which each class was preferred


def rank_labels(runs_dir: str | Path, dataset: Dataset) -> Ranking:
    """Ranks the train images of a data set by the finished runs in a folder.

    Raises:
      UserError: if no run there was trained on these images and labels.
    """
    runs_dir = Path(runs_dir)
    if not runs_dir.is_dir():
        raise UserError(f"there is no folder {runs_dir}; name the folder of the runs")
    found, left_out = {}, {}
    for folder in sorted(runs_dir.glob("*/seed_*")):
        label = f"{folder.parent.name}/{folder.name}"
        try:
            found[label] = _read(folder, dataset)
        except _Unusable as reason:
            left_out[label] = str(reason)
    if not found:
        reasons = [f"{label}: {reason}" for label, reason in left_out.items()]
        raise UserError(
            f"no run in {runs_dir} was trained on the train images of "
            f"{dataset.description} ({'; '.join(reasons[:3]) or 'it has none'}); train "
            "one on them, with the data's own labels"
        )
    return _combine(found, left_out, dataset)


def overlap(order: Sequence[int] | np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """Returns how well a ranking finds the `hits`, bool `[N]` by index.

    Average precision is the mean precision at each hit, as scikit-learn's without ties.
    """
    ranked = hits[np.asarray(order)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return {
        "average_precision": float(precision[ranked].mean()) if ranked.any() else 0.0,
        "chance": float(ranked.mean()),
        "first_100": float(ranked[:100].mean()),
    }


class _Unusable(Exception):
    """Why a run is left out."""


def _read(folder: Path, dataset: Dataset) -> _Learned:
    """Reads the training dynamics of a run on this data set."""
    if not runs.is_finished(folder):
        raise _Unusable("not finished")
    try:
        result = runs.read_result(folder)
        data = result["data"]
        same = (
            data.get("source_fingerprint", data["fingerprint"]) == dataset.fingerprint
        )
        if not same:
            _, size, _, channels = dataset.splits["train"].images.shape
            own = result["config"]["data"]
            for key, found in (("image_size", size), ("channels", channels)):
                if own[key] != found:
                    raise _Unusable(f"of other images; give --{key} {own[key]}")
            raise _Unusable("of other data")
        rows, labels, margins, rivals = (
            np.load(folder / runs.DYNAMICS / f"{name}.npy", allow_pickle=False)
            for name in ("rows", "labels", "margins", "rivals")
        )
    except FileNotFoundError:
        raise _Unusable("has no training dynamics") from None
    except (UserError, OSError, ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"cannot be read ({error})") from None
    train = dataset.splits["train"]
    index = np.searchsorted(train.rows, rows)
    whole = margins.shape == rivals.shape == (len(margins), len(rows))
    if not whole or rows.shape != labels.shape or not (index < len(train.rows)).all():
        raise _Unusable("has damaged training dynamics")
    if (train.rows[index] != rows).any() or (train.labels[index] != labels).any():
        raise _Unusable("was trained on other labels")
    often = (~np.isnan(margins)).sum(axis=0) >= MIN_EPOCHS
    margins, rivals = margins[:, often].astype(np.float32), rivals[:, often]
    return _learned(rows[often], margins, rivals, len(dataset.class_names))


def _learned(
    rows: np.ndarray, margins: np.ndarray, rivals: np.ndarray, num_classes: int
) -> _Learned:
    seen = ~np.isnan(margins)
    # An epoch that did not show an image neither learns nor forgets it.
    right, ever_right = (np.zeros(len(rows), bool) for _ in range(2))
    forgotten = np.zeros(len(rows))
    for epoch, shown in zip(margins, seen, strict=True):
        now = np.where(shown, epoch > 0, right)
        forgotten += right & ~now
        ever_right |= now
        right = now
    wrong = seen & (margins <= 0)
    counts = [(wrong & (rivals == c)).sum(axis=0) for c in range(num_classes)]
    mean = np.asarray(np.nanmean(margins, axis=0))
    return _Learned(rows, mean, forgotten, ~ever_right, np.stack(counts, axis=1))


def _combine(
    found: dict[str, _Learned], left_out: dict[str, str], dataset: Dataset
) -> Ranking:
    train = dataset.splits["train"]
    count = np.zeros(len(train.rows))
    sums = np.zeros((4, len(count)))  # rank, margin, forgotten, never_right
    rivals = np.zeros((len(count), len(dataset.class_names)), int)
    for each in found.values():
        index = np.searchsorted(train.rows, each.rows)
        count[index] += 1
        rank = (scipy.stats.rankdata(-each.margin) - 1) / max(1, len(index) - 1)
        sums[:, index] += [rank, each.margin, each.forgotten, each.never_right]
        rivals[index] += each.rivals
    with np.errstate(invalid="ignore"):  # 0 / 0 where no run trained on the image
        suspicion, margin, forgotten, never_right = sums / count
    return Ranking(
        runs=tuple(found),
        left_out=left_out,
        suspicion=suspicion,
        margin=margin,
        forgotten=forgotten,
        never_right=never_right,
        rival=np.where(rivals.any(axis=1), rivals.argmax(axis=1), -1),
    )
