"""Intervals, paired tests and corrections for comparing experiments. NumPy in and out.

A score depends on two random things: which images the split holds, and which seed
trained the network. The bootstrap covers both. Images are resampled with replacement,
identical ones together and the same ones for all runs, which pairs the experiments.
Each experiment's mean is then moved by Student's t times the spread of its seeds; three
values resampled with replacement would spread a third too little. The part of that
spread that the images explain is subtracted first (a variance component; Obuchowski and
Rockette, 1995). The rest is pooled over the experiments, and none counts with less than
its own.

docs/statistics.md has the measured coverage, false positives and power.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy  # it loads scipy.special when that is used; scipy.stats takes a second
from numpy import nan

from fer_jax.metrics import METRICS, scores_of_counts

LEVEL = 0.95  # of the intervals
ALPHA, POWER = 0.05, 0.8  # of the tests, and of the minimum detectable effect
DRAWS = 5_000  # of the bootstrap
# Draws of a permutation test for each comparison of its family, within these bounds:
# the first step of Holm's correction needs p < 0.05 / family.
DRAWS_PER_COMPARISON, MIN_DRAWS, MAX_DRAWS = 200, 5_000, 100_000
CHUNK = 250  # draws at a time: their weights stay in a core's cache


class Tally(NamedTuple):
    """Counts of R runs' predictions by class, for each group of identical images."""

    hits: np.ndarray  # float32 `[G, R, C]`, correct predictions
    predicted: np.ndarray  # float32 `[G, R, C]`, predictions
    support: np.ndarray  # float32 `[G, 1, C]`, images

    def weighted(self, weights: np.ndarray) -> "Tally":
        """Sums over the groups under each row of float32 `[B, G]`: `[B, ...]`.

        In memory the rows are last: NumPy is slow where its inner loop is over classes.
        """
        flat = ((part.reshape(len(part), -1).T @ weights.T).T for part in self)
        shapes = ((len(weights), *part.shape[1:]) for part in self)
        return Tally._make(x.reshape(s) for x, s in zip(flat, shapes, strict=True))

    def total(self) -> "Tally":
        """Sums over the groups, exact, in float64."""
        return Tally._make(part.sum(axis=0, dtype=np.float64) for part in self)


def tally(
    labels: np.ndarray, image_ids: np.ndarray, predicted: np.ndarray, num_classes: int
) -> Tally:
    """Counts predictions by group of identical images.

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

    every = np.ones(len(labels), bool)
    return Tally(
        hits=np.stack([count(labels, run == labels) for run in predicted], axis=1),
        predicted=np.stack([count(run, every) for run in predicted], axis=1),
        support=count(labels, every)[:, None],
    )


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Scores of E experiments, means over their seeds, and their bootstrap draws."""

    values: np.ndarray  # float64 `[E, K]`, the scores
    sd: np.ndarray  # float64 `[E, K]`, over seeds (ddof=1); NaN for one
    images: np.ndarray  # float32 `[B, E, K]`, the scores on resampled images
    seed_variance: np.ndarray  # float64 `[E, K]`, of each mean, due to the seeds; or 0
    degrees: int  # of freedom of `seed_variance`
    # float32 `[B, E]`, draws of Student's t with `degrees`. A row shares its divisor as
    # the experiments share the estimate, so that a difference is Student's t, too.
    student: np.ndarray

    def draws(self, experiment: int) -> np.ndarray:
        """The bootstrap draws `[B, K]` of an experiment, over images and seeds."""
        spread = np.sqrt(self.seed_variance[experiment])
        return self.images[:, experiment] + self.student[:, experiment, None] * spread


def bootstrap(
    counts: Tally, experiments: Sequence[Sequence[int]], rng: np.random.Generator
) -> Replicates:
    """Resamples images and draws seeds, `DRAWS` times.

    Args:
      counts: of all runs.
      experiments: the runs of each experiment, as indices.
      rng: the source of the draws.
    """
    groups, total = len(counts.support), counts.total()
    exact = scores_of_counts(*total)
    # All draws average over the classes of the split.
    present, guesses = total.support > 0, rng.spawn(1)[0]
    drawn = np.empty((DRAWS, *exact.shape), np.float32)
    for start in range(0, DRAWS, CHUNK):
        weights = _resample(groups, min(CHUNK, DRAWS - start), rng)
        resampled = counts.weighted(weights)
        scores = scores_of_counts(*resampled, present)
        _guess_absent(scores, present & (resampled.support == 0), present, guesses)
        drawn[start : start + CHUNK] = scores
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


