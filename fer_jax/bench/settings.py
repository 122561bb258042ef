"""What both sides of a comparison share: the experiment, and generated images."""

from pathlib import Path

import numpy as np

from fer_jax.data.prepare import Dataset
from fer_jax.data.records import Split
from fer_jax.labels import EMOTIONS

BASELINE = Path(__file__).resolve().parents[2] / "configs/baseline.yaml"
PLAIN = (  # the network alone
    "augmentation.horizontal_flip=false",
    "augmentation.rotation=0",
    "augmentation.shift=0",
    "augmentation.scale=0",
    "augmentation.random_erasing=0",
    "augmentation.mixup_alpha=0",
)


def random_images(count: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise as uint8 `[N, S, S, 1]`, and labels int32 `[N]` of seven classes."""
    rng = np.random.default_rng(0)
    shape = (count, image_size, image_size, 1)
    images = rng.integers(0, 256, shape, np.uint8)
    return images, np.arange(count, dtype=np.int32) % len(EMOTIONS)


def random_dataset(count: int, image_size: int) -> Dataset:
    """A data set of noise, whose val is as small as can be."""
    images, labels = random_images(count, image_size)
    rows = np.arange(count, dtype=np.int32)
    few = slice(len(EMOTIONS))
    return Dataset(
        source="generated",
        description="noise",
        fingerprint="0" * 16,
        class_names=tuple(EMOTIONS),
        splits={
            "train": Split(images, labels, rows),
            "val": Split(images[few], labels[few], rows[few]),
        },
        skipped={},
        notes=(),
    )
