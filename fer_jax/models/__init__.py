"""Networks by name, and the one place where Flax NNX objects become functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from fer_jax.errors import UserError
from fer_jax.models.fernet import FerNet
from fer_jax.models.resnet import ResNet18, ResNet34

MODELS = {"fernet": FerNet, "resnet18": ResNet18, "resnet34": ResNet34}


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
) -> tuple[Network, Any, Any]:
    """Builds a network for images of any size.

    Args:
      arch: a name from `MODELS`.
      key: a JAX key for the initial weights.
      num_classes: the width of the last layer.
      dropout: the rate before the last layer, in [0, 1).
      dtype: what convolutions compute in; parameters stay float32.
      channels: of the images, 1 for grey or 3 for colour.

    Returns:
      the network, its params and its batch_stats (nested dicts of float32 arrays).

    Raises:
      UserError: if there is no network of that name.
    """
    if arch not in MODELS:
        raise UserError(
            f"model.arch is {arch!r}, which does not exist; "
            f"choose one of {', '.join(MODELS)}"
        )
    model = MODELS[arch](
        num_classes=num_classes,
        dropout=dropout,
        dtype=dtype,
        channels=channels,
        rngs=nnx.Rngs(key),
    )
    _, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    network = Network(
        training=_graphdef(model, training=True),
        evaluation=_graphdef(model, training=False),
    )
    return network, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def _graphdef(model: nnx.Module, *, training: bool) -> nnx.GraphDef:
    view = nnx.view(model, deterministic=not training, use_running_average=not training)
    return nnx.split(view, nnx.Param, nnx.BatchStat)[0]


def count_parameters(params: Any) -> int:
    """The number of trained values in a tree of params."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
