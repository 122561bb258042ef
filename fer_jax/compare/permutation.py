"""Permutation tests of the differences between experiments."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy import nan

from fer_jax.compare.statistics import (
    CHUNK,
    MIN_DRAWS,
    Replicates,
    Tally,
    student_draws,
)
from fer_jax.metrics import scores_of_counts


def permutation_tests(
    counts: Tally,
    experiments: Sequence[Sequence[int]],
    pairs: Sequence[tuple[int, int]],
    replicates: Replicates,
    rng: np.random.Generator,
    draws: int = MIN_DRAWS,
) -> np.ndarray:
    """Two-sided p-values of the differences of pairs of experiments, `[pairs, K]`.

    Each draw swaps the two experiments' predictions on half of the images, all seeds
    together and identical images together; under the null hypothesis that changes
    nothing. Swapping within images cannot see that one seed is better than the next on
    all of them, so the seeds' part is added by Student's t, as in the bootstrap.
    """
    total, values = counts.total(), replicates.values
    more = np.ones((len(pairs), values.shape[1]))  # the observed draw
    spread = np.sqrt(replicates.seed_variance)

    def count(kept: Tally, student: np.ndarray) -> None:
        for p, (one, other) in enumerate(pairs):
            null = _swap(kept, total, experiments[one], experiments[other])
            null += student[:, one, None] * spread[one]
            null -= student[:, other, None] * spread[other]
            observed = np.abs(values[one] - values[other])
            # Ties are common among counts; rounding must not break them.
            more[p] += (~(np.abs(null) < observed - 1e-6)).sum(axis=0)

    with ThreadPoolExecutor(1) as pool:  # counts while the next draws are made
        counted: Future[None] | None = None
        for start in range(0, draws, CHUNK):
            size = (min(CHUNK, draws - start), len(counts.support))
            kept = counts.weighted(rng.integers(2, size=size).astype(np.float32))
            seeds = (size[0], len(experiments))
            student = student_draws(replicates.degrees, seeds, rng)
            if counted:
                counted.result()
            counted = pool.submit(count, kept, student)
        if counted:
            counted.result()
    return np.where(np.isnan(values[0]), nan, more / (draws + 1))


def _swap(
    kept: Tally, total: Tally, one: Sequence[int], other: Sequence[int]
) -> np.ndarray:
    """Differences `[B, K]` where the groups that are not in `kept` are swapped.

    Runs swap with the one in their place in the other experiment. With unequal numbers
    of seeds both lists repeat until they end together.
    """
    places = range(math.lcm(len(one), len(other)))
    mine = [one[i % len(one)] for i in places]
    theirs = [other[i % len(other)] for i in places]
    by_run = [np.moveaxis(part, 0, -1) for part in kept[:2]]  # `[R, C, B]`, as it lies
    *whole_split, support = (part.astype(np.float32) for part in total)

    def mean_score(stay: list[int], come: list[int]) -> np.ndarray:
        hits, predicted = (
            part[stay] - part[come] + whole[come, :, None]
            for part, whole in zip(by_run, whole_split, strict=True)
        )
        swapped = hits.swapaxes(1, 2), predicted.swapaxes(1, 2)  # `[places, B, C]`
        return scores_of_counts(*swapped, support).mean(axis=0)

    return mean_score(mine, theirs) - mean_score(theirs, mine)
