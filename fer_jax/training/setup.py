"""Settings and images in, the compiled functions and arrays of a run out."""

import math
import platform
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from fer_jax import models
from fer_jax.config import Config
from fer_jax.data import Dataset, Split
from fer_jax.data import batches as pipeline
from fer_jax.data.lazy_images import Images, StoredImages
from fer_jax.models import Network, whitening
from fer_jax.system.memory import available_memory
from fer_jax.training import devices, evaluate, losses, processes
from fer_jax.training.augment import make_augment
from fer_jax.training.devices import Devices
from fer_jax.training.initial_weights import Pretrained, initialise
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.step import (
    EpochMetrics,
    Largest,
    LossFn,
    StepSpec,
    TrainState,
    TrainStep,
    init_metrics,
    init_state,
    make_train_step,
)

# The most steps in a dispatch, and the most bytes of streamed images.
_DISPATCH_STEPS, _DISPATCH_BYTES = 32, 2**27


class Setup(NamedTuple):
    """The functions and arrays of a run; a function compiles at its first use."""

    devices: Devices
    state: TrainState  # before the first step
    train_step: TrainStep
    predict: evaluate.PredictFn
    schedule: optax.Schedule
    # By split, uint8 [N, S, S, channels], replicated on every device or streamed.
    images: dict[str, jax.Array | StoredImages]
    labels: jax.Array  # of train, float32 [N, C], replicated on every device
    # One element a step: int32 [B]; of a streamed set, a pair of these and images.
    batches: grain.IterDataset
    batch_size: int
    steps_per_epoch: int
    steps_per_dispatch: int
    compute_dtype: str
    flops: int  # of one image's forward pass
    pretrained: Pretrained | None

    def init_metrics(self, last_good: Largest | None = None) -> EpochMetrics:
        """`step.init_metrics` of this run, on its devices."""
        return self.devices.replicate(init_metrics(len(self.labels), last_good))


def build_setup(config: Config, dataset: Dataset) -> Setup:
    """Builds the functions and arrays of a run.

    Raises:
      UserError: if there is no such network or weights, or no way to fill or share a
        batch.
    """
    training, train = config.training, dataset.splits["train"]
    per_epoch = pipeline.steps_per_epoch(len(train.labels), training.batch_size)
    shared = devices.find(config.device, training.batch_size)
    init_key, step_key = jax.random.split(jax.random.key(training.seed))
    dtype = _compute_dtype(training.precision)
    start = initialise(config, dataset, init_key, dtype)
    network, params, batch_stats, pretrained = start
    trainable = _trainable(params) if config.model.whitened_stem else None
    optimizer, schedule = make_optimizer(
        training, per_epoch * training.epochs, trainable=trainable
    )
    averages = training.ema_decay > 0
    state = init_state(params, batch_stats, optimizer, averages=averages)
    spec = StepSpec(
        network,
        optimizer,
        _make_loss(config, dataset),
        make_augment(config, per_epoch),
        sam_rho=training.sam_rho or None,
        ema_decay=training.ema_decay or None,
        trainable=trainable,
    )
    return Setup(
        devices=shared,
        # The first process's: another processor may round some weights differently.
        state=shared.replicate(processes.share(state)),
        train_step=make_train_step(
            spec, key=shared.replicate(step_key), devices=shared
        ),
        predict=evaluate.make_predict(
            network,
            tta=config.evaluation.tta,
            crop_size=config.data.crop_size,
            devices=shared,
        ),
        schedule=jax.jit(schedule),  # the bar asks several times a second
        images=_put_images(dataset, shared),
        labels=shared.replicate(_soft_labels(dataset)),
        batches=_make_batches(config, train, shared),
        batch_size=training.batch_size,
        steps_per_epoch=per_epoch,
        steps_per_dispatch=_steps_per_dispatch(train.images, training.batch_size),
        compute_dtype=jnp.dtype(dtype).name,
        flops=_count_flops(config, network, params, batch_stats),
        pretrained=pretrained,
    )


