"""What both sides of a comparison share: the experiment, and generated images.

PyTorch's side imports this, so it must not bring in JAX: its memory and the time it
takes to start are measured.
"""

from pathlib import Path

import numpy as np

from fer_jax.emotions import EMOTIONS

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
