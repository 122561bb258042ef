"""PyTorch's epoch: a DataLoader with transforms on the CPU, steps, val, a save."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fer_jax.bench.contest import Setup
from fer_jax.bench.settings import random_images
from fer_jax.bench.twin import (
    DEVICE,
    Training,
    autocast,
    device_memory,
    normalised,
    on_device,
    synchronise,
)
from fer_jax.emotions import EMOTIONS


class _Faces(Dataset):
    """A set whose items are transformed one by one on the CPU, as is usual."""

    def __init__(self, count: int, image_size: int):
        self._images, self.labels = random_images(count, image_size)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng(index)
        image = Image.fromarray(self._images[index, :, :, 0])
        size = image.width
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        angle, zoom = rng.uniform(-10, 10), 1 + rng.uniform(-0.1, 0.1)
        x, y = rng.uniform(-0.08, 0.08, 2) * size
        cos, sin = np.cos(np.deg2rad(angle)) / zoom, np.sin(np.deg2rad(angle)) / zoom
        middle = (size - 1) / 2
        moved = (
            *(cos, sin, middle - cos * (middle + x) - sin * (middle + y)),
            *(-sin, cos, middle + sin * (middle + x) - cos * (middle + y)),
        )
        image = image.transform(
            image.size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR
        )
        pixels = torch.from_numpy(np.array(image)).float()[None]
        pixels = (pixels - pixels.mean()) / (pixels.std() + 8.0)
        if rng.random() < 0.1:
            area, aspect = rng.uniform(0.02, 0.33), np.exp(rng.uniform(-1.2, 1.2))
            tall, wide = (int(size * np.sqrt(area * a)) for a in (aspect, 1 / aspect))
            if tall < size and wide < size:
                top, left = rng.integers(size - tall), rng.integers(size - wide)
                pixels[:, top : top + tall, left : left + wide] = 0.0
        return pixels, int(self.labels[index])


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


def _delivered(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Moves what a loader yields to the device, and applies mixup there."""
    for images, labels in batches:
        images = images.to(
            DEVICE, non_blocking=True, memory_format=torch.channels_last
        )  # fmt: skip
        soft = F.one_hot(labels.to(DEVICE), len(EMOTIONS)).float()
        share = torch.distributions.Beta(0.2, 0.2).sample((len(images), 1)).to(DEVICE)
        partner = torch.randperm(len(images), device=DEVICE)
        soft = share * soft + (1 - share) * soft[partner]
        wide = share[:, :, None, None]
        yield wide * images + (1 - wide) * images[partner], soft


def loader(*, batch: int, image_size: int, batches: int, workers: int) -> Setup:
    """Batches of images as a step takes them, on the device."""
    data = _loader(_Faces(4096, image_size), batch, workers)
    endless = _delivered(itertools.chain.from_iterable(itertools.repeat(data)))

    def do_round() -> tuple[int, dict[str, float]]:
        for _ in itertools.islice(endless, batches):
            pass
        synchronise()
        return batches * batch, device_memory()

    started = time.perf_counter()
    do_round()
    return do_round, {"compile_s": time.perf_counter() - started}


def epoch(
    *,
    arch: str,
    batch: int,
    image_size: int,
    images: int,
    workers: int,
    val: int = 3589,
    compiled: bool = False,
) -> Setup:
    """Epochs with augmentation, evaluation and `torch.save`."""
    faces = _Faces(images, image_size)
    data = _loader(faces, batch, workers)
    training = Training(
        arch, compiled, torch.from_numpy(faces.labels).long().to(DEVICE)
    )
    val_images, val_labels = on_device(val, image_size)

    @torch.inference_mode()
    def evaluate() -> float:
        training.network.eval()
        with autocast():
            logits = [training.network(normalised(i)) for i in val_images.split(256)]
        training.network.train()
        return (torch.cat(logits).argmax(1) == val_labels).float().mean().item()

    def run(steps: int) -> tuple[int, dict[str, float]]:
        times = [time.perf_counter()]
        total = torch.zeros((), device=DEVICE)
        for batch_ in itertools.islice(_delivered(data), steps):
            total += training.update(*batch_)
        total.item()
        times.append(time.perf_counter())
        evaluate()
        times.append(time.perf_counter())
        parts = (training.network, training.optimizer, training.schedule)
        with tempfile.TemporaryDirectory() as folder:
            torch.save([i.state_dict() for i in parts], Path(folder) / "last.pt")
        times.append(time.perf_counter())
        names = ("training_s", "evaluation_s", "checkpoint_s")
        spent = zip(names, np.diff(times).tolist(), strict=True)
        return steps * batch, dict(spent)

    started = time.perf_counter()
    run(min(2, images // batch))
    told = {"compile_s": time.perf_counter() - started}
    return lambda: run(images // batch), told


TASKS: dict[str, Callable[..., Setup]] = {"loader": loader, "epoch": epoch}
