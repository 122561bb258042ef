"""Weights that PyTorch has trained, from a file of torchvision or timm.

Both name the layers of ResNet-18, -34 and -50 alike: `conv1`, `bn1`,
`layer1.0.conv1`, `layer1.0.downsample.0`, `fc`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from fer_jax.errors import UserError
from fer_jax.models.resnet import DEPTHS

LAYERS = {"resnet18_imagenet": 18, "resnet34_imagenet": 34, "resnet50_imagenet": 50}
PREFIXES = ("module.", "model.")  # of wrappers that were saved with the network
_COUNTER = "num_batches_tracked"
_FLOATS = ("F16", "BF16", "F32", "F64")  # safetensors' names
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_LEAVES |= {"mean": "running_mean", "var": "running_var"}


def load(path: str | Path, arch: str, params: Any, batch_stats: Any) -> tuple[Any, Any]:
    """A network with the weights of a .safetensors file in all but its head.

    The file holds the state dict of a ResNet by torchvision or timm, in any floating
    type. Kernels are turned from OIHW to HWIO. Where the network takes grey images
    and the file's takes colour, the first kernel is summed over its inputs: that does
    to a grey image what the file's network does to three equal channels. The last
    layer, `fc`, stays as initialised, whatever its number of classes.

    Args:
      path: the file.
      arch: of `LAYERS`, the network that params and batch_stats are of.
      params: nested dict of float32 arrays, as `models.create` makes it.
      batch_stats: likewise.

    Returns:
      params and batch_stats, new, of the same structure and shapes.

    Raises:
      UserError: if the file cannot be read, is not of such a network, or arch is none
        whose weights others publish.
    """
    if arch not in LAYERS:
        near = f"{arch}_imagenet"
        choices = near if near in LAYERS else f"one of {', '.join(LAYERS)}"
        raise UserError(
            f"model.pretrained is set, but there are no such weights for {arch}; "
            f"set model.arch to {choices}, or model.pretrained to null"
        )
    tensors = _read(Path(path))
    unused = {name for name in tensors if not name.startswith("fc.")}
    try:
        loaded = [
            jax.tree_util.tree_map_with_path(
                lambda place, like: _take(tensors, unused, arch, place, like), tree
            )
            for tree in (params, batch_stats)
        ]
        if unused:
            raise _Unfit(f"holds the tensor {min(unused)}, which {arch} does not have")
    except _Unfit as problem:
        hint = f"name a file of torchvision's or timm's resnet{LAYERS[arch]}"
        raise UserError(f"{path} {problem}; {hint}") from None
    return loaded[0], loaded[1]


class _Unfit(Exception):
    """What makes a file that of another network."""


def _take(
    tensors: dict[str, np.ndarray],
    unused: set[str],
    arch: str,
    place: tuple[Any, ...],
    like: jax.Array,
) -> jax.Array:
    """The file's values of the leaf at `place`, taken off `unused`."""
    keys = [part.key for part in place]
    if keys[0] == "head":
        return like
    name = _torch_name(keys, LAYERS[arch])
    if name not in tensors:
        raise _Unfit(f"lacks the tensor {name}, which {arch} has")
    unused.discard(name)
    values = tensors[name].astype(np.float32)
    if values.ndim == 4:
        values = values.transpose(2, 3, 1, 0)  # OIHW to HWIO
        if keys[0] == "stem" and values.shape[2] == 3 and like.shape[2] == 1:
            values = values.sum(axis=2, keepdims=True)
    if values.shape != like.shape:
        shape = tensors[name].shape
        raise _Unfit(f"has the shape {shape} for the tensor {name}, unlike {arch}")
    return jnp.asarray(values)


def _read(path: Path) -> dict[str, np.ndarray]:
    """The file's tensors but for counters, by their names without prefixes."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise UserError(
                f"model.pretrained is {path}, which is not a file; name a .safetensors "
                "file, relative to the working directory, or set it to null"
            )
        with safe_open(path, framework="np") as file:
            names = file.keys()
            names = [name for name in names if not name.endswith(_COUNTER)]
            for name in names:
                if (kind := file.get_slice(name).get_dtype()) not in _FLOATS:
                    raise UserError(
                        f"{path}: the tensor {name} is of type {kind}; "
                        f"expected a floating type, one of {', '.join(_FLOATS)}"
                    )
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained is {path}, which cannot be read as a whole .safetensors "
            f"file ({error}); download or copy it again"
        ) from None
    for prefix in PREFIXES * 2:  # either may be the outer one
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def _torch_name(keys: list[Any], layers: int) -> str:
    """PyTorch's name of a leaf: blocks.2.norm1.scale is layer2.0.bn1.weight."""
    *place, layer, leaf = keys
    layer = layer.replace("stem", "conv1").replace("norm", "bn")
    if layer == "bn":
        layer = "bn1"
    elif layer == "project":
        layer = "downsample.0"
    elif layer == ("bn4" if layers == 50 else "bn3"):
        layer = "downsample.1"
    if place:
        stage, number = 0, place[1]
        while number >= DEPTHS[layers][stage]:
            number -= DEPTHS[layers][stage]
            stage += 1
        layer = f"layer{stage + 1}.{number}.{layer}"
    return f"{layer}.{_LEAVES[leaf]}"
