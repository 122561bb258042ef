"""Networks by name, and the one place where Flax NNX objects become functions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import jaxprs_in_params

from fer_jax.errors import UserError
from fer_jax.models import resnet
from fer_jax.models.convnext import ConvNeXt
from fer_jax.models.fernet import FerNet
from fer_jax.models.vgg import VGG
from fer_jax.models.wide_resnet import WideResNet

PLAIN = ("plain",)
NORMS = ("plain", "zero_last", "fixed_scale")
STEM = ("stem", "kernel")  # where each network's params hold its first kernel


class Family(NamedTuple):
    """How a network is built, and which of the options it has."""

    build: Callable[..., nnx.Module]
    squeeze_excitation: bool = True
    norms: tuple[str, ...] = NORMS


MODELS = {
    "fernet": Family(FerNet),
    "resnet18": Family(resnet.resnet18),
    "resnet34": Family(resnet.resnet34),
    "resnet18_imagenet": Family(resnet.resnet18_imagenet),
    "resnet34_imagenet": Family(resnet.resnet34_imagenet),
    "resnet50_imagenet": Family(resnet.resnet50_imagenet),
    # Its branches end in a convolution: with a scale of 0 before it and ReLU, no
    # gradient would ever reach them.
    "wide_resnet": Family(WideResNet, norms=("plain", "fixed_scale")),
    "vgg": Family(VGG, squeeze_excitation=False, norms=("plain", "fixed_scale")),
    "convnext": Family(ConvNeXt, squeeze_excitation=False, norms=PLAIN),
}


class Network(NamedTuple):
    """A network's structure, for training and for evaluation, without its arrays."""

    training: nnx.GraphDef
    evaluation: nnx.GraphDef

    def train(
        self, params: Any, batch_stats: Any, images: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Logits `[B, classes]` with dropout drawn from `key`, and new batch_stats.

        `images` is float `[B, H, W, C]`, normalised.
        """
        model = nnx.merge(self.training, params, batch_stats)
        logits = model(images, rngs=nnx.Rngs(dropout=key))
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def evaluate(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """Logits `[B, classes]`, each image's own: running statistics, no dropout."""
        return nnx.merge(self.evaluation, params, batch_stats)(images)


def create(
    arch: str,
    key: jax.Array,
    *,
    num_classes: int,
    dropout: float,
    dtype: jnp.dtype,
    channels: int = 1,
    width: float = 1.0,
    squeeze_excitation: bool = False,
    norm: str = "plain",
) -> tuple[Network, Any, Any]:
    """Builds a network for images of 16 x 16 and larger.

    Args:
      arch: a name from `MODELS`.
      key: a JAX key for the initial weights.
      num_classes: the width of the last layer.
      dropout: the rate before the last layer, in [0, 1).
      dtype: what convolutions compute in; parameters stay float32.
      channels: of the images, 1 for grey or 3 for colour.
      width: what the channels of every hidden layer are multiplied by; they are
        rounded to a multiple of 8, and at least 8.
      squeeze_excitation: whether residual branches end in `layers.SqueezeExcitation`.
      norm: of `NORMS`, as `layers.batch_norm` takes it.

    Returns:
      the network, its params and its batch_stats (nested dicts of float32 arrays).

    Raises:
      UserError: if there is no network of that name, or it lacks an option.
    """
    options = _options(arch, squeeze_excitation, norm)
    model = MODELS[arch].build(
        num_classes=num_classes,
        dropout=dropout,
        dtype=dtype,
        channels=channels,
        width=width,
        **options,
        rngs=nnx.Rngs(key),
    )
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    network = Network(
        training=_graphdef(model, training=True),
        evaluation=_graphdef(model, training=False),
    )
    return network, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def _options(arch: str, squeeze_excitation: bool, norm: str) -> dict[str, Any]:
    """Those that not every network takes; a UserError names one that this lacks."""
    if arch not in MODELS:
        raise UserError(
            f"model.arch is {arch!r}, which does not exist; "
            f"choose one of {', '.join(MODELS)}"
        )
    if squeeze_excitation and not MODELS[arch].squeeze_excitation:
        have = [name for name, family in MODELS.items() if family.squeeze_excitation]
        raise UserError(
            f"model.squeeze_excitation is true, but {arch} has no residual branches "
            f"with batch norm; set it to false, or model.arch to {', '.join(have)}"
        )
    if norm not in MODELS[arch].norms:
        have = [name for name, family in MODELS.items() if norm in family.norms]
        known = ", ".join(MODELS[arch].norms)
        raise UserError(
            f"model.norm is {norm!r}, which {arch} does not have; set it to {known}"
            + (f", or model.arch to {', '.join(have)}" if have else "")
        )
    options: dict[str, Any] = {}
    if MODELS[arch].squeeze_excitation:
        options["squeeze_excitation"] = squeeze_excitation
    if MODELS[arch].norms != PLAIN:
        options["norm"] = norm
    return options


def _graphdef(model: nnx.Module, *, training: bool) -> nnx.GraphDef:
    how = {"deterministic": not training}
    if nnx.state(model, nnx.BatchStat):  # else no layer knows the word
        how["use_running_average"] = not training
    view = nnx.view(model, **how)
    return nnx.split(view, nnx.Param, nnx.BatchStat)[0]


def count_parameters(params: Any) -> int:
    """The number of trained values in a tree of params."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def count_flops(
    network: Network, params: Any, batch_stats: Any, image_size: int, channels: int
) -> int:
    """The floating-point operations of one image's forward pass; compiles nothing.

    Two for each product of convolutions, taps on the padding among them, and of
    products of matrices, as they are defined and not as a CPU composes them; nothing
    for norms, activations and the like. So counts PyTorch's `FlopCounterMode`. A mean
    over unequal cells is the small product of matrices that it is here.

    Args:
      network: from `create`, as are params and batch_stats.
      params: arrays, or their shapes.
      batch_stats: arrays, or their shapes.
      image_size: the side of the image, in pixels.
      channels: of the image.
    """
    # Of a single image, even a CPU computes the convolutions as they are defined.
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
