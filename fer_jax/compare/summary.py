"""Runs of one split to experiments with intervals, tests and leaders: what all show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_jax.compare import statistics
from fer_jax.compare.predictions import Predictions, load_predictions
from fer_jax.compare.results import CLASS_METRICS, METRICS, Run
from fer_jax.compare.statistics import Difference, Reliability, Replicates, Tally
from fer_jax.metrics import confusion_matrix, scores_of_counts

BASELINE = "baseline"
SORTS = ("macro_f1", "accuracy", "balanced_accuracy", "name", "time")
PERMUTATION, MCNEMAR = "permutation", "McNemar"
# Fixed, so that the same runs are told with the same figures every time.
_SEED = 0


@dataclass(frozen=True)
class Experiment:
    """The runs of one experiment on one data set, one for each seed.

    Attributes:
      name: the experiment.
      runs: by seed.
      scores: indexed by metric: `value` (the mean over seeds), `low` and `high` (its
        95 % interval), `sd` (over seeds, ddof=1), all in 0..1. NaN: there is none.
      versus: how it differs from the baseline, indexed by metric: `value`, `low`,
        `high`, `p`, `p_holm`, `detectable`, `real` (`p_holm` < 0.05) and `test`;
        None for the baseline itself, and where there is none.
      confusion: int `[C, C]`, summed over seeds; the row is the true class.
      reliability: of the predictions of all seeds together.
      ece: the expected calibration error of each seed.
      clean: the overall metrics, means over seeds, of the images that have no copy in
        train; empty where that is not known.
    """

    name: str
    runs: list[Run]
    scores: pd.DataFrame
    versus: pd.DataFrame | None
    confusion: np.ndarray
    reliability: Reliability
    ece: list[float]
    clean: dict[str, float]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data."""
        return self.runs[0].fingerprint

    def mean(self, metric: str) -> float:
        """The mean over seeds of a metric; NaN where it has none."""
        return self.scores["value"].get(metric, np.nan)

    def devices(self) -> set[str]:
        """What its runs were trained on."""
        return {run.device for run in self.runs}

    def best_epoch(self) -> float:
        """The epoch of the best val score, on average."""
        return float(np.mean([run.selection["epoch"] for run in self.runs]))

    def images_per_s(self) -> float:
        """How fast a run trains, on average."""
        return float(np.mean([run.timing["images_per_s"] for run in self.runs]))

    def mean_ece(self) -> float:
        """The expected calibration error of a run, on average."""
        return float(np.mean(self.ece))

    def minutes(self) -> float:
        """How long a run trains, on average."""
        return float(np.mean([run.timing["train_s"] for run in self.runs])) / 60


@dataclass(frozen=True)
class Leader:
    """Which experiment does best on an emotion, by F1, and by how much.

    Attributes:
      emotion: the emotion.
      best: the experiment with the highest F1.
      runner_up: the next; None where there is one experiment.
      margin: as a row of `Experiment.versus`; None without a runner-up.
    """

    emotion: str
    best: Experiment
    runner_up: Experiment | None
    margin: pd.Series | None


@dataclass(frozen=True)
class Images:
    """The images of the split in one data set.

    Attributes:
      n: how many there are.
      support: how many of each emotion.
      repeated: how many have an identical one before them.
      identical_known: whether the runs tell which images are identical.
      leaked: how many have a copy in train, exact or near; None: the runs do not tell.
    """

    n: int
    support: dict[str, int]
    repeated: int
    identical_known: bool
    leaked: int | None


@dataclass(frozen=True)
class Summary:
    """One split of all experiments; what the tables, exports and the report show.

    Attributes:
      split: `val` or `test`.
      experiments: in the tables' order, data set by data set.
      leaders: for each data set and emotion.
      images: by fingerprint.
      emotions: the classes, in the order of the labels.
      marks: a letter for each fingerprint; empty where all runs share one.
      baseline: the name of what all else is compared with; None: there is none.
    """

    split: str
    experiments: list[Experiment]
    leaders: list[Leader]
    images: dict[str, Images]
    emotions: list[str]
    marks: dict[str, str]
    baseline: str | None

    def label(self, experiment: Experiment) -> str:
        """Its name, with the letter of its data where there are several."""
        mark = self.marks.get(experiment.fingerprint)
        return f"{experiment.name} [{mark}]" if mark else experiment.name


