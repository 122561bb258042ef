"""The floating-point operations of a network, counted from its program."""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params


class Evaluates(Protocol):
    """A network that gives logits."""

    def evaluate(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """Logits `[B, num_classes]`."""


def count_flops(
    network: Evaluates, params: Any, batch_stats: Any, image_size: int, channels: int
) -> int:
    """The floating-point operations of one image's forward pass; compiles nothing.

    Counts two for each multiplication in a convolution (padding included) or matrix
    product, as PyTorch's `FlopCounterMode` does, and none for norms and activations.
    Convolutions are counted as they are defined, not as a CPU computes them. Pooling
    over unequal cells counts as the small matrix product that it is here.

    Args:
      network: from `models.create`, as are params and batch_stats.
      params: arrays, or their shapes.
      batch_stats: arrays, or their shapes.
      image_size: the side of the image, in pixels.
      channels: of the image.
    """
    # For a single image, even a CPU computes the convolutions as they are defined.
    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    traced = jax.make_jaxpr(network.evaluate)(params, batch_stats, image)
    return _flops(traced.jaxpr)


def _flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "conv_general_dilated":
            outputs = equation.outvars[0].aval.size
            kernel, layout = operands[1], equation.params["dimension_numbers"]
            total += 2 * outputs * kernel.size // kernel.shape[layout.rhs_spec[0]]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(operands[0].shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * depth
        else:
            total += sum(map(_flops, jaxprs_in_params(equation.params)))
    return total
