"""What a comparison finds: experiments with scores, tests against a baseline, leaders.

`analysis.summarise` computes it; tables, exports, findings and the report show it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fer_jax.compare.calibration import Reliability
from fer_jax.compare.results import FinishedRun

BASELINE = "baseline"
SORTS = ("macro_f1", "accuracy", "balanced_accuracy", "name", "time")


class Score(NamedTuple):
    """A score in 0..1; NaN where there is none."""

    value: float  # the mean over seeds
    low: float  # of its 95 % interval
    high: float
    sd: float  # over seeds (ddof=1)


class Comparison(NamedTuple):
    """A tested difference of two experiments by one metric; NaN where there is none."""

    value: float  # in -1..1
    low: float  # of its 95 % interval
    high: float
    p: float
    p_holm: float  # after Holm's correction
    detectable: float  # the minimum detectable effect (80 % power)
    significant: bool  # p_holm < 0.05
    test: str  # permutation or McNemar


@dataclass(frozen=True)
class Experiment:
    """The runs of one experiment on one data set, one for each seed."""

    name: str
    runs: list[FinishedRun]  # by seed
    scores: dict[str, Score]  # by metric
    versus: dict[str, Comparison]  # the baseline, by metric; empty where there is none
    predicted: np.ndarray  # uint8 `[seeds, N]`, the predicted classes
    confusion: np.ndarray  # int `[C, C]`, summed over seeds; rows are true classes
    reliability: Reliability  # of the predictions of all seeds together
    ece: float  # expected calibration error, the mean over seeds
    ece_sd: float  # over seeds (ddof=1); NaN for one
    clean: dict[str, float]  # overall metrics without copies of train; may be empty

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data."""
        return self.runs[0].fingerprint

    @property
    def class_names(self) -> list[str]:
        """The classes of the data."""
        return self.runs[0].class_names

    def mean(self, metric: str) -> float:
        """The mean over seeds of a metric; NaN where it has none."""
        return self.scores[metric].value if metric in self.scores else np.nan

    def rates(self) -> np.ndarray:
        """The confusion matrix as shares of each true class; NaN without images."""
        totals = self.confusion.sum(axis=1, keepdims=True)
        empty = np.full(self.confusion.shape, np.nan)
        return np.divide(self.confusion, totals, out=empty, where=totals > 0)

    def devices(self) -> set[str]:
        """The devices its runs were trained on."""
        return {run.device for run in self.runs}

    def best_epoch(self) -> float:
        """The mean epoch of the selected checkpoint."""
        return mean(run.selection["epoch"] for run in self.runs)

    def epochs_run(self) -> float:
        """The mean number of epochs."""
        return mean(run.epochs_run for run in self.runs)

    def images_per_s(self) -> float:
        """The mean speed of training."""
        return mean(run.timing["images_per_s"] for run in self.runs)

    def minutes(self) -> float:
        """The mean time of training."""
        return mean(run.timing["train_s"] for run in self.runs) / 60


@dataclass(frozen=True)
class Leader:
    """The experiment with the highest F1 of an emotion, and its lead."""

    emotion: str
    best: Experiment
    runner_up: Experiment | None  # None where there is one experiment
    margin: Comparison | None  # over the runner-up


@dataclass(frozen=True)
class Images:
    """The images of the split in one data set."""

    n: int
    support: dict[str, int]  # by emotion
    repeated: int  # those with an identical one before them
    leaked: int  # those with a copy in train, exact or near; 0 where unknown


@dataclass(frozen=True)
class Summary:
    """One split of all experiments: what the tables, exports and the report show."""

    split: str
    sort: str  # one of `SORTS`, the order of the experiments
    baseline: str  # the name of what the others are compared with, there or not
    experiments: list[Experiment]  # data set by data set
    leaders: list[Leader]  # for each data set and emotion
    images: dict[str, Images]  # by fingerprint
    emotions: list[str]  # in the order of the labels
    marks: dict[str, str]  # a letter by fingerprint; empty where all runs share one

    @property
    def has_baseline(self) -> bool:
        """Whether the baseline is among the experiments."""
        return any(each.name == self.baseline for each in self.experiments)

    @property
    def has_tests(self) -> bool:
        """Whether any experiment is compared with the baseline."""
        return any(each.versus for each in self.experiments)

    def support(self, emotion: str) -> int:
        """The images of an emotion, in all data sets."""
        return sum(each.support.get(emotion, 0) for each in self.images.values())

    def label(self, experiment: Experiment) -> str:
        """Its name, with the letter of its data where there are several."""
        return self.marked(experiment.name, experiment.fingerprint)

    def marked(self, name: str, *fingerprints: str) -> str:
        """A name with the letters of data sets, where there are several."""
        marks = sorted({self.marks[each] for each in fingerprints if self.marks})
        return f"{name} [{','.join(marks)}]" if marks else name


def shared_overrides(runs: Iterable[FinishedRun]) -> list[str]:
    """The --set items that all runs share: no table of changes shows these."""
    shared, *others = ([*run.overrides] for run in runs)
    own = ("name=", "description=", "training.seed=")
    return [
        item
        for item in dict.fromkeys(shared)
        if not item.startswith(own) and all(item in each for each in others)
    ]


def mean(values: Iterable[float]) -> float:
    """The mean of an iterable, as a plain float."""
    return float(np.mean(list(values)))