def summarise(
    runs: Sequence[Run],
    split: str,
    sort: str = "macro_f1",
    baseline: str = BASELINE,
) -> Summary:
    """Analyses the runs that have `split`; data sets are kept apart.

    Raises:
      UserError: the predictions of a run cannot be used.
    """
    by_data: dict[str, list[Run]] = {}
    for run in runs:
        if split in run.scores:
            by_data.setdefault(run.fingerprint, []).append(run)
    experiments, leaders, images = [], [], {}
    for fingerprint, group in by_data.items():
        some, best, images[fingerprint] = _analyse(group, split, baseline)
        experiments += _in_order(some, sort)
        leaders += best
    names = dict.fromkeys(
        name for group in by_data.values() for name in group[0].data["class_names"]
    )
    has_baseline = any(experiment.name == baseline for experiment in experiments)
    return Summary(
        split=split,
        experiments=experiments,
        leaders=leaders,
        images=images,
        emotions=list(names),
        marks=data_marks(runs),
        baseline=baseline if has_baseline else None,
    )


def data_marks(runs: Sequence[Run]) -> dict[str, str]:
    """A letter for each fingerprint, or nothing where all runs share one."""
    prints = list(dict.fromkeys(run.fingerprint for run in runs))
    if len(prints) == 1:
        return {}
    return {fingerprint: _letter(n) for n, fingerprint in enumerate(prints)}


def metrics_of(emotions: Sequence[str]) -> list[str]:
    """All metrics of these emotions, the overall ones first."""
    return [*METRICS, *(f"{m}_{name}" for m in CLASS_METRICS for name in emotions)]


def _analyse(
    runs: Sequence[Run], split: str, baseline: str
) -> tuple[list[Experiment], list[Leader], Images]:
    """Analyses the runs of one data set."""
    emotions = runs[0].data["class_names"]
    groups: dict[str, list[int]] = {}
    for r, run in enumerate(runs):
        groups.setdefault(run.name, []).append(r)
    names, members = list(groups), list(groups.values())
    predictions = load_predictions(runs, split)
    counts = statistics.tally(
        predictions.labels, predictions.image_ids, predictions.classes, len(emotions)
    )
    rng = np.random.default_rng(_SEED)
    replicates = statistics.bootstrap(counts, members, rng)
    ranked = _rank_by_emotion(replicates, emotions)
    base = names.index(baseline) if baseline in names else None
    others = [e for e in range(len(names)) if base is not None and e != base]
    pairs = [(e, base) for e in others]
    duels = [tuple(order[:2]) for order in ranked.values() if len(order) > 1]
    wanted = list(dict.fromkeys([*pairs, *duels]))
    tested = _Tests(predictions, counts, members, wanted, replicates, rng)
    versus = tested.versus_baseline(pairs, emotions)
    experiments = [
        _experiment(name, runs, members[e], e, replicates, predictions, versus.get(e))
        for e, name in enumerate(names)
    ]
    margins = tested.margins(ranked, emotions)
    leaders = [
        Leader(
            emotion,
            experiments[order[0]],
            experiments[order[1]] if len(order) > 1 else None,
            margins.get(emotion),
        )
        for emotion, order in ranked.items()
    ]
    support = np.bincount(predictions.labels, minlength=len(emotions))
    return (
        experiments,
        leaders,
        Images(
            n=len(predictions.labels),
            support=dict(zip(emotions, support.tolist(), strict=True)),
            repeated=predictions.repeated(),
            identical_known=predictions.identical_known,
            leaked=None
            if predictions.clean is None
            else int((~predictions.clean).sum()),
        ),
    )


