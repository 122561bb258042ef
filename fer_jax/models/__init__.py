"""Networks by name, and the one place where Flax NNX objects become functions."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.models import resnet
from fer_jax.models.builder import Builder, Options
from fer_jax.models.convnext import ConvNeXt
from fer_jax.models.fernet import BLOCKS, FerNet
from fer_jax.models.flops import count_flops
from fer_jax.models.vgg import VGG
from fer_jax.models.wide_resnet import WideResNet

__all__ = [
    "MODELS",
    "STEM",
    "Builder",
    "Family",
    "Network",
    "Options",
    "blocks_of",
    "check",
    "count_flops",
    "count_parameters",
    "create",
]

NORMS = ("plain", "zero_last", "fixed_scale")
STEM = ("stem", "kernel")  # where the params of each network hold its first kernel


class Family(NamedTuple):
    """How a network is built, and which of the options it has."""

    build: Callable[[Builder], nnx.Module]
    blocks: tuple[int, ...] | None = None  # at each resolution, if it is an option
    squeeze_excitation: bool = True
    norms: tuple[str, ...] = NORMS


MODELS = {
    "fernet": Family(FerNet, blocks=BLOCKS),
    "resnet18": Family(resnet.resnet18),
    "resnet34": Family(resnet.resnet34),
    "resnet18_imagenet": Family(resnet.resnet18_imagenet),
    "resnet34_imagenet": Family(resnet.resnet34_imagenet),
    "resnet50_imagenet": Family(resnet.resnet50_imagenet),
    # Its branches end in a convolution: with a scale of 0 before it and ReLU, no
    # gradient would ever reach them.
    "wide_resnet": Family(WideResNet, norms=("plain", "fixed_scale")),
    "vgg": Family(VGG, squeeze_excitation=False, norms=("plain", "fixed_scale")),
    "convnext": Family(ConvNeXt, squeeze_excitation=False, norms=("plain",)),
}


class Network(NamedTuple):
    """A network's structure, for training and for evaluation, without its arrays."""

    training: nnx.GraphDef
    evaluation: nnx.GraphDef

    def train(
        self, params: Any, batch_stats: Any, images: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Logits `[B, num_classes]` and new batch_stats; `key` draws the dropout.

        `images` is float `[B, H, W, C]`, normalised.
        """
        model = nnx.merge(self.training, params, batch_stats)
        logits = model(images, rngs=nnx.Rngs(dropout=key))
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

    def evaluate(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """Logits `[B, num_classes]`, with running statistics and without dropout."""
        return nnx.merge(self.evaluation, params, batch_stats)(images)

    def features(self, params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        """What the last layer is given, as `evaluate`: float32 `[B, F]`."""
        model = nnx.merge(self.evaluation, params, batch_stats)
        model.head.linear = _identity
        return model(images)


def _identity(x: jax.Array) -> jax.Array:
    return x


def create(arch: str, key: jax.Array, options: Options) -> tuple[Network, Any, Any]:
    """Builds a network for images of 16 x 16 and larger.

    Args:
      arch: a name from `MODELS`.
      key: a JAX key for the initial weights.
      options: its shape.

    Returns:
      the network, its params and its batch_stats (nested dicts of float32 arrays).

    Raises:
      UserError: if there is no network of that name, or it lacks an option.
    """
    check(arch, options)
    model = MODELS[arch].build(Builder(options, nnx.Rngs(key)))
    arrays = [
        nnx.to_pure_dict(nnx.state(model, kind)) for kind in (nnx.Param, nnx.BatchStat)
    ]
    network = Network(
        training=_graphdef(model, training=True),
        evaluation=_graphdef(model, training=False),
    )
    return network, arrays[0], arrays[1]


def check(arch: str, options: Options) -> None:
    """Checks that `create` can build a network with these options.

    Raises:
      UserError: if there is no network of that name, or it lacks an option.
    """
    if arch not in MODELS:
        raise UserError(
            f"model.arch is {arch!r}, which does not exist; "
            f"choose one of {', '.join(MODELS)}"
        )
    _check_blocks(arch, options.blocks)
    if options.squeeze_excitation and not MODELS[arch].squeeze_excitation:
        have = [name for name, family in MODELS.items() if family.squeeze_excitation]
        raise UserError(
            f"model.squeeze_excitation is true, but {arch} has no residual branches "
            f"with batch norm; set it to false, or model.arch to {', '.join(have)}"
        )
    if options.norm not in MODELS[arch].norms:
        have = [name for name, each in MODELS.items() if options.norm in each.norms]
        known = ", ".join(MODELS[arch].norms)
        raise UserError(
            f"model.norm is {options.norm!r}, which {arch} does not have; set it to "
            f"{known}" + (f", or model.arch to {', '.join(have)}" if have else "")
        )


def _check_blocks(arch: str, blocks: Sequence[int] | None) -> None:
    if blocks is None:
        return
    own = MODELS[arch].blocks
    if own is None:
        have = [name for name, family in MODELS.items() if family.blocks]
        raise UserError(
            f"model.blocks is {list(blocks)}, but the blocks of {arch} are fixed; set "
            f"it to null, or model.arch to {', '.join(have)}"
        )
    if len(blocks) != len(own) or blocks[0] < 0 or min(blocks[1:]) < 1:
        raise UserError(
            f"model.blocks is {list(blocks)}; expected {len(own)} numbers for "
            f"{arch}, such as [1, 1, 1], of which only the first may be 0"
        )


def blocks_of(arch: str, blocks: Sequence[int] | None) -> list[int] | None:
    """The residual blocks that a network has, given `Options.blocks`; None: fixed."""
    own = blocks or (MODELS[arch].blocks if arch in MODELS else None)
    return None if own is None else list(own)


def _graphdef(model: nnx.Module, *, training: bool) -> nnx.GraphDef:
    modes = {"deterministic": not training}
    if nnx.state(model, nnx.BatchStat):  # `nnx.view` refuses what no layer has
        modes["use_running_average"] = not training
    view = nnx.view(model, **modes)
    graphdef, *_ = nnx.split(view, nnx.Param, nnx.BatchStat)
    return graphdef


def count_parameters(params: Any) -> int:
    """The number of values in a tree of params."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
