"""Stored weights in a network, as they are or to train it further."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.emotions import canonical
from fer_jax.errors import UserError

_STEM = "params/stem/kernel"
_KERNEL, _BIAS = "params/head/linear/kernel", "params/head/linear/bias"


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dicts by names such as params/head/linear/bias."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def fill(
    tensors: Mapping[str, np.ndarray], params: Any, batch_stats: Any, where: Path
) -> tuple[Any, Any]:
    """Returns stored tensors as the params and batch_stats of a network.

    Args:
      tensors: of a floating type, by name.
      params: nested dict of arrays, as `models.create` makes it; its structure and
        shapes are those of the result.
      batch_stats: likewise.
      where: the file that an error names.

    Returns:
      params and batch_stats, float32.

    Raises:
      UserError: if the tensors are not those of the network.
    """
    like = {"params": params, "batch_stats": batch_stats}
    expected = leaves_by_name(like)
    for name, leaf in expected.items():
        if name not in tensors:
            raise UserError(f"{where} lacks the tensor {name}; export the model again")
        found = tensors[name]
        if found.dtype.kind != "f" or found.shape != leaf.shape:
            raise UserError(
                f"{where}: {name} is {found.dtype} {list(found.shape)}, expected "
                f"float16 {list(leaf.shape)}; export the model again"
            )
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise UserError(
            f"{where} holds the tensor {surplus[0]}, which the network does not have; "
            "export the model again"
        )
    leaves = [jnp.asarray(tensors[name].astype(np.float32)) for name in expected]
    filled = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return filled["params"], filled["batch_stats"]


def start_from(
    tensors: Mapping[str, np.ndarray],
    labels: Sequence[str],
    params: Any,
    batch_stats: Any,
    own_labels: Sequence[str],
    where: Path,
) -> tuple[Any, Any]:
    """Returns a network with the weights of a trained one, to train it further.

    The head's weights of a class that both have are kept, those of a new class stay as
    initialised. A first kernel for grey images is shared among three colours, and one
    for colours is summed, so that grey pictures give the same as before.

    Args:
      tensors: of the trained network, by name.
      labels: its classes; two names of one emotion are the same class.
      params: of the network, as `models.create` makes it.
      batch_stats: likewise.
      own_labels: its classes.
      where: the file that an error names.

    Raises:
      UserError: if the networks differ in more than classes and colours.
    """
    own = leaves_by_name({"params": params})
    adapted = dict(tensors)
    both = [canonical(each) for each in (labels, own_labels)]
    kept = [name for name in both[1] if name in both[0]]
    there, here = ([names.index(name) for name in kept] for names in both)
    for name in (_KERNEL, _BIAS):
        if name in tensors and tensors[name].shape[-1:] == (len(labels),):
            adapted[name] = np.array(own[name])
            if tensors[name].shape[:-1] == own[name].shape[:-1]:
                adapted[name][..., here] = tensors[name][..., there]
    if _STEM in tensors and tensors[_STEM].ndim == 4:
        channels = own[_STEM].shape[2]
        summed = tensors[_STEM].astype(np.float32).sum(axis=2, keepdims=True)
        if channels != tensors[_STEM].shape[2]:
            adapted[_STEM] = np.repeat(summed / channels, channels, axis=2)
    return fill(adapted, params, batch_stats, where)
