"""The augmentations that a config switches on, in order, as one function."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.tree_util import Partial

from fer_jax.config import Augmentation, Config
from fer_jax.training import augment_ops as ops
from fer_jax.training.randaugment import randaugment
from fer_jax.training.step import AugmentFn, Shown

# Their keys. A longer split begins with the same keys: new ones go to the end.
_KEYS = ("flip", "affine", "erase", "mix", "crop", "light", "policy", "cut")
_ORDER = ("affine", "crop", "policy", "light", "erase", "cut")  # after flips


def make_augment(config: Config, steps_per_epoch: int) -> AugmentFn:
    """The augmentations of a config as one function.

    It is a pytree: its structure says which augmentations there are, and its leaves are
    their numbers. What decides a shape is part of the structure.
    """
    found = config.augmentation
    used: dict[str, Partial] = {}
    if found.horizontal_flip == "alternating":
        used["flip"] = Partial(_alternating_flip, steps_per_epoch)
    elif found.horizontal_flip:
        used["flip"] = Partial(_random_flip)
    if found.rotation or found.shift or found.scale:
        numbers = {
            name: getattr(found, name) for name in ("rotation", "shift", "scale")
        }
        used["affine"] = Partial(ops.random_affine, **numbers)
    if size := config.data.crop_size:
        used["crop"] = Partial(functools.partial(ops.random_crop, size=size))
    if count := found.randaugment:
        policy = functools.partial(randaugment, operations=count)
        used["policy"] = Partial(policy, strength=found.randaugment_strength)
    if found.brightness or found.contrast:
        used["light"] = Partial(
            ops.brightness_contrast,
            brightness=found.brightness,
            contrast=found.contrast,
        )
    if found.random_erasing:
        used["erase"] = Partial(ops.random_erasing, probability=found.random_erasing)
    if found.cutout:
        used["cut"] = Partial(functools.partial(ops.cutout, size=found.cutout))
    if mixing := _mixing(found):
        used["mix"] = mixing
    return Partial(_augment, used)


def _augment(
    used: Mapping[str, Any],
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    shown: Shown,
) -> tuple[jax.Array, jax.Array]:
    keys = dict(zip(_KEYS, jax.random.split(key, len(_KEYS)), strict=True))
    if flip := used.get("flip"):
        images = flip(keys["flip"], images, shown)
    for name in _ORDER:
        if operation := used.get(name):
            images = operation(keys[name], images)
    if mix := used.get("mix"):
        return mix(keys["mix"], images, labels)
    return images, labels


def _random_flip(key: jax.Array, images: jax.Array, shown: Shown) -> jax.Array:
    return ops.random_flip(key, images)


def _alternating_flip(
    steps_per_epoch: jax.Array, key: jax.Array, images: jax.Array, shown: Shown
) -> jax.Array:
    """Flips random images in the first epoch, and each every other time.

    The alternating flip of Jordan 2024 (arXiv:2404.00498): any two epochs in a row
    show both sides of an image. The key is the run's, in `shown`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(shown.key, shown.indices)
    first = jax.vmap(jax.random.bernoulli)(keys)
    return ops.flip(images, first ^ (shown.step // steps_per_epoch % 2 == 1))


def _mixing(settings: Augmentation) -> Partial | None:
    mixup, cutmix = settings.mixup_alpha, settings.cutmix_alpha
    if mixup and cutmix:
        return Partial(ops.mix, mixup_alpha=mixup, cutmix_alpha=cutmix)
    if mixup:
        return Partial(ops.mixup, alpha=mixup)
    return Partial(ops.cutmix, alpha=cutmix) if cutmix else None
