"""A network of one convolution, which compiles at once; importing registers `tiny`."""

import jax
from flax import nnx

from fer_jax import models
from fer_jax.models.layers import uniform


class Tiny(nnx.Module):
    """A 4 x 4 convolution of stride 2, batch norm and ReLU; a head of 8 x 8 cells."""

    def __init__(self, build):
        features, options = build.scaled(8), build.options
        self.stem = nnx.Conv(
            options.channels, features, (4, 4), strides=2, padding=1, use_bias=False,
            dtype=options.dtype, kernel_init=uniform(0.25), rngs=build.rngs,
        )  # fmt: skip
        self.norm = build.batch_norm(features)
        self.head = build.head(features, grid=8)

    def __call__(self, images, rngs=None):
        return self.head(jax.nn.relu(self.norm(self.stem(images))), rngs)


models.MODELS["tiny"] = models.Family(
    Tiny, squeeze_excitation=False, norms=("plain", "fixed_scale")
)
