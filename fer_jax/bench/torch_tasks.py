"""PyTorch's tasks, written as a user of PyTorch would write them."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

from fer_jax.bench.contender import Task, random_images, warmed_up
from fer_jax.bench.torch_fernet import FerNet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    """bfloat16 on a GPU, as in fer_jax."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def normalise(images: torch.Tensor) -> torch.Tensor:
    """As `fer_jax.training.augment_ops.normalise`, from uint8 `[B, 1, H, W]`."""
    images = images.float()
    mean = images.mean((1, 2, 3), keepdim=True)
    std = images.std((1, 2, 3), correction=0, keepdim=True)
    images = (images - mean) / (std + 8.0)
    return images.contiguous(memory_format=torch.channels_last)


def images_on_device(count: int, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random images, uint8 `[N, 1, S, S]`, and labels, int64 `[N]`."""
    images, labels = random_images(count, image_size)
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return (
        torch.from_numpy(channels_first).to(DEVICE),
        torch.from_numpy(labels).long().to(DEVICE),
    )


def synchronize() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def device_memory() -> dict[str, float]:
    """The GPU's peak memory; empty on a CPU."""
    if DEVICE.type != "cuda":
        return {}
    return {"device_mb": torch.cuda.max_memory_allocated() / 2**20}


class Training:
    """The network with its loss, optimizer and schedule."""

    def __init__(self, labels: torch.Tensor, *, compiled: bool):
        """Weighs classes by `labels`, int64 `[N]`, the training set's."""
        network = FerNet().to(DEVICE, memory_format=torch.channels_last)
        self.network = torch.compile(network) if compiled else network
        # As fer_jax.training.losses.class_weights.
        weights = 1.0 / torch.log1p(torch.bincount(labels).float())
        self._weights = weights / weights.mean()
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": kernels}, {"params": others, "weight_decay": 0.0}],
            lr=3e-4,
            weight_decay=0.05,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 3e-4, 1_000_000
        )

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Takes one step on labels int64 `[B]` or float `[B, 7]`; returns the loss."""
        with autocast():
            logits = self.network(images)
        loss = F.cross_entropy(
            logits.float(), labels, self._weights, label_smoothing=0.1
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()


def step(*, batch: int, image_size: int, steps: int, compiled: bool = False) -> Task:
    """Training steps, from the indices of a batch to new parameters."""
    images, labels = images_on_device(max(1024, 2 * batch), image_size)
    training = Training(labels, compiled=compiled)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(images), generator=generator).to(DEVICE)
    batches = itertools.cycle(shuffled[: len(images) // batch * batch].split(batch))

    def take(count: int) -> tuple[int, dict[str, float]]:
        for chosen in itertools.islice(batches, count):
            training.update(normalise(images[chosen]), labels[chosen])
        synchronize()
        return count * batch, device_memory()

    return warmed_up(lambda: take(steps), lambda: take(1))


def evaluation(*, batch: int, image_size: int, images: int) -> Task:
    """Logits of a whole split."""
    pixels, _ = images_on_device(images, image_size)
    network = FerNet().to(DEVICE, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run_round() -> tuple[int, dict[str, float]]:
        with autocast():
            logits = [network(normalise(part)) for part in pixels.split(batch)]
        torch.cat(logits).float().cpu()
        return images, device_memory()

    return warmed_up(run_round)


def prediction(*, image_size: int, repeats: int) -> Task:
    """Logits of one image at a time, from uint8 to the host's memory."""
    pixels, _ = images_on_device(1, image_size)
    network = FerNet().to(DEVICE, memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def run_round() -> tuple[int, dict[str, float]]:
        for _ in range(repeats):
            with autocast():
                network(normalise(pixels)).float().cpu()
        return repeats, device_memory()

    return warmed_up(run_round)


def products(*, size: int, repeats: int) -> Task:
    """Products of square matrices; the items are floating-point operations."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    a = torch.full((size, size), 1 / size, dtype=dtype, device=DEVICE)

    def run_round() -> tuple[int, dict[str, float]]:
        x = a
        for _ in range(repeats):
            x = x @ a
        synchronize()
        return 2 * size**3 * repeats, {}

    return Task(run_round, {})
