"""A network's options, and the layers that are built by them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from fer_jax.models.cpu.convolution import conv_on_cpu
from fer_jax.models.layers import Head, SqueezeExcitation, uniform


class Options(NamedTuple):
    """What a network is built with.

    Attributes:
      num_classes: the width of the last layer.
      dropout: the rate before the last layer, in [0, 1).
      dtype: what convolutions compute in; parameters stay float32.
      channels: of the images, 1 for grey or 3 for colour.
      width: multiplies the channels of every hidden layer.
      blocks: how many residual blocks there are at each resolution, where a network
        lets one choose; None: its own number.
      squeeze_excitation: whether residual branches end in `layers.SqueezeExcitation`.
      norm: "plain"; "zero_last", where the scale of the last batch norm of a residual
        branch starts at 0 and each block at its shortcut (Goyal et al. 2017,
        arXiv:1706.02677); or "fixed_scale", where scales are 1 and only biases are
        trained (Jordan 2024, arXiv:2404.00498).
      plain: use XLA's own convolutions on a CPU too, which every exporter knows.
    """

    num_classes: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    channels: int = 1
    width: float = 1.0
    blocks: Sequence[int] | None = None
    squeeze_excitation: bool = False
    norm: str = "plain"
    plain: bool = False


class Builder(NamedTuple):
    """Builds layers by a network's options, with keys from `rngs`."""

    options: Options
    rngs: nnx.Rngs

    def scaled(self, channels: int) -> int:
        """`channels` times the width, rounded to a multiple of 8, and at least 8."""
        return max(8, 8 * round(channels * self.options.width / 8))

    def conv(self, inputs: int, outputs: int, size: int, stride: int = 1) -> nnx.Conv:
        """A square convolution without bias that keeps the size at stride 1.

        Padding is symmetric, as in PyTorch; `SAME` would shift odd strides.

        The kernel starts uniform in ± 0.25 / sqrt(fan_in), a quarter of PyTorch's
        default. Before batch norm, the scale of a kernel changes no output, but AdamW
        moves every weight by the learning rate, and so turns a smaller kernel further
        in each step (van Laarhoven 2017, arXiv:1706.05350) until it has grown. At a
        rate of 3e-4 and a few hundred steps this decides how much is learnt at all.
        """
        on_cpu = jax.default_backend() == "cpu" and not self.options.plain
        return nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=False,
            dtype=self.options.dtype,
            kernel_init=uniform(0.25),
            conv_general_dilated=(
                conv_on_cpu if on_cpu else jax.lax.conv_general_dilated
            ),
            rngs=self.rngs,
        )

    def batch_norm(self, features: int, *, last: bool = False) -> nnx.BatchNorm:
        """Batch norm with PyTorch's momentum; `last`: it ends a residual branch.

        Flax's default of 0.99 still remembers the start after a short run.
        """
        norm, initializers = self.options.norm, jax.nn.initializers
        starts_at_0 = last and norm == "zero_last"
        return nnx.BatchNorm(
            features,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.options.dtype,
            use_scale=norm != "fixed_scale",
            scale_init=initializers.zeros if starts_at_0 else initializers.ones,
            rngs=self.rngs,
        )

    def linear(
        self, inputs: int, outputs: int, kernel_init: nnx.Initializer
    ) -> nnx.Linear:
        """A linear layer with bias."""
        return nnx.Linear(
            inputs,
            outputs,
            dtype=self.options.dtype,
            kernel_init=kernel_init,
            rngs=self.rngs,
        )

    def layer_norm(self, features: int) -> nnx.LayerNorm:
        """Layer norm over the channels."""
        return nnx.LayerNorm(features, dtype=self.options.dtype, rngs=self.rngs)

    def excitation(self, features: int) -> SqueezeExcitation | None:
        """What ends a residual branch, if the options ask for it."""
        if not self.options.squeeze_excitation:
            return None
        return SqueezeExcitation(features, dtype=self.options.dtype, rngs=self.rngs)

    def head(self, features: int, *, grid: int = 1) -> Head:
        """The last layers, from `[B, H, W, features]` to logits."""
        return Head(
            features,
            self.options.num_classes,
            dropout=self.options.dropout,
            grid=grid,
            rngs=self.rngs,
        )
