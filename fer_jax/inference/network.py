"""The network of a stored model, with its weights filled in."""

from typing import Any, NamedTuple

import jax

from fer_jax import models
from fer_jax.errors import UserError
from fer_jax.models import Network, transfer
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile


class Filled(NamedTuple):
    """A network with trained weights."""

    network: Network
    weights: tuple[Any, Any]  # params and batch_stats, float32


def build(model: ModelFile, *, plain: bool = False) -> Filled:
    """Returns the network of a model; `plain` is that of `models.Options`.

    Raises:
      UserError: if the network is unknown or the weights do not fit it.
    """
    shape = model.description.network
    options = models.Options(
        num_classes=len(model.description.labels),
        channels=model.description.preprocessing.channels,
        width=shape.width,
        blocks=shape.blocks,
        squeeze_excitation=shape.squeeze_excitation,
        norm=shape.norm,
        plain=plain,
    )
    networks = []

    def shapes() -> tuple[Any, Any]:
        network, *arrays = models.create(shape.arch, jax.random.key(0), options)
        networks.append(network)
        return tuple(arrays)

    try:
        # Only the shapes: drawing weights that are replaced takes half a second.
        params, batch_stats = jax.eval_shape(shapes)
    except UserError as error:
        raise UserError(f"{model.folder / model_file.MODEL}: {error}") from None
    where = model.folder / model_file.WEIGHTS
    return Filled(networks[0], transfer.fill(model.tensors, params, batch_stats, where))
