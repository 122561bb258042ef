"""A model as one function of pixels, and as StableHLO, for programs without fer_jax.

The function holds all that `Predictor.predict` does to a face crop of the right size:
normalisation, views, temperature and softmax. Its convolutions are XLA's own.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from fer_jax.inference import network
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.training import evaluate
from fer_jax.training.augment_ops import normalise

PLATFORMS = ("cpu", "cuda")
_TINY = 1e-30  # so that no probability has a logarithm of minus infinity


def as_function(model: ModelFile) -> Callable[[jax.Array], jax.Array]:
    """Returns a function from uint8 `[B, S, S]` or `[B, S, S, 3]` to float32 `[B, C]`.

    S is `preprocessing.image_size`. The results are probabilities.
    """
    shape = model.description.preprocessing
    created, weights = network.build(model, plain=True)
    temperature = np.float32(model.description.calibration.temperature)

    def probabilities(images: jax.Array) -> jax.Array:
        pixels = normalise(images[..., None] if shape.channels == 1 else images)
        views = evaluate.tta_views(pixels, tta=shape.views, crop_size=shape.crop_size)
        seen = [_softmax(created.evaluate(*weights, view)) for view in views]
        mean = functools.reduce(jnp.add, seen) / len(seen)
        return _softmax(jnp.log(mean + _TINY) / temperature)

    return probabilities


def _softmax(logits: jax.Array) -> jax.Array:
    """As `jax.nn.softmax`, of operations that every exporter knows."""
    shifted = jnp.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def input_shape(model: ModelFile) -> tuple[int, ...]:
    """The shape of one image: (S, S) or (S, S, 3)."""
    shape = model.description.preprocessing
    return (shape.image_size,) * 2 + ((3,) if shape.channels == 3 else ())


def symbolic_input(model: ModelFile) -> jax.ShapeDtypeStruct:
    """The input of `as_function` for any number of images."""
    (batch,) = export.symbolic_shape("batch")
    return jax.ShapeDtypeStruct((batch, *input_shape(model)), jnp.uint8)


def to_stablehlo(model: ModelFile) -> bytes:
    """Returns the function for `PLATFORMS` and any batch, as `jax.export` writes it.

    `jax.export.deserialize(raw).call(images)` runs it.
    """
    function = jax.jit(as_function(model))
    made = export.export(function, platforms=PLATFORMS)(symbolic_input(model))
    return bytes(made.serialize())
