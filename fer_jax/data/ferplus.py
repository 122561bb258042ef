"""The FER+ votes: ten people's judgement of each FER2013 image, as labels.

`fer2013new.csv` (Barsoum et al. 2016, arXiv:1608.01041) has no images; its rows follow
those of `fer2013.csv`. A shifted row would give every image another one's label, so
the order is checked before it is believed.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fer_jax.data.prepare import Dataset
from fer_jax.data.records import USAGES, Split
from fer_jax.emotions import EMOTIONS, emotion
from fer_jax.errors import UserError

NAME = "fer2013new.csv"
FILTERS = ("published", "outliers", "none")
CONTEMPT = len(EMOTIONS)  # the class after the seven
_UNKNOWN, _NO_FACE = CONTEMPT + 1, CONTEMPT + 2
_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
)
# Seven in order; then contempt, unknown and no face, as in the file.
_ORDER = [
    *(next(c for c in _COLUMNS if emotion(c) == name) for name in EMOTIONS),
    *_COLUMNS[CONTEMPT:],
]
# Of 200 rows in a right order at least 113 have FER2013's label as the most voted one,
# of 200 that are off by one row at most 53.
_CHECKED, _LEAST_AGREEMENT = 200, 0.4
REASONS = ("no face", "unknown", "no agreement", "contempt")


@dataclasses.dataclass(frozen=True)
class Votes:
    """The rows of the file.

    Attributes:
      path: the file.
      usage: str `[M]`, FER2013's Usage.
      counts: int64 `[M, 10]`, the votes for the seven emotions in the order of
        `EMOTIONS`, then for contempt, unknown and no face.
      named: bool `[M]`, whether the row names an image; those without have no face.
    """

    path: Path
    usage: np.ndarray
    counts: np.ndarray
    named: np.ndarray


def load(dataset: Dataset) -> Votes | None:
    """The votes beside a data set's csv, checked; None where there are none.

    Raises:
      UserError: where they are not FER+'s, or not of these images.
    """
    if dataset.source != "csv" or not (path := dataset.path.parent / NAME).is_file():
        return None
    votes = read(path)
    check(votes, dataset.splits)
    return votes


def left_aside(error: UserError) -> str:
    """The note where votes that nobody asked for cannot be used."""
    return f"the FER+ votes are left aside: {error}"


def read(path: Path) -> Votes:
    """Reads the votes.

    Raises:
      UserError: where the file is not FER+'s.
    """
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise UserError(f"{path} cannot be read as a csv ({error})") from None
    table.columns = [str(name).strip() for name in table.columns]
    missing = [n for n in ("Usage", "Image name", *_COLUMNS) if n not in table]
    if missing:
        raise UserError(
            f"{path} lacks the column {missing[0]!r} of FER+'s {NAME}; fetch it again"
        )
    counts = table[_ORDER].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    whole = (counts >= 0).all(axis=1) & (counts == np.floor(counts)).all(axis=1)
    if not whole.all():
        line = int(np.flatnonzero(~whole)[0]) + 2
        raise UserError(
            f"{path}:{line} has a vote that is not a whole number; fetch it again"
        )
    usage = table["Usage"].astype(str).str.strip().to_numpy()
    named = table["Image name"].notna().to_numpy()
    return Votes(path, usage, counts.astype(np.int64), named)


def check(votes: Votes, splits: Mapping[str, Split]) -> None:
    """Checks that the votes are of these images, row by row.

    Args:
      votes: the file's rows.
      splits: of the csv, with FER2013's labels.

    Raises:
      UserError: where there are too few or too many rows, a row is of another Usage,
        or the votes have little to do with the labels.
    """
    rows = np.concatenate([split.rows for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    total, last = len(votes.counts), int(rows.max())
    fix = f"expected those of this csv, in its order; fetch {NAME} again"
    if last >= total:
        raise UserError(
            f"{votes.path} has {total:,} rows, and the csv beside it at least "
            f"{last + 1:,}; {fix}"
        )
    present = set()
    for name, split in splits.items():
        expected = USAGES[name]
        if name == "val" and (votes.usage[split.rows] == "Training").all():
            expected = "Training"  # val was carved from train
        wrong = np.flatnonzero(votes.usage[split.rows] != expected)
        if len(wrong):
            row = int(split.rows[wrong[0]])
            raise UserError(
                f"{votes.path}:{row + 2} is of Usage {votes.usage[row]!r}, and the "
                f"same row of the csv of {expected!r}; {fix}"
            )
        present.add(expected)
    if set(votes.usage[last + 1 :]) & present:
        raise UserError(
            f"{votes.path} has {total:,} rows, and the csv beside it {last + 1:,}, "
            f"though both have {' and '.join(sorted(present))}; {fix}"
        )
    _check_order(votes, rows, labels)


def _check_order(votes: Votes, rows: np.ndarray, labels: np.ndarray) -> None:
    """Compares the labels with the most voted emotions, some rows at a time."""
    order = np.argsort(rows)
    rows, labels = rows[order], labels[order]
    same = votes.counts[rows, :CONTEMPT].argmax(axis=1) == labels
    last_start = max(0, len(rows) - _CHECKED)
    for start in (*range(0, last_start, _CHECKED), last_start):
        part = slice(start, start + _CHECKED)
        if same[part].mean() < _LEAST_AGREEMENT:
            first, last = int(rows[part][0]) + 2, int(rows[part][-1]) + 2
            raise UserError(
                f"{votes.path}: of lines {first:,} to {last:,} only "
                f"{100 * same[part].mean():.0f} % have the csv's emotion as the most "
                f"voted one, and in the right order some 64 % do; fetch {NAME} again"
            )


def targets(
    votes: Votes, *, soft: bool, vote_filter: str, contempt: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What the votes make of each row.

    Args:
      votes: the file's rows.
      soft: shares of the votes instead of the emotion that wins.
      vote_filter: "none" takes all votes: the winner is the most voted answer, alone in
        front. "outliers" does without answers of one vote. "published" is what the
        authors' own program does: without answers of one vote, the winner must have
        more than half of the rest; and soft labels are of the most voted emotions, in
        order, until they hold three quarters of the votes or are three, and are left
        out if they then hold no more than half, or are more for being level.
      contempt: whether that is an eighth class; else images of which it is the most
        voted emotion are left out, and its votes for others do not count.

    Returns:
      float32 `[M, C]`, rows that sum to 1, or to 0 where the row gives no label, and
      int8 `[M]`, why not, as a place in `REASONS`, or -1.
    """
    counts = votes.counts.copy()
    if vote_filter != "none":
        counts[counts == 1] = 0
    # Few patterns of votes make up all the rows.
    patterns, which = np.unique(counts, axis=0, return_inverse=True)
    rule = _shares if soft else _winner
    kept = np.stack([rule(each, vote_filter == "published") for each in patterns])
    kept = kept[which.reshape(-1)]
    reason = np.full(len(kept), -1, np.int8)
    top = kept.argmax(axis=1)
    for place, left_out in enumerate(
        (
            ~votes.named | (top == _NO_FACE),
            top == _UNKNOWN,
            kept.sum(axis=1) == 0,
            (top == CONTEMPT) & (not contempt),
        )
    ):
        reason[(reason < 0) & left_out] = place
    found = kept[:, : CONTEMPT + contempt] * (reason < 0)[:, None]
    total = found.sum(axis=1, keepdims=True)
    return np.float32(found / np.maximum(total, 1)), reason


