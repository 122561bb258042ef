"""What the FER+ votes say of FER2013's labels, alone or together with a network.

FER2013's labels and FER+'s votes were given by other people years apart and often
differ, so a vote does not name the label: a map is fitted. It is a multinomial logistic
regression (Cox 1966) from the shares of the votes, their square roots and, if there is
a network, its log probabilities. A network and the votes err on different images, so
together they know more than either.
"""

import numpy as np
import scipy

# Weak enough to leave 28,709 images alone, strong enough for a fit that ends.
_PENALTY = 1e-5
_LEAST = 1e-6  # of a probability, before its logarithm


def fitted(
    counts: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None = None
) -> np.ndarray:
    """The probability of each label, by a map that is fitted to these images.

    Args:
      counts: int `[N, A]`, the votes for each answer.
      labels: int `[N]`, in 0..C-1; C is 1 more than the largest.
      probabilities: of a network that was not trained on these images, `[N, C]`.

    Returns:
      float64 `[N, C]`, rows that sum to 1.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    features = [np.ones((len(counts), 1)), shares, np.sqrt(shares)]
    if probabilities is not None:
        features.append(np.log(np.maximum(probabilities, _LEAST)))
    x = np.concatenate(features, axis=1)
    target = np.eye(labels.max() + 1)[labels]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(x.shape[1], target.shape[1])
        log_p = scipy.special.log_softmax(x @ weights, axis=1)
        value = -(target * log_p).sum() / len(x) + _PENALTY * (weights**2).sum()
        slope = x.T @ (np.exp(log_p) - target) / len(x) + 2 * _PENALTY * weights
        return value, slope.reshape(-1)

    start = np.zeros(x.shape[1] * target.shape[1])
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    )
    return scipy.special.softmax(x @ found.x.reshape(-1, target.shape[1]), axis=1)
