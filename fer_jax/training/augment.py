"""The augmentations that a config switches on, in order, as one function."""

import functools

import jax

from fer_jax.config import Augmentation, Config
from fer_jax.training import augment_ops as ops
from fer_jax.training.randaugment import randaugment
from fer_jax.training.step import AugmentFn, Shown


def make_augment(config: Config, steps_per_epoch: int) -> AugmentFn:
    """The augmentations of a config as one function."""
    return functools.partial(_augment, config, steps_per_epoch)


def _augment(
    config: Config,
    steps_per_epoch: int,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    shown: Shown,
) -> tuple[jax.Array, jax.Array]:
    settings = config.augmentation
    # A longer split begins with the same keys: new ones go to the end.
    flip, affine, erase, mix, crop, light, policy, cut = jax.random.split(key, 8)
    if settings.horizontal_flip == "alternating":
        images = ops.flip(images, _alternating(shown, steps_per_epoch))
    elif settings.horizontal_flip:
        images = ops.random_flip(flip, images)
    if settings.rotation or settings.shift or settings.scale:
        images = ops.random_affine(
            affine,
            images,
            rotation=settings.rotation,
            shift=settings.shift,
            scale=settings.scale,
        )
    if config.data.crop_size:
        images = ops.random_crop(crop, images, size=config.data.crop_size)
    if settings.randaugment:
        images = randaugment(
            policy,
            images,
            operations=settings.randaugment,
            strength=settings.randaugment_strength,
        )
    if settings.brightness or settings.contrast:
        images = ops.brightness_contrast(
            light,
            images,
            brightness=settings.brightness,
            contrast=settings.contrast,
        )
    if settings.random_erasing:
        images = ops.random_erasing(erase, images, probability=settings.random_erasing)
    if settings.cutout:
        images = ops.cutout(cut, images, size=settings.cutout)
    return _mix(settings, mix, images, labels)


def _alternating(shown: Shown, steps_per_epoch: int) -> jax.Array:
    """Which images to flip: random ones in the first epoch, then every other time.

    The alternating flip of Jordan 2024 (arXiv:2404.00498): any two epochs in a row
    show both sides of an image.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(shown.key, shown.indices)
    first = jax.vmap(jax.random.bernoulli)(keys)
    return first ^ (shown.step // steps_per_epoch % 2 == 1)


def _mix(
    settings: Augmentation, key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    mixup, cutmix = settings.mixup_alpha, settings.cutmix_alpha
    if mixup and cutmix:
        return ops.mix(key, images, labels, mixup_alpha=mixup, cutmix_alpha=cutmix)
    if mixup:
        return ops.mixup(key, images, labels, alpha=mixup)
    if cutmix:
        return ops.cutmix(key, images, labels, alpha=cutmix)
    return images, labels
