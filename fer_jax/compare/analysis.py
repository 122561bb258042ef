"""Analyses the runs of one split: scores with intervals, tests, leaders by emotion."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from fer_jax.compare import statistics
from fer_jax.compare.calibration import reliability
from fer_jax.compare.permutation import permutation_tests
from fer_jax.compare.predictions import Predictions, load_predictions
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.statistics import Replicates, Tally
from fer_jax.compare.summary import (
    BASELINE,
    Comparison,
    Experiment,
    Images,
    Leader,
    Score,
    Summary,
    mean,
)
from fer_jax.metrics import METRICS, confusion_matrix, metric_names

_SEED = 0  # the same runs give the same figures every time
_ACCURACY = METRICS.index("accuracy")
_Pair = tuple[int, int]  # of experiments
_Cell = tuple[_Pair, int]  # of which one metric is tested


class _Analysis(NamedTuple):
    """The runs of one data set and what their comparison needs."""

    runs: Sequence[FinishedRun]
    members: list[list[int]]  # the runs of each experiment, as indices
    predictions: Predictions  # of all runs
    counts: Tally  # of all runs
    replicates: Replicates  # of all experiments

    @property
    def classes(self) -> list[str]:
        return self.runs[0].class_names

    @property
    def one_seed_each(self) -> bool:
        return self.replicates.degrees == 0


def summarise(
    runs: Sequence[FinishedRun],
    split: str,
    sort: str = "macro_f1",
    baseline: str = BASELINE,
    load: Callable[[Sequence[FinishedRun], str], Predictions] = load_predictions,
) -> Summary:
    """Analyses the runs that have `split`, each data set by itself.

    Args:
      runs: of one or several data sets.
      split: what they are compared on.
      sort: one of `SORTS`.
      baseline: the name of what the others are compared with.
      load: returns what runs of one data set predict on a split.

    Raises:
      UserError: the predictions of a run cannot be used.
    """
    by_data: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if split in run.scores:
            by_data.setdefault(run.fingerprint, []).append(run)
    experiments, leaders, images = [], [], {}
    for fingerprint, group in by_data.items():
        predictions = load(group, split)
        # BLAS threads slow down many small products, tenfold on a busy machine.
        with threadpool_limits(1, "blas"):
            found, best = _analyse(group, predictions, split, baseline)
        images[fingerprint] = _images(group[0], predictions, split)
        experiments += _in_order(found, sort)
        leaders += best
    classes = (name for group in by_data.values() for name in group[0].class_names)
    fingerprints = list(dict.fromkeys(run.fingerprint for run in runs))
    marks = {each: _letter(n) for n, each in enumerate(fingerprints)}
    return Summary(
        split=split,
        sort=sort,
        baseline=baseline,
        experiments=experiments,
        leaders=leaders,
        images=images,
        emotions=list(dict.fromkeys(classes)),
        marks=marks if len(marks) > 1 else {},
    )


def _analyse(
    runs: Sequence[FinishedRun], predictions: Predictions, split: str, baseline: str
) -> tuple[list[Experiment], list[Leader]]:
    """The experiments and the leaders of one data set."""
    groups: dict[str, list[int]] = {}
    for r, run in enumerate(runs):
        groups.setdefault(run.name, []).append(r)
    members = list(groups.values())
    counts = statistics.tally(
        predictions.labels,
        predictions.image_ids,
        predictions.classes,
        len(runs[0].class_names),
    )
    rng = np.random.default_rng(_SEED)
    replicates = statistics.bootstrap(counts, members, rng)
    data = _Analysis(runs, members, predictions, counts, replicates)
    ranked = _rank_by_class(data)
    leads = {c: (order[0], order[1]) for c, order in ranked.items() if len(order) > 1}
    base = [e for e, name in enumerate(groups) if name == baseline]
    pairs = [(e, b) for b in base for e in range(len(groups)) if e != b]
    p_values = _p_values(data, list(dict.fromkeys([*pairs, *leads.values()])), rng)
    exact = [_ACCURACY] if data.one_seed_each else []
    families = _families(len(data.classes), pairs)
    tested = compare(replicates, families, p_values, exact)
    names = metric_names(data.classes)
    versus: list[dict[str, Comparison]] = [{} for _ in members]
    for ((e, _), k), comparison in tested.items():
        versus[e][names[k]] = comparison
    experiments = [_experiment(data, e, each, split) for e, each in enumerate(versus)]
    duels = [(pair, len(METRICS) + c) for c, pair in leads.items()]
    margins = compare(replicates, [duels], p_values)
    leaders = [
        Leader(
            emotion=data.classes[c],
            best=experiments[order[0]],
            runner_up=experiments[order[1]] if len(order) > 1 else None,
            margin=margins[leads[c], len(METRICS) + c] if c in leads else None,
        )
        for c, order in ranked.items()
    ]
    return experiments, leaders


def _images(run: FinishedRun, predictions: Predictions, split: str) -> Images:
    scores = run.scores[split]
    support = np.bincount(predictions.labels, minlength=len(run.class_names))
    return Images(
        n=len(predictions.labels),
        support=dict(zip(run.class_names, support.tolist(), strict=True)),
        repeated=predictions.repeated(),
        leaked=scores["n"] - scores.get("n_clean", scores["n"]),
    )


def _rank_by_class(data: _Analysis) -> dict[int, list[int]]:
    """The experiments by falling F1, for each class that one of them finds."""
    f1 = data.replicates.values[:, len(METRICS) : len(METRICS) + len(data.classes)]
    found = np.flatnonzero((f1 > 0).any(axis=0)).tolist()
    return {c: np.argsort(-f1[:, c], kind="stable").tolist() for c in found}


def _p_values(
    data: _Analysis, pairs: list[_Pair], rng: np.random.Generator
) -> dict[_Pair, np.ndarray]:
    """The p-values `[K]` of each pair of experiments, before any correction."""
    draws = statistics.enough_draws(len(pairs) * len(data.classes))
    found = permutation_tests(
        data.counts, data.members, pairs, data.replicates, rng, draws
    )
    if data.one_seed_each:
        labels, ids = data.predictions.labels, data.predictions.image_ids
        for p, pair in enumerate(pairs):
            one, other = (data.predictions.classes[data.members[e][0]] for e in pair)
            found[p, _ACCURACY] = statistics.mcnemar(labels, ids, one, other)
    return dict(zip(pairs, found, strict=True))


def _families(num_classes: int, pairs: Sequence[_Pair]) -> list[list[_Cell]]:
    """The tests against the baseline that are corrected together.

    These are an overall metric of all experiments, and a metric by class of all
    experiments and classes.
    """
    columns = [[k] for k in range(len(METRICS))]
    for start in range(len(METRICS), len(METRICS) + 3 * num_classes, num_classes):
        columns.append([*range(start, start + num_classes)])
    return [[(pair, k) for pair in pairs for k in family] for family in columns]


def compare(
    replicates: Replicates,
    families: Sequence[Sequence[_Cell]],
    p_values: Mapping[_Pair, np.ndarray],
    exact: Collection[int] = (),
) -> dict[_Cell, Comparison]:
    """Differences and tests, each family with Holm's correction of its own.

    Args:
      replicates: of all experiments.
      families: what is corrected together: pairs of experiments, and a metric's index.
      p_values: `[K]` of each pair, before any correction.
      exact: the metrics that McNemar's test is of, and no permutation test.
    """
    differences = {pair: statistics.difference(replicates, *pair) for pair in p_values}
    found = {}
    for family in families:
        p = np.array([p_values[pair][k] for pair, k in family])
        size = max(int(np.count_nonzero(~np.isnan(p))), 1)
        detectable = {
            pair: differences[pair].detectable(size)
            for pair in dict.fromkeys(pair for pair, _ in family)
        }
        for (pair, k), holm in zip(family, statistics.holm(p).tolist(), strict=True):
            difference = differences[pair]
            found[pair, k] = Comparison(
                value=float(difference.value[k]),
                low=float(difference.low[k]),
                high=float(difference.high[k]),
                p=float(p_values[pair][k]),
                p_holm=holm,
                detectable=float(detectable[pair][k]),
                significant=holm < statistics.ALPHA,
                test="McNemar" if k in exact else "permutation",
            )
    return found


def _experiment(
    data: _Analysis, e: int, versus: dict[str, Comparison], split: str
) -> Experiment:
    members, labels = data.members[e], data.predictions.labels
    runs = [data.runs[r] for r in members]
    classes, sure = (
        data.predictions.classes[members],
        data.predictions.confidence[members],
    )
    correct = classes == labels
    every_label = np.tile(labels, len(members))
    errors = [reliability(*run).error() for run in zip(sure, correct, strict=True)]
    return Experiment(
        name=runs[0].name,
        runs=runs,
        scores=_scores(data, e),
        versus=versus,
        predicted=classes.astype(np.uint8),
        confusion=confusion_matrix(every_label, classes.ravel(), len(data.classes)),
        reliability=reliability(sure.ravel(), correct.ravel()),
        ece=mean(errors),
        ece_sd=float(np.std(errors, ddof=1)) if len(errors) > 1 else np.nan,
        clean={
            metric: mean(run.scores[split][f"{metric}_clean"] for run in runs)
            for metric in METRICS
            if all(run.scores[split].get("n_clean") for run in runs)
        },
    )


def _scores(data: _Analysis, e: int) -> dict[str, Score]:
    values, sd = data.replicates.values[e], data.replicates.sd[e]
    low, high = statistics.interval(data.replicates.draws(e))
    # With a few images, all of them right, no draw may reach the score.
    low, high = np.minimum(low, values), np.maximum(high, values)
    columns = (values, low.clip(0, 1), high.clip(0, 1), sd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return dict(zip(metric_names(data.classes), map(Score._make, rows), strict=True))


def _in_order(experiments: Sequence[Experiment], sort: str) -> list[Experiment]:
    """By name, by rising time, or by a falling score."""
    if sort == "name":
        return sorted(experiments, key=lambda each: each.name)
    if sort == "time":
        return sorted(experiments, key=Experiment.minutes)
    return sorted(experiments, key=lambda each: -each.mean(sort))


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"Z{n}"
