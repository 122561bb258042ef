"""Why the spread of the seeds is what it is: ways to reckon it, and their errors.

    python tests/soak/seeds.py

Twelve experiments that do not differ, with a few seeds each, and a score that is normal
around one mean; of the second experiment the seeds spread more in some worlds. The
images' part of the difference's variance, as large as the seeds' own or nothing, is
known, as a bootstrap knows it. Printed is how often the first two are called different
at 5 %: that should be 5.
"""

import numpy as np
from scipy import stats

ROUNDS, EXPERIMENTS = 20_000, 12


def rejections(rng, seeds, more_variance, images):
    """The share of rounds, in percent, in which each way finds a difference."""
    sd = np.ones(EXPERIMENTS)
    sd[1] = more_variance**0.5
    scores = rng.normal(size=(ROUNDS, EXPERIMENTS, seeds)) * sd[:, None]
    means, own = scores.mean(axis=2), scores.var(axis=2, ddof=1)
    by_images = images * 2 / seeds
    noise = rng.normal(size=ROUNDS) * by_images**0.5
    distance = np.abs(means[:, 1] - means[:, 0] + noise)
    pooled, few, many = own.mean(axis=1), seeds - 1, EXPERIMENTS * (seeds - 1)

    def share(one, other, degrees):
        by_seeds = (one + other) / seeds
        variance = by_seeds + by_images
        satterthwaite = degrees * (variance / by_seeds) ** 2
        p = 2 * stats.t.sf(distance / variance**0.5, satterthwaite)
        return 100 * (p < 0.05).mean()

    # Seeds drawn with replacement spread by their variance with ddof=0, as normal.
    drawn = (own[:, 0] + own[:, 1]) * few / seeds / seeds + by_images
    resampled = 100 * (distance > 1.96 * drawn**0.5).mean()
    larger = [np.maximum(own[:, e], pooled) for e in (0, 1)]
    # Images alone, as swapping each seed's predictions image by image has it.
    swapped = 100 * (distance > 1.96 * by_images**0.5).mean() if images else np.nan
    return {
        "images alone": swapped,
        "seeds resampled": resampled,
        "each its own": share(own[:, 0], own[:, 1], 2 * few),
        "pooled": share(pooled, pooled, many),
        "the larger": share(*larger, many),
    }


def main():
    """Prints one line for each world."""
    rng, header = np.random.default_rng(0), None
    for seeds in (2, 3, 5):
        for images in (0, 1):
            for more_variance in (1, 4):
                found = rejections(rng, seeds, more_variance, images)
                if header is None:
                    header = "  ".join(f"{name:>15}" for name in found)
                    print(f"seeds  images' part  second's variance  {header}")
                told = "  ".join(f"{value:15.1f}" for value in found.values())
                print(f"{seeds:5}  {images:13}  {more_variance:17}  {told}")


if __name__ == "__main__":
    main()
