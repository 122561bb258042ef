"""Error rates of ways to estimate the variance between seeds.

    python tests/soak/seeds.py

The experiments do not differ; each has a few seeds and a normal score around one mean.
The seeds' variance is 1 (for the second experiment perhaps 4), the effect of images on
each network is half of that, and their effect on the difference of two experiments
equals that of the seeds on a mean. The effects of images are known, as to a bootstrap.
The output is the rate, in percent, at which the first two are called different at 5 %
and at 5/11 %, where Holm begins among twelve; these are the target rates.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fer_jax.compare import statistics

ROUNDS, DRAWS, RESIDUAL = 4000, 3000, 0.5
LEVELS = (0.05, 0.05 / 11)


def ours(rng, own, seeds, by_images, distance):
    """The p-value as `statistics` makes it, but for normal images."""
    variance, degrees = statistics.pool_spread(own[:, None], np.full(len(own), seeds))
    student = statistics.student_draws(degrees, (DRAWS, 2), rng)
    null = rng.standard_normal(DRAWS) * by_images**0.5
    null += student @ (np.sqrt(variance[:2, 0]) * (1, -1))
    return (1 + (np.abs(null) >= distance).sum()) / (DRAWS + 1)


def welch(own, seeds, by_images, distance):
    """The p-value where each experiment only has the spread of its own seeds."""
    parts = np.maximum(own[:2], 1e-9) / seeds
    error = parts.sum() + by_images
    degrees = error**2 / (parts**2 / (seeds - 1)).sum()
    return 2 * stats.t.sf(distance / error**0.5, degrees)


def resampled(spread, seeds, images, distance):
    """The p-value where seeds are drawn with replacement, taken for normal."""
    error = spread[:2].sum() * (seeds - 1) / seeds / seeds + images
    return 2 * stats.norm.sf(distance / error**0.5)


def rejections(rng, experiments, seeds, second):
    """The shares, in percent, `[levels, ways]`."""
    sd = np.ones(experiments)
    sd[1] = second**0.5
    images = 1 / seeds
    by_images = images + 2 * RESIDUAL / seeds
    p = np.empty((ROUNDS, 4))
    for n in range(ROUNDS):
        scores = sd[:, None] * rng.standard_normal((experiments, seeds))
        scores += RESIDUAL**0.5 * rng.standard_normal(scores.shape)
        spread, means = scores.var(axis=1, ddof=1), scores.mean(axis=1)
        distance = abs(means[1] - means[0] + rng.normal() * images**0.5)
        own = spread - RESIDUAL
        p[n] = (
            2 * stats.norm.sf(distance / by_images**0.5),
            resampled(spread, seeds, images, distance),
            welch(own, seeds, by_images, distance),
            ours(rng, own, seeds, by_images, distance),
        )
    return [100 * (p < level).mean(axis=0) for level in LEVELS]


def main():
    """Prints one line for each world."""
    rng = np.random.default_rng(0)
    ways = ("images alone", "resampled", "its own", "the larger")
    print("experiments  seeds  second  " + "".join(f"{way:>20}" for way in ways))
    for experiments, seeds in ((2, 2), (2, 3), (12, 2), (12, 3), (12, 5)):
        for second in (1, 4):
            found = zip(*rejections(rng, experiments, seeds, second), strict=True)
            told = "".join(f"{a:13.1f}{b:7.2f}" for a, b in found)
            print(f"{experiments:11}  {seeds:5}  {second:6}  {told}", flush=True)


if __name__ == "__main__":
    main()
