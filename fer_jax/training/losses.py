"""Cross-entropy and focal loss on soft labels, with class weights and smoothing."""

import jax
import jax.numpy as jnp
import numpy as np

_TINY = 1e-6  # keeps the derivative of (1 - p)**gamma finite for gamma < 1


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Loss weights that favour rare classes: 1 / log(1 + count), float32 `[C]`, mean 1.

    Args:
      counts: int `[C]`, training images in each class, all at least 1.
    """
    weights = 1.0 / np.log1p(counts.astype(np.float64))
    return (weights / weights.mean()).astype(np.float32)


def smooth_labels(labels: jax.Array, smoothing: float | jax.Array) -> jax.Array:
    """Label smoothing of Szegedy et al. 2016 (arXiv:1512.00567), on float `[B, C]`.

    The share `smoothing` of each label becomes the uniform distribution.
    """
    return labels * (1.0 - smoothing) + smoothing / labels.shape[-1]


def softmax_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    weights: jax.typing.ArrayLike | None = None,
    label_smoothing: float | jax.Array = 0.0,
    focal_gamma: float | jax.Array | None = None,
    bootstrap: float | jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy (gamma 0) or focal loss of a softmax, averaged over the batch.

    With t the smoothed label, w the class weights and p the softmax, the loss is

      sum_bc w_c t_bc (1 - p_bc)**gamma (-log p_bc)  /  sum_bc w_c y_bc

    where y is the label before smoothing. For hard labels and gamma 0 this is
    `torch.nn.functional.cross_entropy(logits, y, w, label_smoothing=...)`. The focal
    factor is that of Lin et al. 2017 (arXiv:1708.02002), for each class of a soft
    label. With `bootstrap` b, t becomes (1 - b) t + b p: the soft bootstrapping of
    Reed et al. 2015 (arXiv:1412.6596) for noisy labels. p is differentiated too; held
    constant it would only scale gradients.

    Args:
      logits: float `[B, C]`; computed in float32.
      labels: float `[B, C]`, rows that sum to 1.
      weights: float `[C]`, or None for equal weights.
      label_smoothing: in [0, 1).
      focal_gamma: at least 0; how strongly easy images are discounted. None is 0.
      bootstrap: in [0, 1); the share of a target that is the network's prediction;
        None is 0.

    Returns:
      float32 scalar.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    weights = jnp.ones(log_p.shape[-1]) if weights is None else jnp.asarray(weights)
    targets = smooth_labels(labels, label_smoothing)
    if bootstrap is not None:
        targets = (1.0 - bootstrap) * targets + bootstrap * jnp.exp(log_p)
    terms = -log_p * targets
    if focal_gamma is not None:
        # 1 - p without cancellation; its power has no finite gradient at p = 1.
        discount = jnp.maximum(-jnp.expm1(log_p), _TINY)
        terms = terms * jnp.power(discount, focal_gamma)
    return jnp.sum(terms * weights) / jnp.sum(labels * weights)