def majority(votes: Votes, *, contempt: bool) -> np.ndarray:
    """The published majority of each row: int32 `[M]`, -1 where there is none."""
    found, reason = targets(
        votes, soft=False, vote_filter="published", contempt=contempt
    )
    return np.where(reason < 0, found.argmax(axis=1), -1).astype(np.int32)


def _winner(votes: np.ndarray, strict: bool) -> np.ndarray:
    """The winning answer's votes alone, int `[10]`; all 0 where none wins."""
    top = votes.max()
    wins = top > votes.sum() / 2 if strict else (votes == top).sum() == 1
    return np.where(votes == top, votes, 0) * bool(wins)


def _shares(votes: np.ndarray, strict: bool) -> np.ndarray:
    """The votes for those emotions that make the soft label, int `[10]`."""
    kept, total = np.zeros_like(votes), votes.sum()
    emotions = np.arange(len(votes)) <= CONTEMPT
    if not strict:
        if votes[emotions].max() > votes[~emotions].max():
            kept = votes * emotions
        elif votes[~emotions].max() > 0:
            kept[_UNKNOWN + votes[_UNKNOWN:].argmax()] = 1
        return kept
    for level in np.unique(votes[votes > 0])[::-1]:
        if kept.sum() >= 0.75 * total or (kept > 0).sum() >= 3:
            break
        tied = votes == level
        kept[tied & emotions] = level
        if (tied & ~emotions).any():  # "unknown" or "no face" ends it
            if not kept.any():
                kept[_UNKNOWN + votes[_UNKNOWN:].argmax()] = level
            break
    enough = kept.sum() > total / 2 and (kept > 0).sum() <= 3
    return kept * enough
