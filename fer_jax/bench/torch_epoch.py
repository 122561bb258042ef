"""PyTorch's epoch: a DataLoader with transforms on the CPU, steps, val, a save."""

import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fer_jax.bench.contender import Task, random_images, val_count, warmed_up
from fer_jax.bench.torch_tasks import (
    DEVICE,
    Training,
    autocast,
    device_memory,
    images_on_device,
    normalise,
    synchronize,
)
from fer_jax.emotions import EMOTIONS


class _Faces(Dataset):
    """Random images that are augmented one by one on the CPU, as is usual."""

    def __init__(self, count: int, image_size: int):
        self._images, self.labels = random_images(count, image_size)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng(index)
        image = _flip_and_warp(Image.fromarray(self._images[index, :, :, 0]), rng)
        pixels = torch.from_numpy(np.array(image)).float()[None]
        pixels = (pixels - pixels.mean()) / (pixels.std() + 8.0)
        return _erase(pixels, rng), int(self.labels[index])


def _flip_and_warp(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Flips half of the images; rotates, scales and shifts all of them."""
    size = image.width
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle, zoom = np.deg2rad(rng.uniform(-10, 10)), 1 + rng.uniform(-0.1, 0.1)
    x, y = rng.uniform(-0.08, 0.08, 2) * size
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    middle = (size - 1) / 2
    matrix = (
        *(cos, sin, middle - cos * (middle + x) - sin * (middle + y)),
        *(-sin, cos, middle + sin * (middle + x) - cos * (middle + y)),
    )
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )


def _erase(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Erases a rectangle in a tenth of the images."""
    size = pixels.shape[-1]
    if rng.random() < 0.1:
        area, aspect = rng.uniform(0.02, 0.33), np.exp(rng.uniform(-1.2, 1.2))
        tall, wide = (int(size * np.sqrt(area * a)) for a in (aspect, 1 / aspect))
        if tall < size and wide < size:
            top, left = rng.integers(size - tall), rng.integers(size - wide)
            pixels[:, top : top + tall, left : left + wide] = 0.0
    return pixels


def _loader(data: _Faces, batch: int, workers: int) -> DataLoader:
    return DataLoader(
        data,
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )


def _mixed_up(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Moves a loader's batches to the device and applies mixup there."""
    for images, labels in batches:
        images = images.to(DEVICE, non_blocking=True, memory_format=torch.channels_last)
        soft = F.one_hot(labels.to(DEVICE), len(EMOTIONS)).float()
        share = torch.distributions.Beta(0.2, 0.2).sample((len(images), 1)).to(DEVICE)
        partner = torch.randperm(len(images), device=DEVICE)
        soft = share * soft + (1 - share) * soft[partner]
        wide = share[:, :, None, None]
        yield wide * images + (1 - wide) * images[partner], soft


def loader(*, batch: int, image_size: int, batches: int, workers: int) -> Task:
    """Augmented batches on the device."""
    data = _loader(_Faces(4096, image_size), batch, workers)
    endless = _mixed_up(itertools.chain.from_iterable(itertools.repeat(data)))

    def run_round() -> tuple[int, dict[str, float]]:
        for _ in itertools.islice(endless, batches):
            pass
        synchronize()
        return batches * batch, device_memory()

    return warmed_up(run_round)


def epoch(
    *, batch: int, image_size: int, images: int, workers: int, compiled: bool = False
) -> Task:
    """Epochs with augmentation, evaluation and `torch.save`."""
    faces = _Faces(images, image_size)
    data = _loader(faces, batch, workers)
    labels = torch.from_numpy(faces.labels).long().to(DEVICE)
    training = Training(labels, compiled=compiled)
    val_images, val_labels = images_on_device(val_count(images), image_size)

    @torch.inference_mode()
    def evaluate() -> float:
        training.network.eval()
        with autocast():
            logits = [training.network(normalise(i)) for i in val_images.split(256)]
        training.network.train()
        return (torch.cat(logits).argmax(1) == val_labels).float().mean().item()

    def run(steps: int) -> tuple[int, dict[str, float]]:
        started = time.perf_counter()
        total = torch.zeros((), device=DEVICE)
        for drawn in itertools.islice(_mixed_up(data), steps):
            total += training.update(*drawn)
        total.item()
        training_s = time.perf_counter() - started
        evaluate()
        parts = (training.network, training.optimizer, training.schedule)
        with tempfile.TemporaryDirectory() as folder:
            torch.save([i.state_dict() for i in parts], Path(folder) / "last.pt")
        return steps * batch, {"training_s": training_s}

    steps = images // batch
    return warmed_up(lambda: run(steps), lambda: run(min(2, steps)))