def _guess_absent(
    scores: np.ndarray,
    absent: np.ndarray,
    present: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Adds to the means what a class scores in draws that lack it: 0 to 1, uniformly.

    Such a draw says nothing of the class. Scored 0, the intervals of small splits would
    lie below their scores; left out, a class of few images would hardly count.

    Args:
      scores: `[B, R, K]`, changed in place; absent classes count 0 in its means.
      absent: bool `[B, 1, C]`, the classes of the split that a draw lacks.
      present: bool `[1, C]`, the classes of the split.
      rng: the source of the scores, which are the same for all runs.
    """
    if absent.any():
        guess = (absent * rng.random(absent.shape)).sum(axis=-1) / present.sum()
        means = [METRICS.index("macro_f1"), METRICS.index("balanced_accuracy")]
        scores[..., means] += guess[..., None]


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of draws `[B, K]`: its lower and upper ends `[K]`.

    Draws without the class (NaN) are left out. Both ends are NaN where all draws are
    equal, as for a class that is never found: they say nothing of the uncertainty.
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
    """How much better one experiment is than another by each metric; all `[K]`."""

    value: np.ndarray  # of the means over seeds, in -1..1
    low: np.ndarray  # of its interval
    high: np.ndarray
    error: np.ndarray  # the standard error
    degrees: np.ndarray  # of freedom of the error (Satterthwaite), perhaps inf

    def detectable(self, comparisons: int) -> np.ndarray:
        """The minimum detectable effect `[K]`: found with a probability of `POWER`.

        That is at the first step of Holm's correction for so many comparisons. NaN
        where no possible difference would be found, or the two never differ.
        """
        found = -scipy.special.stdtrit(self.degrees, ALPHA / (2 * comparisons))
        size = (found + scipy.special.ndtri(POWER)) * self.error
        return np.where((size > 0) & (size <= 1), size, nan)


def difference(replicates: Replicates, one: int, other: int) -> Difference:
    """Compares experiment `one` with `other`, paired by the images."""
    low, high = interval(replicates.draws(one) - replicates.draws(other))
    by_images = _variance(replicates.images[:, one] - replicates.images[:, other])
    by_seeds = replicates.seed_variance[one] + replicates.seed_variance[other]
    variance = by_images + by_seeds
    degrees = np.full_like(variance, np.inf)
    spread = by_seeds > 0
    degrees[spread] = replicates.degrees * (variance[spread] / by_seeds[spread]) ** 2
    return Difference(
        value=replicates.values[one] - replicates.values[other],
        low=low.clip(-1, 1),
        high=high.clip(-1, 1),
        error=np.sqrt(variance),
        degrees=degrees,
    )


def enough_draws(comparisons: int) -> int:
    """How many draws the permutation tests of a family of this size need."""
    return int(np.clip(DRAWS_PER_COMPARISON * comparisons, MIN_DRAWS, MAX_DRAWS))


def mcnemar(
    labels: np.ndarray, image_ids: np.ndarray, one: np.ndarray, other: np.ndarray
) -> float:
    """The exact two-sided p-value of McNemar's test of two networks' accuracy.

    Args:
      labels: int `[N]`, the true classes.
      image_ids: int `[N]`; identical images count once, for the network that is right
        on more of them.
      one: int `[N]`, the classes that a network predicts.
      other: int `[N]`, those of another.
    """
    lead = (one == labels).astype(int) - (other == labels)
    leads = np.bincount(np.unique(image_ids, return_inverse=True)[1], weights=lead)
    fewer, more = sorted((int((leads > 0).sum()), int((leads < 0).sum())))
    if not more:
        return 1.0
    # The binomial distribution's tail, as an incomplete beta function.
    return min(1.0, 2 * float(scipy.special.betainc(more, fewer + 1, 0.5)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down correction over all p-values that are not NaN."""
    adjusted = np.full(p_values.shape, nan)
    tested = np.flatnonzero(~np.isnan(p_values.ravel()))
    order = tested[np.argsort(p_values.ravel()[tested], kind="stable")]
    steps = p_values.ravel()[order] * np.arange(len(order), 0, -1)
    adjusted.ravel()[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _seed_variance(
    exact: np.ndarray, drawn: np.ndarray, experiments: Sequence[Sequence[int]]
) -> tuple[np.ndarray, int]:
    """The part of each mean's variance that is due to seeds, `[E, K]`, and its df."""
    own = np.full((len(experiments), exact.shape[-1]), -np.inf)
    sizes = np.array([len(chosen) for chosen in experiments])
    for e, chosen in enumerate(experiments):
        if (n := len(chosen)) > 1:
            # The images alone make seeds differ, by the variance of one run less the
            # covariance of two, both over resampled images.
            single = _variance(drawn[:, chosen]).sum(axis=0)
            mean = _variance(drawn[:, chosen].mean(axis=1))
            shared = (n**2 * mean - single) / (n * (n - 1))
            own[e] = exact[chosen].var(axis=0, ddof=1) - (single / n - shared)
    return pool_spread(own, sizes)


def pool_spread(own: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """The variance of each mean that is due to seeds, and its degrees of freedom.

    Args:
      own: float `[E, K]`, the variance over each experiment's seeds less the images'
        part, which chance may make negative; -inf for one seed.
      sizes: int `[E]`, the numbers of seeds.

    Returns:
      `[E, K]`, at least 0: from the pooled variance or the own, whichever is larger.
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
    several = len(values) > 1
    return values.std(axis=0, ddof=1) if several else np.full_like(values[0], nan)


def student_draws(
    degrees: int, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Student's t, float32 `[draws, experiments]`, with one divisor a row; or zeros."""
    if not degrees:
        return np.zeros(size, np.float32)
    divisor = np.sqrt(rng.chisquare(degrees, (size[0], 1)) / degrees)
    return (rng.standard_normal(size) / divisor).astype(np.float32)


def _resample(groups: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each group is drawn, float32 `[draws, groups]`."""
    picked = rng.integers(groups, size=(draws, groups))
    picked += groups * np.arange(draws)[:, None]
    counts = np.bincount(picked.ravel(), minlength=draws * groups)
    return counts.reshape(draws, groups).astype(np.float32)
