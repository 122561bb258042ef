"""An experiment's settings and images in, compiled functions and arrays out."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fer_jax import augment, evaluate, losses, models
from fer_jax.config import Augmentation, Config
from fer_jax.data import Dataset, pipeline
from fer_jax.optimizer import adamw_one_cycle
from fer_jax.train_step import (
    AugmentFn,
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
)


class Experiment(NamedTuple):
    """What a run is made of; nothing is compiled before its first use."""

    state: TrainState  # before the first step
    train_step: TrainStep
    predict: evaluate.PredictFn
    schedule: optax.Schedule
    images: dict[str, jax.Array]  # by split, uint8 [N, S, S, channels] on the device
    labels: jax.Array  # of train, float32 [N, C], on the device
    batches: Any  # a grain dataset of int32 [B], one element a step
    per_epoch: int  # steps
    compute_dtype: str


def build(config: Config, dataset: Dataset) -> Experiment:
    """Makes the parts of a run, and puts the images on the device.

    Raises:
      UserError: if there is no such network, or a batch cannot be filled.
    """
    training, num_classes = config.training, len(dataset.class_names)
    train = dataset.splits["train"]
    labels, soft = train.labels, train.soft
    per_epoch = pipeline.steps_per_epoch(len(labels), training.batch_size)
    init_key, step_key = jax.random.split(jax.random.key(training.seed))
    dtype = _compute_dtype(training.precision)
    network, params, batch_stats = models.create(
        config.model.arch,
        init_key,
        num_classes=num_classes,
        dropout=config.model.dropout,
        dtype=dtype,
        channels=config.data.channels,
    )
    tx, schedule = adamw_one_cycle(
        training.lr,
        total_steps=per_epoch * training.epochs,
        pct_start=training.pct_start,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
    )
    counts = np.bincount(labels, minlength=num_classes)
    weights = losses.class_weights(counts) if config.loss.use_class_weights else None
    loss_fn = functools.partial(
        losses.softmax_loss,
        weights=weights,
        label_smoothing=config.loss.label_smoothing,
        focal_gamma=config.loss.focal_gamma if config.loss.type == "focal" else 0.0,
    )
    sampling = (
        pipeline.sampler_weights(labels) if config.data.weighted_sampler else None
    )
    return Experiment(
        state=init_state(params, batch_stats, tx),
        train_step=make_train_step(
            network,
            tx,
            loss_fn=loss_fn,
            augment_fn=make_augment(config.augmentation),
            key=step_key,
        ),
        predict=evaluate.make_predict(network),
        schedule=schedule,
        images={k: jnp.asarray(v.images) for k, v in dataset.splits.items()},
        labels=(
            jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
            if soft is None
            else jnp.asarray(soft)
        ),
        batches=pipeline.index_batches(
            len(labels),
            batch_size=training.batch_size,
            epochs=training.epochs,
            seed=training.seed,
            weights=sampling,
        ),
        per_epoch=per_epoch,
        compute_dtype=jnp.dtype(dtype).name,
    )


def _compute_dtype(precision: str) -> Any:
    accelerated = jax.default_backend() != "cpu"
    bfloat16 = precision == "bfloat16" or (precision == "auto" and accelerated)
    return jnp.bfloat16 if bfloat16 else jnp.float32


def make_augment(settings: Augmentation) -> AugmentFn:
    """The augmentations that are switched on, in order, as one function.

    Erasing fills with 0, the image's mean grey after normalisation.
    """

    def apply(
        key: jax.Array, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        flip_key, affine_key, erase_key, mix_key = jax.random.split(key, 4)
        if settings.horizontal_flip:
            images = augment.random_flip(flip_key, images)
        if settings.rotation or settings.shift or settings.scale:
            images = augment.random_affine(
                affine_key,
                images,
                rotation=settings.rotation,
                shift=settings.shift,
                scale=settings.scale,
            )
        if settings.random_erasing:
            images = augment.random_erasing(
                erase_key, images, probability=settings.random_erasing
            )
        if settings.mixup_alpha:
            images, labels = augment.mixup(
                mix_key, images, labels, alpha=settings.mixup_alpha
            )
        return images, labels

    return apply
