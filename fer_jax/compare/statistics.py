"""The statistics of comparison: intervals, paired tests, calibration. NumPy in and out.

Two things are chance in a score: which images the split holds, and which seed trained
the network. So intervals come from a bootstrap over both: images are drawn anew with
replacement, identical ones together and the same ones for all runs, which pairs every
two experiments; and each experiment's mean is moved by Student's t times the spread of
its seeds. That level is drawn, not resampled: the values of three seeds, drawn with
replacement, spread a third too little and never beyond the largest. What the images
alone make of the spread of the seeds is taken off first (a variance component, as
Obuchowski and Rockette do for readers and cases, 1995), and the rest is pooled over
the experiments, except that none counts with less than its own.

docs/statistics.md has what was measured: coverage, false positives, power.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy import nan
from scipy import stats

from fer_jax.metrics import ratio, scores_of_counts

LEVEL = 0.95  # of the intervals
ALPHA, POWER = 0.05, 0.8  # of the tests, and of the smallest detectable difference
DRAWS = 5_000  # of the bootstrap
# A permutation test makes so many draws a comparison of its family, within these
# bounds: the first of Holm's steps needs p < 0.05 / family.
DRAWS_A_COMPARISON, MIN_DRAWS, MAX_DRAWS = 200, 5_000, 100_000
BINS = 15  # of the reliability curve, as many as Guo et al. (2017)
_CHUNK = 250  # draws at a time: their weights stay in the cache of a core


class Tally(NamedTuple):
    """What R runs predict on the same images, added up by group of identical images.

    Attributes:
      hits: float32 `[G, R, C]`, correct predictions by class.
      predicted: float32 `[G, R, C]`, predictions by class.
      support: float32 `[G, 1, C]`, images by their true class.
    """

    hits: np.ndarray
    predicted: np.ndarray
    support: np.ndarray

    def weighted(self, weights: np.ndarray) -> "Tally":
        """Sums over the groups under each row of float32 `[B, G]`: `[B, ...]`."""
        return Tally(*(_weighted(weights, part) for part in self))

    def total(self) -> "Tally":
        """Sums over the groups, exact, in float64."""
        return Tally(*(part.sum(axis=0, dtype=np.float64) for part in self))


def tally(
    labels: np.ndarray, image_ids: np.ndarray, predicted: np.ndarray, num_classes: int
) -> Tally:
    """Adds up predictions by group of identical images.

    Args:
      labels: int `[N]`, the true classes.
      image_ids: int `[N]`, equal for identical images.
      predicted: int `[R, N]`, the classes that each run predicts.
      num_classes: C.
    """
    _, group = np.unique(image_ids, return_inverse=True)
    num_groups = int(group.max()) + 1

    def count(classes: np.ndarray, which: np.ndarray) -> np.ndarray:
        cells = group[which] * num_classes + classes[which]
        counts = np.bincount(cells, minlength=num_groups * num_classes)
        return counts.reshape(num_groups, num_classes).astype(np.float32)

    everywhere = np.ones(len(labels), bool)
    return Tally(
        hits=np.stack([count(labels, run == labels) for run in predicted], axis=1),
        predicted=np.stack([count(run, everywhere) for run in predicted], axis=1),
        support=count(labels, everywhere)[:, None],
    )


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Scores of E experiments, means over their seeds, and their bootstrap draws.

    Attributes:
      values: float64 `[E, K]`, the scores themselves.
      sd: float64 `[E, K]`, their standard deviation over seeds (ddof=1); NaN for one.
      images: float32 `[B, E, K]`, the scores of draws of images.
      seed_variance: float64 `[E, K]`, the variance of each mean over seeds that is
        due to the seeds; 0 where no experiment has two.
      degrees: how many degrees of freedom `seed_variance` rests on; 0 for none.
      student: float32 `[B, E]`, draws of Student's t with `degrees`. Those of one row
        share their divisor, as the experiments share the estimate: a difference of
        two is then Student's t as well.
    """

    values: np.ndarray
    sd: np.ndarray
    images: np.ndarray
    seed_variance: np.ndarray
    degrees: int
    student: np.ndarray

    def draws(self, experiment: int) -> np.ndarray:
        """`[B, K]`: what the scores of an experiment might have been."""
        spread = np.sqrt(self.seed_variance[experiment])
        return self.images[:, experiment] + self.student[:, experiment, None] * spread


