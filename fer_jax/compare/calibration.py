"""How well confidence matches accuracy, and how to make it match better."""

from typing import NamedTuple

import numpy as np
import scipy

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


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which softmax(logits / T) has the smallest cross-entropy.

    Temperature scaling (Guo et al. 2017, arXiv:1706.04599) changes no predicted class.

    Args:
      logits: float `[N, C]`.
      labels: int `[N]`.
    """
    wide = logits.astype(np.float64)

    def loss(log_t: float) -> float:
        log_p = scipy.special.log_softmax(wide / np.exp(log_t), axis=1)
        return -float(log_p[np.arange(len(labels)), labels].mean())

    # Beyond a factor of 20, the loss is flat: all or none of the images are right.
    found = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(np.exp(found.x))


def calibrated(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The temperature that fits, and the calibration error before and after it."""
    temperature = fit_temperature(logits, labels)

    def error(scaled: np.ndarray) -> float:
        p = scipy.special.softmax(scaled.astype(np.float64), axis=1)
        return reliability(p.max(axis=1), p.argmax(axis=1) == labels).error()

    return {
        "temperature": temperature,
        "n": len(labels),
        "ece_before": error(logits),
        "ece_after": error(logits / temperature),
    }