def _trainable(params: Any) -> Any:
    """1 for all but the whitening filters, which are frozen (arXiv:2404.00498)."""
    layer, leaf = models.STEM
    shape = params[layer][leaf].shape
    filters = np.arange(shape[3]) >= whitening.count(shape)
    every = jax.tree.map(lambda _: 1.0, params)
    return every | {layer: every[layer] | {leaf: filters.astype(np.float32)}}


def _make_loss(config: Config, dataset: Dataset) -> LossFn:
    settings, labels = config.loss, dataset.splits["train"].labels
    weights = np.ones(len(dataset.class_names), np.float32)
    if settings.use_class_weights:
        weights = losses.class_weights(np.bincount(labels, minlength=len(weights)))
    return Partial(
        losses.softmax_loss,
        weights=weights,
        label_smoothing=settings.label_smoothing,
        focal_gamma=settings.focal_gamma if settings.type == "focal" else 0.0,
        bootstrap=settings.bootstrap or None,
    )


def _put_images(
    dataset: Dataset, shared: Devices
) -> dict[str, jax.Array | StoredImages]:
    def put(images: Any) -> Any:
        stored = isinstance(images, StoredImages)
        return images if stored else shared.replicate(images)

    return {name: put(split.images) for name, split in dataset.splits.items()}


def _soft_labels(dataset: Dataset) -> Any:
    train = dataset.splits["train"]
    if train.soft is not None:
        return train.soft
    return jax.nn.one_hot(train.labels, len(dataset.class_names), dtype=jnp.float32)


def _make_batches(config: Config, train: Split, shared: Devices) -> grain.IterDataset:
    training, labels = config.training, train.labels
    weighted = config.data.weighted_sampler
    order = pipeline.batch_order(
        len(labels),
        batch_size=training.batch_size,
        epochs=training.epochs,
        seed=training.seed,
        weights=pipeline.sampler_weights(labels) if weighted else None,
    )
    if isinstance(train.images, StoredImages):
        own = shared.own(training.batch_size)
        return pipeline.image_batches(order, train.images, own)
    return pipeline.index_batches(order)


def _steps_per_dispatch(images: Images, batch_size: int) -> int:
    """How many steps share a dispatch.

    One on CPU, where XLA's convolutions are some 25 times slower inside a scan. A
    dispatch of a streamed set carries its images, and two of them wait in memory.
    """
    if jax.default_backend() == "cpu":
        return 1
    if not isinstance(images, StoredImages):
        return _DISPATCH_STEPS
    batch_bytes = batch_size * images[:1].nbytes
    return max(1, min(_DISPATCH_STEPS, _DISPATCH_BYTES // batch_bytes))


def _count_flops(config: Config, network: Network, params: Any, stats: Any) -> int:
    size = config.data.crop_size or config.data.image_size
    return models.count_flops(network, params, stats, size, config.data.channels)


def memory_for_images(stream: str) -> float:
    """How many bytes of images a run keeps in memory; a larger set is streamed.

    "always" streaming allows none and "never" any number. "auto" is half of the
    device's free memory, or half of this process's share of the machine's if that is
    less; the least of all processes, so that all stream or none does.
    """
    if stream != "auto":
        return {"always": 0, "never": math.inf}[stream]
    here = platform.node()
    free = available_memory() // processes.gather(here).count(here)
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        free = min(free, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return min(processes.gather(free // 2))


def _compute_dtype(precision: str) -> Any:
    accelerated = jax.default_backend() != "cpu"
    bfloat16 = precision == "bfloat16" or (precision == "auto" and accelerated)
    return jnp.bfloat16 if bfloat16 else jnp.float32


def side_at(config: Config, epoch: int) -> int | None:
    """The side of the images in an epoch, from 0; None: full size.

    Progressive resizing in three stages of equal length, the last at full size (Tan &
    Le 2021, arXiv:2104.00298). Each size is compiled once.
    """
    start = config.training.start_size
    full = config.data.crop_size or config.data.image_size
    epochs = config.training.epochs
    stage = 3 * epoch // epochs
    if not start or stage == 2 or epoch == epochs - 1:
        return None
    return start if stage == 0 else (start + full) // 2
