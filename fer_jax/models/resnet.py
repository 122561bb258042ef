"""ResNet-18, -34 and -50 (He et al. 2016, arXiv:1512.03385), as in torchvision.

For images of 32 to 64 pixels the stem is one 3 x 3 convolution with stride 1 and no
pooling, as is usual. For larger images, and for weights trained on ImageNet, it is
torchvision's: 7 x 7 with stride 2, then max pooling over 3 x 3 with stride 2.
"""

import functools

import jax
from flax import nnx

from fer_jax.models.builder import Builder

WIDTHS = (64, 128, 256, 512)
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # blocks of each stage


class ResNet(nnx.Module):
    """Four stages of residual blocks; the later three halve the size."""

    def __init__(self, layers: int, imagenet: bool, build: Builder):
        """Builds the network of 18, 34 or 50 layers, with ImageNet's stem or not."""
        inputs = build.scaled(WIDTHS[0])
        size, stride = (7, 2) if imagenet else (3, 1)
        self.imagenet = imagenet
        self.stem = build.conv(build.options.channels, inputs, size, stride)
        self.norm = build.batch_norm(inputs)
        block_type = _Bottleneck if layers == 50 else _Block
        blocks = []
        for stage, depth in enumerate(DEPTHS[layers]):
            features = build.scaled(WIDTHS[stage])
            for number in range(depth):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(block_type(inputs, features, stride, build))
                inputs = features * block_type.expansion
        self.blocks = nnx.List(blocks)
        self.head = build.head(inputs)

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """From normalised `[B, H, W, C]` to float32 logits `[B, num_classes]`."""
        x = jax.nn.relu(self.norm(self.stem(images)))
        if self.imagenet:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x, rngs)


resnet18 = functools.partial(ResNet, 18, False)
resnet34 = functools.partial(ResNet, 34, False)
resnet18_imagenet = functools.partial(ResNet, 18, True)
resnet34_imagenet = functools.partial(ResNet, 34, True)
resnet50_imagenet = functools.partial(ResNet, 50, True)


class _Block(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut, an identity or a 1 x 1 convolution."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int, build: Builder):
        projects = stride != 1 or inputs != outputs
        self.conv1 = build.conv(inputs, outputs, 3, stride)
        self.norm1 = build.batch_norm(outputs)
        self.conv2 = build.conv(outputs, outputs, 3)
        self.norm2 = build.batch_norm(outputs, last=True)
        self.project = nnx.data(
            build.conv(inputs, outputs, 1, stride) if projects else None
        )
        self.norm3 = nnx.data(build.batch_norm(outputs) if projects else None)
        self.excite = nnx.data(build.excitation(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None and self.norm3 is not None:
            x = self.norm3(self.project(x))
        return jax.nn.relu(x + y)


class _Bottleneck(nnx.Module):
    """A 3 x 3 convolution between two of 1 x 1, the second four times as wide.

    The stride is in the 3 x 3, as in torchvision, not in the first 1 x 1.
    """

    expansion = 4

    def __init__(self, inputs: int, features: int, stride: int, build: Builder):
        outputs = features * self.expansion
        projects = stride != 1 or inputs != outputs
        self.conv1 = build.conv(inputs, features, 1)
        self.norm1 = build.batch_norm(features)
        self.conv2 = build.conv(features, features, 3, stride)
        self.norm2 = build.batch_norm(features)
        self.conv3 = build.conv(features, outputs, 1)
        self.norm3 = build.batch_norm(outputs, last=True)
        self.project = nnx.data(
            build.conv(inputs, outputs, 1, stride) if projects else None
        )
        self.norm4 = nnx.data(build.batch_norm(outputs) if projects else None)
        self.excite = nnx.data(build.excitation(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.excite is not None:
            y = self.excite(y)
        if self.project is not None and self.norm4 is not None:
            x = self.norm4(self.project(x))
        return jax.nn.relu(x + y)
