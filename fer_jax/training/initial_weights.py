"""The network of a run and its weights before the first step.

They are random, whitened in the first layer, or those of a trained network.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import emotions, models
from fer_jax.config import Config, Model
from fer_jax.data import Dataset
from fer_jax.data.lazy_images import Images, read_pixels
from fer_jax.errors import UserError
from fer_jax.models import Network, torch_weights, transfer, whitening
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.training import augment_ops


class Pretrained(NamedTuple):
    """What is known of the trained network that a run starts from."""

    record: dict[str, Any]  # for `result.json`
    note: str  # for people
    train_hashes: np.ndarray | None  # of its train images, uint64 [N, 2]; None: unknown


class Start(NamedTuple):
    """A network before the first step."""

    network: Network
    params: Any
    batch_stats: Any
    pretrained: Pretrained | None


def initialise(config: Config, dataset: Dataset, key: jax.Array, dtype: Any) -> Start:
    """Builds the network that the config asks for, and its weights.

    Raises:
      UserError: if there is no such network, or the trained one is of another kind.
    """
    settings = config.model
    network, params, batch_stats = models.create(
        settings.arch,
        key,
        models.Options(
            num_classes=len(dataset.class_names),
            dropout=settings.dropout,
            dtype=dtype,
            channels=config.data.channels,
            width=settings.width,
            blocks=settings.blocks,
            squeeze_excitation=settings.squeeze_excitation,
            norm=settings.norm,
        ),
    )
    pretrained = None
    if settings.pretrained is not None:
        params, batch_stats, pretrained = _pretrained(
            settings, dataset, params, batch_stats
        )
    if settings.whitened_stem:
        layer, leaf = models.STEM
        images = _sample(dataset.splits["train"].images)
        kernel = whitening.whitened(np.asarray(params[layer][leaf]), images)
        params = params | {layer: params[layer] | {leaf: jnp.asarray(kernel)}}
    return Start(network, params, batch_stats, pretrained)


def _pretrained(
    settings: Model, dataset: Dataset, params: Any, batch_stats: Any
) -> tuple[Any, Any, Pretrained]:
    """The weights of `model.pretrained`, which names a model of ours or a file."""
    name = str(settings.pretrained)
    if name.endswith(".safetensors"):
        _check_settings(settings, _PUBLISHED, "no published weights are for")
        loaded = torch_weights.load(name, settings.arch, params, batch_stats)
        note = f"the weights of {name} in all but the head"
        return *loaded, Pretrained({"name": name}, note, None)
    stored = model_file.read(name)
    network = stored.description.network
    needed = {
        "arch": network.arch,
        "width": network.width,
        "blocks": models.blocks_of(network.arch, network.blocks),
        "squeeze_excitation": network.squeeze_excitation,
        "norm": network.norm,
        "whitened_stem": False,
    }
    own = settings.model_copy(
        update={"blocks": models.blocks_of(settings.arch, settings.blocks)}
    )
    _check_settings(own, needed, f"{name} is not of")
    labels = stored.description.labels
    where = stored.folder / model_file.WEIGHTS
    loaded = transfer.start_from(
        stored.tensors, labels, params, batch_stats, dataset.class_names, where
    )
    record = {"name": name, "sha256": stored.description.sha256}
    note = _note(name, stored, dataset.class_names)
    return *loaded, Pretrained(record, note, stored.train_hashes)


_PUBLISHED = {
    "width": 1.0,
    "squeeze_excitation": False,
    "norm": "plain",
    "whitened_stem": False,
}


def _check_settings(settings: Model, needed: dict[str, Any], why: str) -> None:
    """Raises a UserError if the network is not the one that was pretrained."""
    wrong = {key: v for key, v in needed.items() if getattr(settings, key) != v}
    if wrong:
        found = ", ".join(f"model.{k} is {getattr(settings, k)!r}" for k in wrong)
        change = " ".join(f"model.{k}={_as_typed(v)}" for k, v in wrong.items())
        raise UserError(
            f"{found}, which {why}; set {change}, or model.pretrained to null"
        )


def _as_typed(value: Any) -> str:
    """A value as --set takes it without quotes."""
    return str(value).replace(" ", "").replace("True", "true").replace("False", "false")


def _note(name: str, stored: ModelFile, own_labels: tuple[str, ...]) -> str:
    labels = emotions.canonical(stored.description.labels)
    is_new = [label not in labels for label in emotions.canonical(own_labels)]
    kept = [n for n, new in zip(own_labels, is_new, strict=True) if not new]
    new = [n for n, new in zip(own_labels, is_new, strict=True) if new]
    head = "its head is kept"
    if new:
        head = (
            f"its head is kept for {', '.join(kept)}, and " if kept else "its head is "
        )
        head += f"new for {', '.join(new)}"
    if stored.train_hashes is None:
        seen = (
            "its train images are not known, so copies of them in val and test go "
            "unseen"
        )
    else:
        seen = (
            f"copies of its {len(stored.train_hashes):,} train images in val and test "
            "count as copies in train"
        )
    return f"the weights are those of {name}; {head}; {seen}"


def _sample(images: Images) -> np.ndarray:
    """Up to 2,000 images, evenly spaced and normalised: float32 `[N, S, S, C]`."""
    count = min(2000, max(64, 2**23 // images.shape[1] ** 2), len(images))
    places = np.arange(count) * len(images) // count
    return np.asarray(augment_ops.normalise(jnp.asarray(read_pixels(images, places))))
