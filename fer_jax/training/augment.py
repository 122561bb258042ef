"""The augmentations that a config switches on, in order, as one function."""

import jax

from fer_jax.config import Augmentation
from fer_jax.training import augment_ops
from fer_jax.training.randaugment import randaugment
from fer_jax.training.step import AugmentFn


def make_augment(
    settings: Augmentation, *, crop_size: int = 0, per_epoch: int = 1
) -> AugmentFn:
    """One function of all that is switched on.

    Erasing fills with 0, the image's mean grey after normalisation.

    Args:
      settings: the `augmentation` section of a config.
      crop_size: the side of random crops; 0: none.
      per_epoch: steps in an epoch; alternating flips change from one to the next.
    """

    def apply(
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        indices: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        flip_key, affine_key, erase_key, mix_key = jax.random.split(key, 4)
        # From the first, so that runs without these draw what they always drew.
        crop_key, light_key, policy_key, cutout_key = jax.random.split(flip_key, 4)
        if settings.horizontal_flip == "alternating":
            # Of Jordan 2024 (arXiv:2404.00498): in any two epochs both sides are seen.
            images = augment_ops.mirror(images, (indices + step // per_epoch) % 2 == 1)
        elif settings.horizontal_flip:
            images = augment_ops.random_flip(flip_key, images)
        if settings.rotation or settings.shift or settings.scale:
            images = augment_ops.random_affine(
                affine_key,
                images,
                rotation=settings.rotation,
                shift=settings.shift,
                scale=settings.scale,
            )
        if crop_size:
            images = augment_ops.random_crop(crop_key, images, size=crop_size)
        if settings.randaugment:
            images = randaugment(
                policy_key,
                images,
                operations=settings.randaugment,
                strength=settings.randaugment_strength,
            )
        if settings.brightness or settings.contrast:
            images = augment_ops.random_light(
                light_key,
                images,
                brightness=settings.brightness,
                contrast=settings.contrast,
            )
        if settings.random_erasing:
            images = augment_ops.random_erasing(
                erase_key, images, probability=settings.random_erasing
            )
        if settings.cutout:
            images = augment_ops.cutout(cutout_key, images, size=settings.cutout)
        return _mixed(settings, mix_key, images, labels)

    return apply


def _mixed(
    settings: Augmentation, key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    alphas = settings.mixup_alpha, settings.cutmix_alpha
    if all(alphas):
        return augment_ops.mix(
            key, images, labels, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )
    if settings.mixup_alpha:
        return augment_ops.mixup(key, images, labels, alpha=settings.mixup_alpha)
    if settings.cutmix_alpha:
        return augment_ops.cutmix(key, images, labels, alpha=settings.cutmix_alpha)
    return images, labels
