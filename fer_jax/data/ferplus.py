"""The FER+ votes: ten people's judgement of each FER2013 image, as labels.

`fer2013new.csv` (Barsoum et al. 2016, arXiv:1608.01041) has no images; its rows are in
the order of `fer2013.csv`. If they were off by one, every image would get the label of
another, so the order is checked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_jax.data.prepare import Dataset
from fer_jax.data.records import USAGES, Split
from fer_jax.emotions import EMOTIONS, emotion
from fer_jax.errors import UserError

NAME = "fer2013new.csv"
CONTEMPT = len(EMOTIONS)  # the class after the seven
_UNKNOWN, _NO_FACE = CONTEMPT + 1, CONTEMPT + 2
_COLUMNS = (
    *("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"),
    *("contempt", "unknown", "NF"),
)
# The seven in the order of EMOTIONS, then the last three as in the file.
_ORDER = [
    *(next(c for c in _COLUMNS if emotion(c) == name) for name in EMOTIONS),
    *_COLUMNS[CONTEMPT:],
]
# Of 200 rows in the right order, FER2013's label has the most votes in at least 113; of
# 200 that are off by one row, in at most 53.
_CHECKED, _LEAST_AGREEMENT = 200, 0.4
REASONS = ("no face", "unknown", "no agreement", "contempt")


class Votes(NamedTuple):
    """The rows of the file."""

    path: Path
    usage: np.ndarray  # str [M], FER2013's Usage
    # int64 [M, 10]: the votes for the seven EMOTIONS, contempt, unknown and no face.
    counts: np.ndarray
    named: np.ndarray  # bool [M]: the row names an image; the others have no face


def load(dataset: Dataset) -> Votes | None:
    """The votes beside the csv of a data set; None if there are none.

    Raises:
      UserError: if the file is not FER+'s, or is of other images.
    """
    if dataset.source != "csv" or dataset.path is None:
        return None
    if not (path := dataset.path.parent / NAME).is_file():
        return None
    if dataset.class_names != EMOTIONS:
        raise UserError(
            f"{path} has votes for all seven emotions, and {dataset.path} has images "
            f"of {', '.join(dataset.class_names)} only"
        )
    votes = read(path)
    check(votes, dataset.splits)
    return votes


def unused_note(error: UserError) -> str:
    """The note for votes that no setting asks for and that cannot be used."""
    return f"the FER+ votes are not used: {error}"


def read(path: Path) -> Votes:
    """Reads the votes.

    Raises:
      UserError: if the file is not FER+'s.
    """
    import pandas as pd  # half a second, which most runs can do without

    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
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
      votes: the rows of the file.
      splits: of the csv as loaded, with FER2013's labels.

    Raises:
      UserError: if there are too few or too many rows, a row has another Usage, or the
        votes disagree with the labels.
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
    for name, split in splits.items():
        wrong = np.flatnonzero(votes.usage[split.rows] != USAGES[name])
        if len(wrong):
            row = int(split.rows[wrong[0]])
            raise UserError(
                f"{votes.path}:{row + 2} has Usage {votes.usage[row]!r}, and the same "
                f"row of the csv {USAGES[name]!r}; {fix}"
            )
    present = sorted(USAGES[name] for name in splits)
    if set(votes.usage[last + 1 :]) & set(present):
        raise UserError(
            f"{votes.path} has {total:,} rows, and the csv beside it {last + 1:,}, "
            f"though both have {' and '.join(present)}; {fix}"
        )
    _check_order(votes, rows, labels)


def _check_order(votes: Votes, rows: np.ndarray, labels: np.ndarray) -> None:
    """Compares the labels with the most voted emotions, `_CHECKED` rows at a time."""
    order = np.argsort(rows)
    rows, labels = rows[order], labels[order]
    same = votes.counts[rows, :CONTEMPT].argmax(axis=1) == labels
    last_start = max(0, len(rows) - _CHECKED)
    for start in (*range(0, last_start, _CHECKED), last_start):
        part = slice(start, start + _CHECKED)
        if same[part].mean() < _LEAST_AGREEMENT:
            first, last = int(rows[part][0]) + 2, int(rows[part][-1]) + 2
            raise UserError(
                f"{votes.path}: in lines {first:,} to {last:,} the most voted emotion "
                f"is that of the csv in only {100 * same[part].mean():.0f} %, expected "
                f"some 64 %; fetch {NAME} again"
            )


def targets(
    votes: Votes, *, soft: bool, vote_filter: str, contempt: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The label of each row.

    Args:
      votes: the rows of the file.
      soft: shares of the votes; else the winning emotion.
      vote_filter: "none" counts all votes, and the most voted answer wins unless
        another is level. "outliers" drops answers with one vote. "published" follows
        the authors' program: it drops answers with one vote, and the winner needs more
        than half of the rest. Its soft labels take the most voted emotions, in order,
        until they hold three quarters of the votes or are three; a row has no label if
        they then hold no more than half, or are more than three because of a tie.
      contempt: whether contempt is an eighth class; else rows in which it leads have no
        label, and its votes in others are dropped.

    Returns:
      float32 `[M, C]`, rows that sum to 1, or to 0 if the row has no label; and int8
      `[M]`, why not, as an index into `REASONS`, or -1.
    """
    counts = votes.counts.copy()
    if vote_filter != "none":
        counts[counts == 1] = 0
    # A few patterns of votes make up all rows.
    patterns, which = np.unique(counts, axis=0, return_inverse=True)
    rule = _shares if soft else _winner
    kept = np.stack([rule(each, vote_filter == "published") for each in patterns])
    kept = kept[which.reshape(-1)]
    top = kept.argmax(axis=1)
    conditions = (
        ~votes.named | (top == _NO_FACE),
        top == _UNKNOWN,
        kept.sum(axis=1) == 0,
        (top == CONTEMPT) & (not contempt),
    )
    reason = np.select(conditions, range(len(REASONS)), -1).astype(np.int8)
    kept = kept[:, : CONTEMPT + contempt] * (reason < 0)[:, None]
    total = np.maximum(kept.sum(axis=1, keepdims=True), 1)
    return (kept / total).astype(np.float32), reason


def majority(votes: Votes, *, contempt: bool) -> np.ndarray:
    """The published majority of each row: int32 `[M]`, -1 if there is none."""
    shares, reason = targets(
        votes, soft=False, vote_filter="published", contempt=contempt
    )
    return np.where(reason < 0, shares.argmax(axis=1), -1).astype(np.int32)


def _winner(votes: np.ndarray, strict: bool) -> np.ndarray:
    """The votes for the winning answer alone, int `[10]`; all 0 if none wins."""
    top = votes.max()
    wins = top > votes.sum() / 2 if strict else (votes == top).sum() == 1
    return np.where(votes == top, votes, 0) * bool(wins)


def _shares(votes: np.ndarray, strict: bool) -> np.ndarray:
    """The votes that make up the soft label, int `[10]`."""
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
        if (tied & ~emotions).any():  # "unknown" or "no face" ends the list
            if not kept.any():
                kept[_UNKNOWN + votes[_UNKNOWN:].argmax()] = level
            break
    enough = kept.sum() > total / 2 and (kept > 0).sum() <= 3
    return kept * enough
