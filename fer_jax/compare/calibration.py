"""How well confidence matches accuracy: the reliability curve and its error."""

from typing import NamedTuple

import numpy as np

from fer_jax.metrics import ratio

BINS = 15  # of the reliability curve, as many as Guo et al. (2017)


class Reliability(NamedTuple):
    """Confidence and accuracy of predictions in `BINS` equal bins; each `[BINS]`."""

    confidence: np.ndarray  # mean probability of the predicted class; NaN: no images
    accuracy: np.ndarray  # the share that is correct; NaN: no images
    images: np.ndarray  # how many

    def error(self) -> float:
        """The expected calibration error (Guo et al., 2017), in 0..1."""
        gaps = np.abs(np.nan_to_num(self.confidence - self.accuracy))
        return float((gaps * self.images).sum() / self.images.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray) -> Reliability:
    """Bins predictions by their confidence.

    Args:
      confidence: float `[N]`, the probability of the predicted class, in 0..1.
      correct: bool `[N]`.
    """
    # (a, b], as in Guo et al.; the first bin takes 0 as well.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    images = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights, BINS) for weights in (confidence, correct))
    means = [np.where(images > 0, ratio(each, images), np.nan) for each in sums]
    return Reliability(means[0], means[1], images)
