"""FerNet: the default network, a small residual net for faces of 48 x 48.

Half of the cost of a residual net for small images lies in its first layers, which XLA
runs slowly on a CPU. So the stem halves the image at once, no block follows it at that
size, and the width grows where convolutions run near the speed of a matrix product.
"""

import itertools

import jax
from flax import nnx

from fer_jax.models.builder import Builder
from fer_jax.models.layers import avg_pool

WIDTHS = (32, 96, 192)  # at 24 x 24, 12 x 12 and 6 x 6
BLOCKS = (0, 2, 1)  # residual blocks at each of these sizes
GRID = 3  # cells along a side in the head


class FerNet(nnx.Module):
    """A 5 x 5 stem with stride 2, then residual blocks at three resolutions."""

    def __init__(self, build: Builder):
        """Builds the network."""
        widths = [build.scaled(each) for each in WIDTHS]
        self.stem = build.conv(build.options.channels, widths[0], 5, stride=2)
        self.norm = build.batch_norm(widths[0])
        counts = build.options.blocks or BLOCKS
        outputs = [
            w for w, count in zip(widths, counts, strict=True) for _ in range(count)
        ]
        self.blocks = nnx.List(
            _Block(*pair, build) for pair in itertools.pairwise([widths[0], *outputs])
        )
        self.head = build.head(widths[-1], grid=GRID)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        return self.head(x, rngs)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut; halves the size where it widens.

    The shortcut averages before its 1 x 1 convolution, so that it drops no pixel
    (ResNet-D, He et al. 2019, arXiv:1812.01187).
    """

    def __init__(self, inputs: int, outputs: int, build: Builder):
        widens = inputs != outputs  # at every width, as 32, 96 and 192 lie apart
        self.conv1 = build.conv(inputs, outputs, 3, stride=2 if widens else 1)
        self.norm1 = build.batch_norm(outputs)
        self.conv2 = build.conv(outputs, outputs, 3)
        self.norm2 = build.batch_norm(outputs, last=True)
        self.project = nnx.data(build.conv(inputs, outputs, 1) if widens else None)
        self.excite = nnx.data(build.excitation(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None:
            x = self.project(avg_pool(x))
        return jax.nn.relu(x + y)