def bootstrap(
    counts: Tally, experiments: Sequence[Sequence[int]], rng: np.random.Generator
) -> Replicates:
    """Draws images and seeds anew, `DRAWS` times.

    Args:
      counts: of all runs, by group of identical images.
      experiments: the runs of each experiment, as indices.
      rng: where the draws come from.
    """
    groups = len(counts.support)
    total = counts.total()
    exact = scores_of_counts(*total)
    # One set of classes for all draws: the score of the same thing, not of six classes
    # here and seven there. A class that a draw lacks counts with an F1 of 0 in it.
    present = total.support > 0
    drawn = np.empty((DRAWS, *exact.shape), np.float32)
    for start in range(0, DRAWS, _CHUNK):
        weights = _resample(groups, min(_CHUNK, DRAWS - start), rng)
        drawn[start : start + _CHUNK] = scores_of_counts(
            *counts.weighted(weights), present
        )
    runs = [list(chosen) for chosen in experiments]
    variance, degrees = _seed_variance(exact, drawn, runs)
    return Replicates(
        values=np.stack([exact[chosen].mean(axis=0) for chosen in runs]),
        sd=np.stack([_sd(exact[chosen]) for chosen in runs]),
        images=np.stack([drawn[:, chosen].mean(axis=1) for chosen in runs], axis=1),
        seed_variance=variance,
        degrees=degrees,
        student=student_draws(degrees, (DRAWS, len(runs)), rng),
    )


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of draws `[B, K]`: its lower and upper ends `[K]`.

    Draws that lack a class altogether (NaN) say nothing of it and are left out. Where
    all draws are equal, as for a class of which nothing is ever found, they cannot
    tell how sure that is, and both ends are NaN.
    """
    tails, ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2), np.full((2, draws.shape[1]), nan)
    whole = ~np.isnan(draws).any(axis=0)
    ends[:, whole] = np.quantile(draws[:, whole], tails, axis=0)
    for k in np.flatnonzero(~whole):
        if len(some := draws[~np.isnan(draws[:, k]), k]):
            ends[:, k] = np.quantile(some, tails)
    ends[:, ends[0] == ends[1]] = nan
    return ends[0], ends[1]


class Difference(NamedTuple):
    """How much better one experiment is than another, by each metric; all `[K]`.

    Attributes:
      value: the difference of the means over seeds, in -1..1.
      low: the lower end of its interval.
      high: the upper end.
      error: its standard error.
      degrees: the degrees of freedom of that error (Satterthwaite); inf where no
        spread of seeds is in it.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    degrees: np.ndarray

    def detectable(self, comparisons: int) -> np.ndarray:
        """The true difference that a test finds in `POWER` of all cases, `[K]`.

        That is after Holm's correction for so many comparisons, at its first step.
        NaN: no difference that is possible would be found, or the two never differ.
        """
        found = stats.t.isf(ALPHA / (2 * comparisons), self.degrees)
        size = (found + stats.norm.ppf(POWER)) * self.error
        return np.where((size > 0) & (size <= 1), size, nan)


def difference(replicates: Replicates, one: int, other: int) -> Difference:
    """Compares experiment `one` with `other`, paired by the images."""
    low, high = interval(replicates.draws(one) - replicates.draws(other))
    images = replicates.images[:, one] - replicates.images[:, other]
    by_images = _variance(images)
    by_seeds = replicates.seed_variance[one] + replicates.seed_variance[other]
    variance = by_images + by_seeds
    degrees = np.full_like(variance, np.inf)
    seeds_count = by_seeds > 0
    share = variance[seeds_count] / by_seeds[seeds_count]
    degrees[seeds_count] = replicates.degrees * share**2
    return Difference(
        value=replicates.values[one] - replicates.values[other],
        low=low.clip(-1, 1),
        high=high.clip(-1, 1),
        error=np.sqrt(variance),
        degrees=degrees,
    )


