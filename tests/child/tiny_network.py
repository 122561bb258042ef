"""A network of one convolution, which compiles at once; importing registers `tiny`."""

import jax
from flax import nnx

from fer_jax import models
from fer_jax.models.layers import Head, batch_norm, scaled, uniform


class Tiny(nnx.Module):
    """A 4 x 4 convolution of stride 2, batch norm and ReLU; a head of 8 x 8 cells."""

    def __init__(self, *, num_classes, dropout, dtype, channels, width, norm, rngs):
        features = scaled(8, width)
        self.stem = nnx.Conv(
            channels, features, (4, 4), strides=2, padding=1, use_bias=False,
            dtype=dtype, kernel_init=uniform(0.25), rngs=rngs,
        )  # fmt: skip
        self.norm = batch_norm(features, norm=norm, dtype=dtype, rngs=rngs)
        self.head = Head(features, num_classes, dropout=dropout, grid=8, rngs=rngs)

    def __call__(self, images, rngs=None):
        return self.head(jax.nn.relu(self.norm(self.stem(images))), rngs)


models.MODELS["tiny"] = models.Family(
    Tiny, squeeze_excitation=False, norms=("plain", "fixed_scale")
)
