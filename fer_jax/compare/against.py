"""Compares experiments with an earlier export: did a change help since then?

The export of FILE.json holds the class that each run predicts for each image. With the
same images, that is enough for the tests that compare experiments with each other.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fer_jax.compare import statistics
from fer_jax.compare.analysis import compare
from fer_jax.compare.layout import Cell, Sheet
from fer_jax.compare.permutation import permutation_tests
from fer_jax.compare.predictions import load_predictions
from fer_jax.compare.results import shortlist
from fer_jax.compare.summary import Comparison, Experiment, Summary
from fer_jax.compare.wording import (
    WORSE,
    p_value,
    percent,
    verdict,
    with_interval,
    words,
)
from fer_jax.errors import UserError
from fer_jax.metrics import METRICS, metric_names

_SEED = 0
_MACRO_F1 = METRICS.index("macro_f1")


class Since(NamedTuple):
    """The change of an experiment in one metric."""

    experiment: str
    metric: str
    before: float  # in 0..1
    now: float
    tested: Comparison  # now less before


def pack(predicted: np.ndarray) -> str:
    """Predicted classes, uint8 `[N]`, as text of about two bits for each image."""
    packed = zlib.compress(predicted.astype(np.uint8).tobytes(), 9)
    return base64.b64encode(packed).decode()


def unpack(text: str) -> np.ndarray:
    """The classes that `pack` was given, uint8 `[N]`.

    Raises:
      ValueError: it is something else.
    """
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    except zlib.error as error:
        raise ValueError(str(error)) from None


def read(path: Path, summary: Summary) -> dict[str, list[np.ndarray]]:
    """The classes that each experiment's runs predicted, by the experiment's name.

    Raises:
      UserError: the file is no export, or of other data or labels.
    """
    again = "write it again with --export"
    try:
        content = json.loads(path.read_text("utf-8"))
        data = [each["fingerprint"] for each in content["data"]]
        stored = content["splits"][summary.split]["predicted"]
        found = {name: [unpack(run) for run in runs] for name, runs in stored.items()}
    except OSError as error:
        raise UserError(f"--against {path}: {error.strerror}") from None
    except KeyError as error:
        raise UserError(
            f"--against {path} has no {error.args[0]}: it is no export of this version "
            f"on {summary.split}; {again}"
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--against {path} is no FILE.json of --export ({error}); {again}"
        ) from None
    own = [*summary.images]
    if len(own) > 1:
        raise UserError(
            "--against needs runs of one data set, and these are of "
            f"{len(own)}; choose with --filter"
        )
    if data != own:
        raise UserError(
            f"--against {path} is of data {shortlist(data)}, the runs are of "
            f"{shortlist(own)}: a comparison needs the same images and labels"
        )
    (images,) = summary.images.values()
    classes = len(summary.experiments[0].class_names)
    whole = all(
        runs and all(len(run) == images.n and run.max() < classes for run in runs)
        for runs in found.values()
    )
    if not whole:
        raise UserError(f"--against {path} is damaged; {again}")
    if not found.keys() & {each.name for each in summary.experiments}:
        names = shortlist(each.name for each in summary.experiments)
        raise UserError(
            f"--against {path} has {shortlist(found)}, the runs are of {names}: no "
            "experiment is in both"
        )
    return found


def since(before: Mapping[str, Sequence[np.ndarray]], summary: Summary) -> list[Since]:
    """The changes of the experiments that both have: macro F1, then F1 by emotion.

    Tests as in `analysis`: bootstrap intervals and permutation tests, paired by images.
    An experiment whose predictions are the same as before is not tested, and counts in
    no correction.
    """
    changed: list[Experiment] = []
    rows: list[np.ndarray] = []
    members: list[list[int]] = []

    def add(run: np.ndarray) -> int:
        """The place of a run's predictions; those of one run count once."""
        same = (n for n, other in enumerate(rows) if np.array_equal(run, other))
        place = next(same, len(rows))
        if place == len(rows):
            rows.append(run)
        return place

    for each in summary.experiments:
        earlier = before.get(each.name, ())
        if earlier and not _same([*each.predicted], earlier):
            changed.append(each)
            members += [
                [add(run) for run in group] for group in (each.predicted, earlier)
            ]
    if not changed:
        return []
    # The true classes are the same for all runs.
    own = load_predictions(changed[0].runs[:1], summary.split)
    classes = changed[0].class_names
    counts = statistics.tally(own.labels, own.image_ids, np.stack(rows), len(classes))
    rng = np.random.default_rng(_SEED)
    replicates = statistics.bootstrap(counts, members, rng)
    pairs = [(2 * e, 2 * e + 1) for e in range(len(changed))]
    draws = statistics.enough_draws(len(pairs) * len(classes))
    p = permutation_tests(counts, members, pairs, replicates, rng, draws)
    f1 = range(len(METRICS), len(METRICS) + len(classes))
    families = [[(pair, k) for pair in pairs for k in ks] for ks in ([_MACRO_F1], f1)]
    tested = compare(replicates, families, dict(zip(pairs, p, strict=True)))
    names, values = metric_names(classes), replicates.values.tolist()
    return [
        Since(changed[now // 2].name, names[k], values[then][k], values[now][k], each)
        for ((now, then), k), each in tested.items()
    ]


def _same(now: Sequence[np.ndarray], before: Sequence[np.ndarray]) -> bool:
    """Whether two experiments predict the same, run by run."""
    kept = sorted(run.tobytes() for run in now)
    return kept == sorted(run.tobytes() for run in before)


def sheet(
    found: Sequence[Since],
    before: Mapping[str, Sequence[np.ndarray]],
    summary: Summary,
    path: Path,
) -> Sheet:
    """Macro F1 of each experiment, and by emotion what changed significantly."""
    rows: list[list[Cell]] = []
    for each in found:
        if each.metric != "macro_f1" and not each.tested.significant:
            continue
        rows.append(
            [
                each.experiment,
                words(each.metric),
                percent(each.before),
                percent(each.now),
                with_interval(each.tested, signed=True),
                p_value(each.tested.p_holm),
                verdict(each.tested),
            ]
        )
    headers = ["experiment", "score", "before", "now", "difference", "p (Holm)", ""]
    caption = f"{summary.split}: since {path}, in % and points [95 % interval]"
    names = [each.name for each in summary.experiments]
    changed = {each.experiment for each in found}
    groups = {
        "unchanged": [name for name in names if name in before and name not in changed],
        "only now": [name for name in names if name not in before],
        f"only in {path}": [name for name in before if name not in names],
    }
    told = [
        f"{word}: {shortlist(group, 12)}" for word, group in groups.items() if group
    ]
    what = "all macro F1, and the F1 of emotions that changed significantly"
    return Sheet(caption, headers, "llrrrrr", rows, "; ".join([*told, what]))


def got_worse(found: Sequence[Since]) -> bool:
    """Whether anything is significantly worse than before."""
    return any(verdict(each.tested) == WORSE for each in found)
