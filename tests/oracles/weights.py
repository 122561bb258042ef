"""Random but repeatable weights for PyTorch's networks and for ours."""

import zlib

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns values for the tensor `name` of a PyTorch state dict, in its layout.

    NumPy promises that the stream of `RandomState` never changes.
    """
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:  # a convolution or a linear layer; keeps the variance
        values *= np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        values = np.exp(0.3 * values)
    elif name.endswith("weight"):  # the scale of a batch norm
        values = 0.5 + 0.2 * values
    else:
        values *= 0.2
    return values.astype(np.float32)