def permutation_tests(
    counts: Tally,
    experiments: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    replicates: Replicates,
    rng: np.random.Generator,
    draws: int = MIN_DRAWS,
) -> np.ndarray:
    """Two-sided p-values of the differences of pairs of experiments, `[pairs, K]`.

    In each draw the two experiments swap their predictions on half of the images,
    all seeds together and identical images together: where neither is better, that
    changes nothing. What swapping within images cannot see, that one network may be
    better than the next on all of them, is added as in the bootstrap, by Student's t.
    """
    more = np.ones((len(pairs), replicates.values.shape[1]))  # the data's own draw
    total, spread = counts.total(), np.sqrt(replicates.seed_variance)
    for start in range(0, draws, _CHUNK):
        size = (min(_CHUNK, draws - start), len(counts.support))
        kept = counts.weighted(rng.integers(2, size=size).astype(np.float32))
        student = student_draws(replicates.degrees, (size[0], len(experiments)), rng)
        for p, (one, other) in enumerate(pairs):
            null = _swap(kept, total, experiments[one], experiments[other])
            null += student[:, one, None] * spread[one]
            null -= student[:, other, None] * spread[other]
            observed = np.abs(replicates.values[one] - replicates.values[other])
            # Equal but for rounding is as large: ties are common among counts.
            more[p] += (~(np.abs(null) < observed - 1e-6)).sum(axis=0)
    return np.where(np.isnan(replicates.values[0]), nan, more / (draws + 1))


def enough_draws(comparisons: int) -> int:
    """How many draws the permutation tests of a family of so many need."""
    return int(np.clip(DRAWS_A_COMPARISON * comparisons, MIN_DRAWS, MAX_DRAWS))


def _swap(
    kept: Tally, total: Tally, one: Sequence[int], other: Sequence[int]
) -> np.ndarray:
    """Differences `[B, K]` where the groups that are not in `kept` are swapped.

    Each run swaps with the one in its place in the other experiment; where they have
    other numbers of seeds both begin again until they end together.
    """
    places = range(math.lcm(len(one), len(other)))
    mine = [one[i % len(one)] for i in places]
    theirs = [other[i % len(other)] for i in places]

    def mean_score(stay: list[int], come: list[int]) -> np.ndarray:
        mixed = (
            part[:, stay] + whole[come].astype(np.float32) - part[:, come]
            for part, whole in zip(kept[:2], total[:2], strict=True)
        )
        support = total.support[None].astype(np.float32)
        return scores_of_counts(*mixed, support).mean(axis=1)

    return mean_score(mine, theirs) - mean_score(theirs, mine)


