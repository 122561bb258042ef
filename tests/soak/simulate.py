"""Checks the statistics by simulation: coverage, false positives, power.

    python tests/soak/simulate.py                      # the table of docs/statistics.md
    python tests/soak/simulate.py --seeds 3 --rounds 2000
    python tests/soak/simulate.py --seeds 1 --support 60 60 60 3    # a rare class

In a simulated world the truth is known. Each image has an effect on each class's logit,
each network one on all images, and each network one on each image. Every round draws
new images and networks; experiments share their images, as real ones do.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fer_jax.compare import statistics
from fer_jax.compare.permutation import permutation_tests
from fer_jax.emotions import EMOTIONS
from fer_jax.metrics import metric_names, scores_of_counts

# The images of each emotion in FER2013's PrivateTest.
FER2013 = (491, 55, 528, 879, 594, 416, 626)


@dataclass(frozen=True)
class World:
    """Where predictions come from.

    Attributes:
      support: how many images each class has on average.
      skill: by how much the true class's logit is raised.
      network: the sd of a network's own effects: on its skill, and on each class.
      image: the sd of an image's effect on each class, common to all networks.
      noise: the sd of what is each network's own on each image.
    """

    support: tuple[int, ...] = FER2013
    skill: float = 2.4
    network: float = 0.05
    image: float = 1.0
    noise: float = 0.9

    def labels(self, rng, n=None):
        """Draws the true classes of `n` images, by default as many as expected."""
        share = np.array(self.support) / sum(self.support)
        return rng.choice(len(share), p=share, size=n or sum(self.support))

    def images(self, rng, labels):
        """Draws the images' effects, float32 `[N, C]`, the true class's raised."""
        size = (len(labels), len(self.support))
        effects = self.image * rng.standard_normal(size, np.float32)
        effects[np.arange(len(labels)), labels] += self.skill
        return effects

    def predictions(self, rng, labels, images, more_skill=0.0):
        """Draws a network's predictions, int `[N]`."""
        logits = images + self.noise * rng.standard_normal(images.shape, np.float32)
        logits += self.network * rng.standard_normal(images.shape[1], np.float32)
        skill = more_skill + self.network * rng.standard_normal()
        logits[np.arange(len(labels)), labels] += skill
        return logits.argmax(axis=1)

    def truth(self, rng, networks=400, n=20_000, more_skill=0.0):
        """The mean score of all networks on all images, `[K]`."""
        total = 0
        for _ in range(networks):
            labels = self.labels(rng, n)
            images = self.images(rng, labels)
            predicted = self.predictions(rng, labels, images, more_skill)
            counts = _tally(labels, predicted[None], len(self.support))
            total = total + scores_of_counts(*counts.total())[0]
        return total / networks


def simulate(world, rng, *, seeds, experiments, rounds, truth, more_skill=0.0):
    """Plays `rounds` rounds of experiments that only differ in the second's skill.

    Returns:
      the shares `[K]` of rounds in which the interval of the first experiment holds
      the truth, that of the first two's difference holds theirs, and the test of that
      difference rejects; and the mean detectable difference.
    """
    held, held_difference, rejected, detectable = 0, 0, 0, 0
    members = [range(e * seeds, (e + 1) * seeds) for e in range(experiments)]
    base, better = truth
    for _ in range(rounds):
        labels = world.labels(rng)
        images = world.images(rng, labels)
        predicted = np.stack(
            [
                world.predictions(rng, labels, images, more_skill if e == 1 else 0.0)
                for e in range(experiments)
                for _ in range(seeds)
            ]
        )
        counts = _tally(labels, predicted, len(world.support))
        replicates = statistics.bootstrap(counts, members, rng)
        low, high = statistics.interval(replicates.draws(0))
        held = held + ((low <= base) & (base <= high))
        found = statistics.difference(replicates, 1, 0)
        real = better - base
        held_difference = held_difference + ((found.low <= real) & (real <= found.high))
        p = permutation_tests(
            counts, members, [(1, 0)], replicates, rng, statistics.DRAWS
        )[0]
        if seeds == 1:
            p[0] = statistics.mcnemar(labels, np.arange(len(labels)), *predicted[1::-1])
        rejected = rejected + (p < statistics.ALPHA)
        detectable = detectable + found.detectable(1)
    return (
        held / rounds,
        held_difference / rounds,
        rejected / rounds,
        (detectable / rounds),
    )


def _tally(labels, predicted, num_classes):
    return statistics.tally(labels, np.arange(len(labels)), predicted, num_classes)


def main():
    """Prints one line a metric, for each number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--experiments", type=int, default=3)
    parser.add_argument("--network", type=float, default=World.network)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--more_skill", type=float, default=0.0)
    parser.add_argument("--support", type=int, nargs="+", default=FER2013)
    args = parser.parse_args()
    statistics.DRAWS = args.draws
    for seeds in args.seeds or (1, 3, 5):
        # Of one network each, the truth is its own: networks do not differ then.
        network = args.network if seeds > 1 else 0.0
        world = World(support=tuple(args.support), network=network)
        rng, started = np.random.default_rng(seeds), time.monotonic()
        truth = [world.truth(rng, more_skill=more) for more in (0.0, args.more_skill)]
        if not args.more_skill:
            truth[1] = truth[0]
        results = simulate(
            world,
            rng,
            seeds=seeds,
            experiments=args.experiments,
            rounds=args.rounds,
            truth=truth,
            more_skill=args.more_skill,
        )
        print(
            f"{args.experiments} experiments x {seeds} seeds, {args.rounds} rounds, "
            f"{time.monotonic() - started:.0f} s; true accuracy {truth[0][0]:.3f}; in %"
        )
        names = metric_names(EMOTIONS[: len(args.support)])
        print(f"{'':20}  truth  covered  difference covered  rejected  detectable")
        for k, name in enumerate(names):
            values = (truth[0][k], *(result[k] for result in results))
            told = "{:7.1f}{:9.1f}{:20.1f}{:10.1f}{:12.1f}".format(
                *(100 * value for value in values)
            )
            print(f"{name:20}{told}", flush=True)


if __name__ == "__main__":
    main()
