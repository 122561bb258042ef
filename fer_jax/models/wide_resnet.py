"""WRN-16-8 (Zagoruyko & Komodakis 2016, arXiv:1605.07146): shallow, but wide.

Three stages of two blocks each, in which batch norm and ReLU come before each
convolution (He et al. 2016, arXiv:1603.05027), as in the paper's code.
"""

import jax
from flax import nnx

from fer_jax.models.builder import Builder

STEM, WIDTHS, DEPTH = 16, (128, 256, 512), 2  # 8 x 16, 32 and 64; blocks a stage


class WideResNet(nnx.Module):
    """A 3 x 3 stem, then blocks; the later two stages halve the size."""

    def __init__(self, build: Builder):
        """Builds the network."""
        inputs = build.scaled(STEM)
        self.stem = build.conv(build.options.channels, inputs, 3)
        blocks = []
        for stage, width in enumerate(WIDTHS):
            features = build.scaled(width)
            for number in range(DEPTH):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(_Block(inputs, features, stride, build))
                inputs = features
        self.blocks = nnx.List(blocks)
        self.norm = build.batch_norm(inputs)
        self.head = build.head(inputs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.head(jax.nn.relu(self.norm(x)), rngs)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions, each after batch norm and ReLU, and a shortcut.

    Where the size or the width changes, the shortcut is a 1 x 1 convolution after the
    first batch norm and ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, build: Builder):
        projects = stride != 1 or inputs != outputs
        self.norm1 = build.batch_norm(inputs)
        self.conv1 = build.conv(inputs, outputs, 3, stride)
        self.norm2 = build.batch_norm(outputs)
        self.conv2 = build.conv(outputs, outputs, 3)
        self.project = nnx.data(
            build.conv(inputs, outputs, 1, stride) if projects else None
        )
        self.excite = nnx.data(build.excitation(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(x))
        if self.project is not None:
            x = self.project(y)
        y = jax.nn.relu(self.norm2(self.conv1(y)))
        y = self.conv2(y)
        if self.excite is not None:
            y = self.excite(y)
        return x + y
