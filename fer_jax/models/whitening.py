"""A first layer that whitens: its filters are the patches' principal directions.

The neighbouring pixels of an image are alike, so that most of what a first layer is
given is one value many times over. Filters along the eigenvectors of the patches'
covariance, each scaled to the same variance, take that apart without training.
"""

import numpy as np

EPSILON = 5e-4  # added to the eigenvalues: what varies less is not blown up to 1
PATCHES = 2**20  # looked at, about, at most


def count(shape: tuple[int, ...]) -> int:
    """How many of a kernel's filters are whitened, of shape `[r, r, C, O]`."""
    return min(shape[3], 2 * shape[0] * shape[1] * shape[2])


def whitened(kernel: np.ndarray, images: np.ndarray) -> np.ndarray:
    """A first layer's kernel, whitened as in airbench (Jordan 2024, arXiv:2404.00498).

    Filter 2 i is the eigenvector of the i-th largest eigenvalue of the patches'
    covariance, divided by sqrt(eigenvalue + EPSILON), so that its outputs have a
    variance of 1, or less where there is nearly none; filter 2 i + 1 is its negative,
    as ReLU drops half of each. An eigenvector's largest weight is positive in the
    first of the two. Of about a million patches, evenly spread, none reaches over an
    edge.

    Args:
      kernel: float `[r, r, C, O]`, as initialised.
      images: float `[N, H, W, C]`, normalised as in training; H and W at least r.

    Returns:
      float32 `[r, r, C, O]`: the first 2 r r C of its filters are whitened, or all of
      them where there are fewer; others are those of `kernel`.
    """
    covariance = _covariance(np.asarray(images), len(kernel))
    eigenvalues, vectors = np.linalg.eigh(covariance)  # ascending; vectors in columns
    vectors = vectors / np.sqrt(np.maximum(eigenvalues, 0) + EPSILON)
    vectors = vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(largest))])
    pairs = np.stack([vectors, -vectors], axis=2).reshape(len(vectors), -1)
    result, first = np.array(kernel, np.float32), count(kernel.shape)
    result[..., :first] = pairs.reshape(*kernel.shape[:3], -1)[..., :first]
    return result


def _covariance(images: np.ndarray, size: int) -> np.ndarray:
    """The covariance `[r r C, r r C]`, in float64, of the patches of r x r pixels."""
    apart = max(1, round(np.sqrt(np.prod(images.shape[:3]) / PATCHES)))
    width = size * size * images.shape[3]
    count, total, products = 0, np.zeros(width), np.zeros((width, width))
    for start in range(0, len(images), 64):  # all patches at once would take gigabytes
        windows = np.lib.stride_tricks.sliding_window_view(
            images[start : start + 64], (size, size), axis=(1, 2)
        )[:, ::apart, ::apart]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, width)
        patches = patches.astype(np.float64)
        count += len(patches)
        total += patches.sum(axis=0)
        products += patches.T @ patches
    mean = total / count
    return products / count - np.outer(mean, mean)
