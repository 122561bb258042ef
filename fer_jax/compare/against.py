"""Compares experiments with an earlier export: did a change help since then?

The export of FILE.json holds the class that each run predicts for each image. With the
same images, that is enough for the tests that compare experiments with each other.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fer_jax.compare import statistics
from fer_jax.compare.layout import Cell, Sheet
from fer_jax.compare.permutation import permutation_tests
from fer_jax.compare.predictions import load_predictions
from fer_jax.compare.results import shortlist
from fer_jax.compare.summary import Summary
from fer_jax.compare.wording import NOT_SIGNIFICANT, p_value, percent, points, words
from fer_jax.compare.wording import interval as ends
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
    low: float  # of the difference's 95 % interval
    high: float
    p_holm: float  # after Holm's correction over experiments, and emotions

    @property
    def significant(self) -> bool:
        """Whether it is, after the correction."""
        return self.p_holm < statistics.ALPHA


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
    if data != own or len(own) > 1:
        raise UserError(
            f"--against {path} is of data {shortlist(data)}, the runs are of "
            f"{shortlist(own)}: a comparison needs the same images and labels"
        )
    (images,) = summary.images.values()
    if any(len(run) != images.n for runs in found.values() for run in runs):
        raise UserError(f"--against {path} is damaged; {again}")
    return found


def since(before: Mapping[str, Sequence[np.ndarray]], summary: Summary) -> list[Since]:
    """The changes of the experiments that both have: macro F1, then F1 by emotion.

    Tests as in `analysis`: bootstrap intervals and permutation tests, paired by images.

    Raises:
      UserError: they have no experiment in common.
    """
    now = {each.name: each.runs for each in summary.experiments}
    names = [name for name in now if name in before]
    if not names:
        raise UserError(
            f"--against has {shortlist(before)}, the runs are of {shortlist(now)}: no "
            "experiment is in both"
        )
    runs = [run for name in names for run in now[name]]
    own = load_predictions(runs, summary.split)
    rows: list[np.ndarray] = []
    members = []
    for name in names:
        for group in (
            [own.classes[runs.index(run)] for run in now[name]],
            before[name],
        ):
            members.append([*range(len(rows), len(rows) + len(group))])
            rows += group
    classes = summary.experiments[0].class_names
    counts = statistics.tally(own.labels, own.image_ids, np.stack(rows), len(classes))
    rng = np.random.default_rng(_SEED)
    replicates = statistics.bootstrap(counts, members, rng)
    pairs = [(2 * e, 2 * e + 1) for e in range(len(names))]
    draws = statistics.enough_draws(len(pairs) * len(classes))
    p = permutation_tests(counts, members, pairs, replicates, rng, draws)
    first = len(METRICS)
    found = []
    for columns in ([_MACRO_F1], range(first, first + len(classes))):
        corrected = statistics.holm(p[:, columns])
        for e, pair in enumerate(pairs):
            difference = statistics.difference(replicates, *pair)
            for c, k in enumerate(columns):
                found.append(
                    Since(
                        names[e],
                        metric_names(classes)[k],
                        before=float(replicates.values[pair[1], k]),
                        now=float(replicates.values[pair[0], k]),
                        low=float(difference.low[k]),
                        high=float(difference.high[k]),
                        p_holm=float(corrected[e, c]),
                    )
                )
    return found


def sheet(found: Sequence[Since], summary: Summary, path: Path) -> Sheet:
    """Macro F1 of each experiment, and by emotion what changed significantly."""
    rows: list[list[Cell]] = []
    for each in found:
        if each.metric != "macro_f1" and not each.significant:
            continue
        change = each.now - each.before
        verdict = "better" if change > 0 else "worse"
        rows.append(
            [
                each.experiment,
                words(each.metric),
                percent(each.before),
                percent(each.now),
                f"{points(change)} {ends(each.low, each.high, signed=True)}",
                p_value(each.p_holm),
                verdict if each.significant else NOT_SIGNIFICANT,
            ]
        )
    headers = ["experiment", "score", "before", "now", "difference", "p (Holm)", ""]
    caption = f"{summary.split}: since {path}, in % and points [95 % interval]"
    note = "all macro F1, and the F1 of emotions that changed significantly"
    return Sheet(caption, headers, "llrrrrr", rows, note)


def got_worse(found: Sequence[Since]) -> list[dict[str, Any]]:
    """What is significantly worse than before."""
    return [e._asdict() for e in found if e.significant and e.now < e.before]
