"""One pass over a split: logits for every image, and the scores that follow."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.augment import normalise
from fer_jax.metrics import confusion_matrix, from_confusion
from fer_jax.models import Network

PredictFn = Callable[[Any, Any, jax.Array, jax.Array], jax.Array]


def make_predict(network: Network) -> PredictFn:
    """Compiles `(params, batch_stats, images, indices) -> logits [B, C]`.

    images is the whole split as uint8 `[N, H, W, C]`, indices int32 `[B]`.
    """

    def predict(
        params: Any, batch_stats: Any, images: jax.Array, indices: jax.Array
    ) -> jax.Array:
        return network.evaluate(params, batch_stats, normalise(images[indices]))

    return jax.jit(predict)


def predict_split(
    predict: PredictFn,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    *,
    batch_size: int,
) -> np.ndarray:
    """Logits of a whole split, in its order.

    The last batch is padded with the first image to keep one compiled shape, and
    the padding's logits are dropped.

    Returns:
      float32 `[N, C]`.
    """
    total = len(images)
    batch_size = min(batch_size, total)
    indices = np.arange(-(-total // batch_size) * batch_size, dtype=np.int32)
    indices[total:] = 0
    logits = [
        predict(params, batch_stats, images, jnp.asarray(chosen))
        for chosen in indices.reshape(-1, batch_size)
    ]
    return np.concatenate([np.asarray(part) for part in logits])[:total]


def score(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """The scores of `metrics.from_confusion`, and the plain cross-entropy.

    The loss is unweighted and unsmoothed, so that it compares between experiments.

    Args:
      logits: float32 `[N, C]`.
      labels: int `[N]`.
      class_names: the C names.
    """
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a NaN is for the caller to judge
        log_sum = np.logaddexp.reduce(wide, axis=1)
        loss = log_sum - wide[np.arange(len(labels)), labels]
    matrix = confusion_matrix(labels, logits.argmax(axis=1), len(class_names))
    scores = from_confusion(matrix, class_names)
    return {"n": scores.pop("n"), "loss": float(loss.mean()), **scores}


def clean_scores(
    logits: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """`n_clean`, `accuracy_clean`, `macro_f1_clean` and `balanced_accuracy_clean`.

    Args:
      logits: float32 `[N, C]`, of the images that have no copy among those trained on.
      labels: int `[N]`.
      class_names: the C names.
    """
    matrix = confusion_matrix(labels, logits.argmax(axis=1), len(class_names))
    scores = from_confusion(matrix, class_names)
    kept = ("n", "accuracy", "macro_f1", "balanced_accuracy")
    return {f"{key}_clean": scores[key] for key in kept}
