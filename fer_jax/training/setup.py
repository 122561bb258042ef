"""An experiment's settings and images in, compiled functions and arrays out."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax import models
from fer_jax.config import Config, Model
from fer_jax.data import Dataset
from fer_jax.data import batches as pipeline
from fer_jax.data.lazy_images import Images, StoredImages, read_pixels
from fer_jax.errors import UserError
from fer_jax.models import torch_weights, whitening
from fer_jax.system.memory import available_memory
from fer_jax.training import (
    augment_ops,
    devices,
    evaluate,
    losses,
    optimizer,
    processes,
)
from fer_jax.training.augment import make_augment
from fer_jax.training.devices import Devices
from fer_jax.training.step import (
    Largest,
    Sums,
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    zero_sums,
)

_AT_ONCE, _DISPATCH_BYTES = 32, 2**27  # steps, and of a streamed set's images


class Experiment(NamedTuple):
    """What a run is made of; nothing is compiled before its first use."""

    devices: Devices
    state: TrainState  # before the first step
    train_step: TrainStep
    predict: evaluate.PredictFn
    schedule: optax.Schedule
    # By split, uint8 [N, S, S, channels], on each device or streamed.
    images: dict[str, jax.Array | StoredImages]
    labels: jax.Array  # of train, float32 [N, C], on each device
    # A grain dataset of int32 [B], one element a step; streamed, with the images.
    batches: Any
    batch_size: int
    per_epoch: int  # steps
    at_once: int  # steps in one dispatch
    compute_dtype: str
    flops: int  # of one image's forward pass

    def zero_sums(self, last_good: Largest | None = None) -> Sums:
        """`train_step.zero_sums` of this run, on its devices."""
        return self.devices.put(zero_sums(len(self.labels), last_good))


def build(config: Config, dataset: Dataset) -> Experiment:
    """Makes the parts of a run, and puts images that are in memory on its devices.

    Raises:
      UserError: if there is no such network or file of weights, or a batch cannot be
        filled or shared by the devices.
    """
    training, num_classes = config.training, len(dataset.class_names)
    train = dataset.splits["train"]
    labels, soft = train.labels, train.soft
    per_epoch = pipeline.steps_per_epoch(len(labels), training.batch_size)
    shared = devices.find(config.device, training.batch_size)
    init_key, step_key = jax.random.split(jax.random.key(training.seed))
    dtype = _compute_dtype(training.precision)
    network, params, batch_stats = _make_network(config, dataset, init_key, dtype)
    trained = _trained(params) if config.model.whitened_stem else None
    tx, schedule = optimizer.create(
        training.lr,
        total_steps=per_epoch * training.epochs,
        pct_start=training.pct_start,
        weight_decay=training.weight_decay,
        rule=training.optimizer,
        schedule=training.schedule,
        momentum=training.momentum,
        clip_norm=training.clip_norm,
        trained=trained,
    )
    counts = np.bincount(labels, minlength=num_classes)
    weights = losses.class_weights(counts) if config.loss.use_class_weights else None
    loss_fn = functools.partial(
        losses.softmax_loss,
        weights=weights,
        label_smoothing=config.loss.label_smoothing,
        focal_gamma=config.loss.focal_gamma if config.loss.type == "focal" else 0.0,
        bootstrap=config.loss.bootstrap,
    )
    sampling = (
        pipeline.sampler_weights(labels) if config.data.weighted_sampler else None
    )
    order = pipeline.batch_order(
        len(labels),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=training.seed,
        weights=sampling,
    )
    state = init_state(params, batch_stats, tx, averages=training.ema_decay > 0)
    return Experiment(
        devices=shared,
        # The first's, as another processor may have rounded some weights differently.
        state=shared.put(processes.share(state)),
        train_step=make_train_step(
            network,
            tx,
            loss_fn=loss_fn,
            augment_fn=make_augment(
                config.augmentation,
                crop_size=config.data.crop_size,
                per_epoch=per_epoch,
            ),
            key=shared.put(step_key),
            sam_rho=training.sam_rho,
            ema_decay=training.ema_decay,
            trained=trained,
            devices=shared,
        ),
        predict=evaluate.make_predict(
            network,
            views=config.evaluation.tta,
            crop_size=config.data.crop_size,
            devices=shared,
        ),
        schedule=schedule,
        images={
            name: split.images
            if isinstance(split.images, StoredImages)
            else shared.put(split.images)
            for name, split in dataset.splits.items()
        },
        labels=shared.put(
            jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
            if soft is None
            else soft
        ),
        batches=(
            pipeline.image_batches(order, train.images, shared.own(training.batch_size))
            if isinstance(train.images, StoredImages)
            else pipeline.index_batches(order)
        ),
        batch_size=training.batch_size,
        per_epoch=per_epoch,
        at_once=_at_once(train.images, training.batch_size),
        compute_dtype=jnp.dtype(dtype).name,
        flops=models.count_flops(
            network,
            params,
            batch_stats,
            config.data.crop_size or config.data.image_size,
            config.data.channels,
        ),
    )


def _make_network(
    config: Config, dataset: Dataset, key: jax.Array, dtype: Any
) -> tuple[models.Network, Any, Any]:
    """The network with its first params and batch_stats."""
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
            squeeze_excitation=settings.squeeze_excitation,
            norm=settings.norm,
        ),
    )
    if settings.pretrained is not None:
        _check_pretrained(settings)
        params, batch_stats = torch_weights.load(
            settings.pretrained, settings.arch, params, batch_stats
        )
    if settings.whitened_stem:
        layer, leaf = models.STEM
        images = _some_normalised(dataset.splits["train"].images)
        kernel = whitening.whitened(np.asarray(params[layer][leaf]), images)
        params = params | {layer: params[layer] | {leaf: jnp.asarray(kernel)}}
    return network, params, batch_stats


def _trained(params: Any) -> Any:
    """1 for all but the filters that whiten: these stay (arXiv:2404.00498)."""
    layer, leaf = models.STEM
    shape = params[layer][leaf].shape
    filters = np.arange(shape[3]) >= whitening.count(shape)
    every = jax.tree.map(lambda _: 1.0, params)
    return every | {layer: every[layer] | {leaf: filters.astype(np.float32)}}


def _check_pretrained(settings: Model) -> None:
    """Refuses what would make another network of the one that was trained."""
    needed = {
        "width": 1.0,
        "squeeze_excitation": False,
        "norm": "plain",
        "whitened_stem": False,
    }
    for name, value in needed.items():
        if (found := getattr(settings, name)) != value:
            raise UserError(
                f"model.{name} is {found!r}, which no published weights are for; set "
                f"it to {value!r}, or model.pretrained to null"
            )


def _some_normalised(images: Images) -> np.ndarray:
    """2,000 images from all over, or fewer large ones: float32 `[N, S, S, C]`."""
    count = min(2000, max(64, 2**23 // images.shape[1] ** 2), len(images))
    places = np.arange(count) * len(images) // count
    return np.asarray(augment_ops.normalise(jnp.asarray(read_pixels(images, places))))


def _at_once(images: Images, batch_size: int) -> int:
    """How many steps share a dispatch.

    On CPU none do: XLA's convolutions run some 25 times slower inside a scan there.
    Those of a streamed set carry their images, of which two dispatches wait.
    """
    if jax.default_backend() == "cpu":
        return 1
    if not isinstance(images, StoredImages):
        return _AT_ONCE
    batch_bytes = batch_size * images[:1].nbytes
    return max(1, min(_AT_ONCE, _DISPATCH_BYTES // batch_bytes))


def memory_for_images(stream: str) -> float:
    """How many bytes of images a run may hold; a larger set is streamed.

    "always" streaming holds none and "never" any number. "auto" is half of what the
    device has free, or half of this process's share of the machine's memory if that is
    less. All processes of a run get the least of theirs, since all stream or none.
    """
    if stream != "auto":
        return {"always": 0, "never": math.inf}[stream]
    free = available_memory() // processes.beside()
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        free = min(free, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return processes.least(free // 2)


def _compute_dtype(precision: str) -> Any:
    accelerated = jax.default_backend() != "cpu"
    bfloat16 = precision == "bfloat16" or (precision == "auto" and accelerated)
    return jnp.bfloat16 if bfloat16 else jnp.float32


def side_at(config: Config, epoch: int) -> int | None:
    """The side of the images in an epoch, from 0; None: what they have.

    Progressive resizing in three stages of equal length, the last at full size (as in
    Tan & Le 2021, arXiv:2104.00298): each size is compiled once.
    """
    start = config.training.start_size
    full = config.data.crop_size or config.data.image_size
    epochs = config.training.epochs
    stage = 3 * epoch // epochs
    if not start or stage == 2 or epoch == epochs - 1:
        return None
    return start if stage == 0 else (start + full) // 2
