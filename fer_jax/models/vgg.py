"""The VGG of Khaireddin & Chen 2021 (arXiv:2105.03588) for FER2013.

Four stages of two 3 x 3 convolutions, each with batch norm and ReLU, and max pooling
over 2 x 2 pixels; then three fully connected layers, with dropout before the last two.
The paper crops 40 x 40 pixels, of which 2 x 2 are left there; other sizes are pooled
to 2 x 2. As batch norm has a bias, the convolutions, unlike the paper's, have none.
"""

import jax
from flax import nnx

from fer_jax.models.builder import Builder
from fer_jax.models.layers import adaptive_avg_pool, max_pool, uniform

WIDTHS = (64, 128, 256, 512)
HIDDEN = 4096  # values between the fully connected layers
GRID = 2  # cells along a side that the fully connected layers see


class VGG(nnx.Module):
    """Eight convolutions and three fully connected layers."""

    def __init__(self, build: Builder):
        """Builds the network."""
        widths = [build.scaled(each) for each in WIDTHS for _ in range(2)]
        hidden = build.scaled(HIDDEN)
        self.stem = build.conv(build.options.channels, widths[0], 3)
        self.norm = build.batch_norm(widths[0])
        self.blocks = nnx.List(
            _Layer(inputs, outputs, build)
            for inputs, outputs in zip(widths[:-1], widths[1:], strict=True)
        )
        self.linear1 = build.linear(GRID * GRID * widths[-1], hidden, uniform(1.0))
        self.linear2 = build.linear(hidden, hidden, uniform(1.0))
        self.dropout = nnx.Dropout(build.options.dropout)
        self.head = build.head(hidden)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`.

        H and W are at least 16.
        """
        x = jax.nn.relu(self.norm(self.stem(images)))
        for number, layer in enumerate(self.blocks):
            x = layer(x)
            if number % 2 == 0:  # the second of a stage, as the stem is the first
                x = max_pool(x)
        x = adaptive_avg_pool(x, GRID).reshape(x.shape[0], -1)
        x = self.dropout(jax.nn.relu(self.linear1(x)), rngs=rngs)
        x = jax.nn.relu(self.linear2(x))
        return self.head(x[:, None, None], rngs)


class _Layer(nnx.Module):
    """A 3 x 3 convolution, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, build: Builder):
        self.conv = build.conv(inputs, outputs, 3)
        self.norm = build.batch_norm(outputs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))
