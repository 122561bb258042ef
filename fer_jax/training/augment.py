"""The augmentations that a config switches on, in order, as one function."""

import jax

from fer_jax.config import Augmentation
from fer_jax.training import augment_ops as ops
from fer_jax.training.randaugment import randaugment
from fer_jax.training.step import AugmentFn, Shown


def make_augment(
    settings: Augmentation, *, crop_size: int = 0, steps_per_epoch: int = 1
) -> AugmentFn:
    """One function of all augmentations that are switched on.

    Erasing fills with 0, an image's mean grey after normalisation.

    Args:
      settings: the `augmentation` section of a config.
      crop_size: the side of random crops; 0: none.
      steps_per_epoch: after which alternating flips change sides.
    """

    def augment(
        key: jax.Array, images: jax.Array, labels: jax.Array, shown: Shown
    ) -> tuple[jax.Array, jax.Array]:
        # New keys go to the end: those before stay what they were.
        flip, affine, erase, mix, crop, light, policy, cut = jax.random.split(key, 8)
        if settings.horizontal_flip == "alternating":
            flipped = _alternating(shown, shown.step // steps_per_epoch)
            images = ops.flip(images, flipped)
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
        if crop_size:
            images = ops.random_crop(crop, images, size=crop_size)
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
            images = ops.random_erasing(
                erase, images, probability=settings.random_erasing
            )
        if settings.cutout:
            images = ops.cutout(cut, images, size=settings.cutout)
        return _mixed(settings, mix, images, labels)

    return augment


def _alternating(shown: Shown, epoch: jax.Array) -> jax.Array:
    """Which images to flip: each at random in the first epoch, then every other one.

    The alternating flip of Jordan 2024 (arXiv:2404.00498): any two epochs in a row
    show both sides of an image.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(shown.key, shown.indices)
    first = jax.vmap(jax.random.bernoulli)(keys)
    return first ^ (epoch % 2 == 1)


def _mixed(
    settings: Augmentation, key: jax.Array, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    alphas = settings.mixup_alpha, settings.cutmix_alpha
    if all(alphas):
        return ops.mix(
            key, images, labels, mixup_alpha=alphas[0], cutmix_alpha=alphas[1]
        )
    if settings.mixup_alpha:
        return ops.mixup(key, images, labels, alpha=settings.mixup_alpha)
    if settings.cutmix_alpha:
        return ops.cutmix(key, images, labels, alpha=settings.cutmix_alpha)
    return images, labels