class _Tests:
    """The tests of pairs of experiments of one data set, made once for all tables."""

    def __init__(
        self,
        predictions: Predictions,
        counts: Tally,
        members: Sequence[Sequence[int]],
        pairs: Sequence[tuple[int, int]],
        replicates: Replicates,
        rng: np.random.Generator,
    ):
        self._replicates, self._single = replicates, replicates.degrees == 0
        draws = statistics.enough_draws(len(pairs) * counts.support.shape[-1])
        p_values = statistics.permutation_tests(
            counts, members, pairs, replicates, rng, draws
        )
        if self._single:
            for p, pair in enumerate(pairs):
                one, other = (predictions.classes[members[e][0]] for e in pair)
                p_values[p, 0] = statistics.mcnemar(
                    predictions.labels, predictions.image_ids, one, other
                )
        self._p = dict(zip(pairs, p_values, strict=True))

    def versus_baseline(
        self, pairs: Sequence[tuple[int, int]], emotions: Sequence[str]
    ) -> dict[int, pd.DataFrame]:
        """Each experiment's differences; Holm over experiments, and emotions."""
        if not pairs:
            return {}
        p_values = np.stack([self._p[pair] for pair in pairs])
        adjusted = np.full_like(p_values, np.nan)
        size = np.zeros(p_values.shape[1], int)
        for columns in _families(len(emotions)):
            adjusted[:, columns] = statistics.holm(p_values[:, columns])
            size[columns] = (~np.isnan(p_values[:, columns])).sum()
        return {
            one: self._frame(
                statistics.difference(self._replicates, one, other), p, p_holm, size
            ).set_axis(metrics_of(emotions))
            for (one, other), p, p_holm in zip(pairs, p_values, adjusted, strict=True)
        }

    def margins(
        self, ranked: Mapping[str, Sequence[int]], emotions: Sequence[str]
    ) -> dict[str, pd.Series]:
        """The best experiment's lead for each emotion; Holm over the emotions."""
        duels = {e: tuple(order[:2]) for e, order in ranked.items() if len(order) > 1}
        if not duels:
            return {}
        where = {name: len(METRICS) + c for c, name in enumerate(emotions)}
        p = np.array([self._p[duel][where[name]] for name, duel in duels.items()])
        adjusted, margins = statistics.holm(p), {}
        for n, (name, duel) in enumerate(duels.items()):
            difference = statistics.difference(self._replicates, *duel)
            all_metrics = np.full(len(difference.value), len(duels))
            frame = self._frame(difference, self._p[duel], adjusted[n], all_metrics)
            margins[name] = frame.iloc[where[name]]
        return margins

    def _frame(
        self,
        difference: Difference,
        p: np.ndarray,
        p_holm: np.ndarray,
        family: np.ndarray,
    ) -> pd.DataFrame:
        frame = pd.DataFrame(
            {
                "value": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": p,
                "p_holm": p_holm,
                "detectable": difference.detectable(np.maximum(family, 1)),
            }
        )
        frame["real"] = frame["p_holm"] < statistics.ALPHA
        frame["test"] = PERMUTATION
        if self._single:
            frame.loc[0, "test"] = MCNEMAR  # of the accuracy, its row
        return frame


def _families(num_classes: int) -> list[slice]:
    """The metrics whose tests are corrected together: one overall, or one by class."""
    starts = [len(METRICS) + k * num_classes for k in range(len(CLASS_METRICS))]
    overall = [slice(k, k + 1) for k in range(len(METRICS))]
    return overall + [slice(start, start + num_classes) for start in starts]


def _rank_by_emotion(
    replicates: Replicates, emotions: Sequence[str]
) -> dict[str, list[int]]:
    """The experiments by falling F1, for each emotion that one of them finds."""
    ranked = {}
    for c, emotion in enumerate(emotions):
        values = replicates.values[:, len(METRICS) + c]
        if (values > 0).any():
            ranked[emotion] = np.argsort(-values, kind="stable").tolist()
    return ranked


def _experiment(
    name: str,
    runs: Sequence[Run],
    members: Sequence[int],
    e: int,
    replicates: Replicates,
    predictions: Predictions,
    versus: pd.DataFrame | None,
) -> Experiment:
    own, emotions = [runs[r] for r in members], runs[0].data["class_names"]
    classes, confidence = predictions.classes[members], predictions.confidence[members]
    correct = classes == predictions.labels
    every_label = np.tile(predictions.labels, len(members))
    low, high = statistics.interval(replicates.draws(e))
    scores = pd.DataFrame({"value": replicates.values[e]}, metrics_of(emotions))
    scores["low"], scores["high"] = low.clip(0, 1), high.clip(0, 1)
    scores["sd"] = replicates.sd[e]
    return Experiment(
        name=name,
        runs=own,
        scores=scores,
        versus=versus,
        confusion=confusion_matrix(every_label, classes.ravel(), len(emotions)),
        reliability=statistics.reliability(confidence.ravel(), correct.ravel()),
        ece=[
            statistics.reliability(sure, right).error()
            for sure, right in zip(confidence, correct, strict=True)
        ],
        clean=_clean(predictions, classes, len(emotions)),
    )


def _clean(
    predictions: Predictions, classes: np.ndarray, num_classes: int
) -> dict[str, float]:
    """The overall metrics of the classes `[S, N]`, over the images without a copy."""
    kept = predictions.clean
    if kept is None or not kept.any():
        return {}
    ids = np.arange(int(kept.sum()))
    counts = statistics.tally(
        predictions.labels[kept], ids, classes[:, kept], num_classes
    )
    means = scores_of_counts(*counts.total()).mean(axis=0)
    return dict(zip(METRICS, means[: len(METRICS)].tolist(), strict=True))


def _in_order(experiments: Sequence[Experiment], sort: str) -> list[Experiment]:
    """By name, by rising time, or by a falling score."""
    if sort == "name":
        return sorted(experiments, key=lambda each: each.name)
    if sort == "time":
        return sorted(experiments, key=Experiment.minutes)
    return sorted(experiments, key=lambda each: -each.mean(sort))


def _letter(n: int) -> str:
    return chr(ord("A") + n) if n < 26 else f"Z{n}"
