"""PyTorch's side of each comparison, with what its users would write."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from fer_jax.bench import torch_networks
from fer_jax.bench.contest import Round
from fer_jax.bench.settings import random_images
from fer_jax.losses import class_weights

Setup = tuple[Round, dict[str, Any]]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _network(arch: str, compiled: bool) -> torch.nn.Module:
    network = torch_networks.create(arch).to(DEVICE, memory_format=torch.channels_last)
    return torch.compile(network) if compiled else network


def _autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def _normalised(images: torch.Tensor) -> torch.Tensor:
    """As `fer_jax.augment.normalise`, from uint8 `[B, 1, H, W]`."""
    images = images.float()
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = images.std((1, 2, 3), correction=0, keepdim=True)
    images = (images - mean) / (deviation + 8.0)
    return images.contiguous(memory_format=torch.channels_last)


def _on_device(count: int, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = random_images(count, image_size)
    moved = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return moved.to(DEVICE), torch.from_numpy(labels).long().to(DEVICE)


def _synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def step(
    *, arch: str, batch: int, image_size: int, steps: int, compiled: bool = False
) -> Setup:
    """Training steps, from the indices of a batch to new parameters."""
    images, labels = _on_device(max(1024, 2 * batch), image_size)
    network = _network(arch, compiled)
    counts = np.bincount(labels.cpu().numpy())
    weights = torch.tensor(np.asarray(class_weights(counts)), device=DEVICE)
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": 0.05}]
        + [{"params": others, "weight_decay": 0.0}],
        lr=3e-4,
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, 1_000_000)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(images), generator=generator).to(DEVICE)
    batches = itertools.cycle(shuffled[: len(images) // batch * batch].split(batch))

    def one() -> None:
        chosen = next(batches)
        with _autocast():
            logits = network(_normalised(images[chosen]))
            loss = F.cross_entropy(
                logits.float(), labels[chosen], weights, label_smoothing=0.1
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()

    def do_round() -> int:
        for _ in range(steps):
            one()
        _synchronise()
        return steps * batch

    started = time.perf_counter()
    one()
    _synchronise()
    told = {"compile_s": time.perf_counter() - started}
    do_round()
    return do_round, told


class _Faces(Dataset):
    """A set whose items are transformed one by one on the CPU, as is usual."""

    def __init__(self, count: int, image_size: int):
        self._images, self._labels = random_images(count, image_size)

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
        return pixels, int(self._labels[index])


def loader(*, batch: int, image_size: int, batches: int, workers: int) -> Setup:
    """What a DataLoader delivers, moved to the device, and mixed up there."""
    data = DataLoader(
        _Faces(4096, image_size),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    endless = itertools.chain.from_iterable(itertools.repeat(data))

    def do_round() -> int:
        for images, labels in itertools.islice(endless, batches):
            images = images.to(DEVICE, non_blocking=True)
            soft = F.one_hot(labels.to(DEVICE), 7).float()
            share = torch.distributions.Beta(0.2, 0.2).sample((batch, 1)).to(DEVICE)
            partner = torch.randperm(batch, device=DEVICE)
            soft = share * soft + (1 - share) * soft[partner]
            wide = share[:, :, None, None]
            images = wide * images + (1 - wide) * images[partner]
        _synchronise()
        return batches * batch

    do_round()
    return do_round, {}


def evaluation(*, arch: str, batch: int, image_size: int, images: int) -> Setup:
    """Logits of a whole split."""
    pixels, _ = _on_device(images, image_size)
    network = _network(arch, compiled=False).eval()

    @torch.inference_mode()
    def do_round() -> int:
        with _autocast():
            logits = [network(_normalised(part)) for part in pixels.split(batch)]
        torch.cat(logits).float().cpu()
        return images

    do_round()
    return do_round, {}


def prediction(*, arch: str, image_size: int, repeats: int) -> Setup:
    """One image at a time, from uint8 to logits on the host."""
    pixels, _ = _on_device(1, image_size)
    network = _network(arch, compiled=False).eval()

    @torch.inference_mode()
    def do_round() -> int:
        for _ in range(repeats):
            with _autocast():
                network(_normalised(pixels)).float().cpu()
        return repeats

    do_round()
    return do_round, {}


TASKS: dict[str, Callable[..., Setup]] = {
    "step": step,
    "loader": loader,
    "evaluation": evaluation,
    "prediction": prediction,
}