def mcnemar(
    labels: np.ndarray, image_ids: np.ndarray, one: np.ndarray, other: np.ndarray
) -> float:
    """The exact two-sided p-value of McNemar's test of two networks' accuracy.

    Args:
      labels: int `[N]`, the true classes.
      image_ids: int `[N]`; identical images count once, for the one that is right
        on more of them.
      one: int `[N]`, the classes that a network predicts.
      other: int `[N]`, those of another.
    """
    lead = (one == labels).astype(int) - (other == labels)
    leads = np.bincount(np.unique(image_ids, return_inverse=True)[1], weights=lead)
    wins, losses = int((leads > 0).sum()), int((leads < 0).sum())
    return stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down correction over all p-values that are not NaN."""
    adjusted = np.full(p_values.shape, nan)
    tested = np.flatnonzero(~np.isnan(p_values.ravel()))
    order = tested[np.argsort(p_values.ravel()[tested], kind="stable")]
    steps = p_values.ravel()[order] * np.arange(len(order), 0, -1)
    adjusted.ravel()[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


class Reliability(NamedTuple):
    """How sure a run is and how often it is right, in `BINS` equal bins; each `[BINS]`.

    Attributes:
      confidence: the mean probability of the predicted class; NaN in an empty bin.
      accuracy: the share that is right; NaN in an empty bin.
      count: how many images.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    def error(self) -> float:
        """The expected calibration error (Guo et al., 2017), in 0..1."""
        gaps = np.abs(np.nan_to_num(self.confidence - self.accuracy))
        return float((gaps * self.count).sum() / self.count.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Bins predictions by their confidence.

    Args:
      confidence: float `[N]`, the probability of the predicted class, in 0..1.
      correct: bool `[N]`.
    """
    # (a, b], as in Guo et al.; the first bin takes 0 as well.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights, BINS) for weights in (confidence, correct))
    means = (np.where(count > 0, ratio(each, count), nan) for each in sums)
    return Reliability(*means, count)


def _seed_variance(
    exact: np.ndarray, drawn: np.ndarray, experiments: Sequence[Sequence[int]]
) -> tuple[np.ndarray, int]:
    """The part of each mean's variance that is due to seeds, `[E, K]`, and its df."""
    own = np.full((len(experiments), exact.shape[-1]), -np.inf)
    sizes = np.array([len(chosen) for chosen in experiments])
    for e, chosen in enumerate(experiments):
        if (n := len(chosen)) > 1:
            # Seeds differ by chance on these images, too: by the variance of one run
            # less the covariance of two, both over draws of images.
            single = _variance(drawn[:, chosen]).sum(axis=0)
            mean = _variance(drawn[:, chosen].mean(axis=1))
            shared = (n**2 * mean - single) / (n * (n - 1))
            own[e] = exact[chosen].var(axis=0, ddof=1) - (single / n - shared)
    return pool_spread(own, sizes)


def pool_spread(own: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """The variance of each mean that is due to seeds, and its degrees of freedom.

    Args:
      own: float `[E, K]`, the variance over the seeds of each experiment that is not
        the images' doing, below 0 by chance; -inf for one seed.
      sizes: int `[E]`, the numbers of seeds.

    Returns:
      `[E, K]`, at least 0: the larger of the experiments' common and their own.
    """
    degrees = int((sizes - 1).sum())
    if not degrees:
        return np.zeros_like(own), 0
    several = sizes > 1
    pooled = np.average(own[several], axis=0, weights=sizes[several] - 1)
    return np.maximum(np.maximum(pooled, own), 0) / sizes[:, None], degrees


def _variance(draws: np.ndarray) -> np.ndarray:
    """The variance over the first axis, NaN left out; NaN where nothing else is."""
    gone = np.isnan(draws)
    if not gone.any():
        return draws.var(axis=0, dtype=np.float64)
    found = np.full(draws.shape[1:], nan)
    some = ~gone.all(axis=0)
    found[some] = np.nanvar(draws[:, some], axis=0, dtype=np.float64)
    return found


def _sd(values: np.ndarray) -> np.ndarray:
    return (
        values.std(axis=0, ddof=1) if len(values) > 1 else np.full_like(values[0], nan)
    )


def student_draws(
    degrees: int, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Student's t, float32 `[draws, experiments]`, with one divisor a row; or zeros."""
    if not degrees:
        return np.zeros(size, np.float32)
    divisor = np.sqrt(rng.chisquare(degrees, (size[0], 1)) / degrees)
    return (rng.standard_normal(size) / divisor).astype(np.float32)


def _resample(groups: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of the groups is drawn, float32 `[draws, groups]`."""
    picked = rng.integers(groups, size=(draws, groups))
    picked += groups * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * groups)
    return counts.reshape(draws, groups).astype(np.float32)


def _weighted(weights: np.ndarray, part: np.ndarray) -> np.ndarray:
    flat = weights @ part.reshape(len(part), -1)
    return flat.reshape(len(weights), *part.shape[1:])
