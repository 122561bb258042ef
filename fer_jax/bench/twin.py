"""PyTorch's side of each comparison, with what its users would write."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fer_jax.bench import torch_networks
from fer_jax.bench.contest import Setup
from fer_jax.bench.settings import random_images

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_network(arch: str, compiled: bool) -> torch.nn.Module:
    """A network on the device, in the layout of memory that is the faster."""
    network = torch_networks.create(arch).to(DEVICE, memory_format=torch.channels_last)
    return torch.compile(network) if compiled else network


def autocast() -> torch.autocast:
    """bfloat16 on a GPU, as ours."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda")


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As `fer_jax.training.augment_ops.normalise`, from uint8 `[B, 1, H, W]`."""
    images = images.float()
    mean = images.mean((1, 2, 3), keepdim=True)
    deviation = images.std((1, 2, 3), correction=0, keepdim=True)
    images = (images - mean) / (deviation + 8.0)
    return images.contiguous(memory_format=torch.channels_last)


def on_device(count: int, image_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Generated images as uint8 `[N, 1, S, S]`, and their labels as int64 `[N]`."""
    images, labels = random_images(count, image_size)
    moved = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return moved.to(DEVICE), torch.from_numpy(labels).long().to(DEVICE)


def synchronise() -> None:
    """Waits for the device."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def device_memory() -> dict[str, float]:
    """The GPU's largest use of memory so far."""
    if DEVICE.type != "cuda":
        return {}
    return {"device_mb": torch.cuda.max_memory_allocated() / 2**20}


class Training:
    """A network with all that an update of it takes."""

    def __init__(self, arch: str, compiled: bool, labels: torch.Tensor):
        """`labels` int64 `[N]` are those of the training set, for the weights."""
        self.network = make_network(arch, compiled)
        # As fer_jax.training.losses.class_weights.
        weights = 1.0 / torch.log1p(torch.bincount(labels).float())
        self._weights = weights / weights.mean()
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": kernels, "weight_decay": 0.05}]
            + [{"params": others, "weight_decay": 0.0}],
            lr=3e-4,
            fused=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 3e-4, 1_000_000
        )

    def update(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step; labels are int64 `[B]` or float `[B, 7]`; returns the loss."""
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


def step(
    *, arch: str, batch: int, image_size: int, steps: int, compiled: bool = False
) -> Setup:
    """Training steps, from the indices of a batch to new parameters."""
    images, labels = on_device(max(1024, 2 * batch), image_size)
    training = Training(arch, compiled, labels)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(images), generator=generator).to(DEVICE)
    batches = itertools.cycle(shuffled[: len(images) // batch * batch].split(batch))

    def take(count: int) -> None:
        for chosen in itertools.islice(batches, count):
            training.update(normalised(images[chosen]), labels[chosen])
        synchronise()

    started = time.perf_counter()
    take(1)
    told = {"compile_s": time.perf_counter() - started}

    def do_round() -> tuple[int, dict[str, float]]:
        take(steps)
        return steps * batch, device_memory()

    return do_round, told


def _inferring(do_round: Callable[[], tuple[int, dict[str, float]]]) -> Setup:
    do_round = torch.inference_mode()(do_round)
    started = time.perf_counter()
    do_round()
    return do_round, {"compile_s": time.perf_counter() - started}


def evaluation(*, arch: str, batch: int, image_size: int, images: int) -> Setup:
    """Logits of a whole split."""
    pixels, _ = on_device(images, image_size)
    network = make_network(arch, compiled=False).eval()

    def do_round() -> tuple[int, dict[str, float]]:
        with autocast():
            logits = [network(normalised(part)) for part in pixels.split(batch)]
        torch.cat(logits).float().cpu()
        return images, device_memory()

    return _inferring(do_round)


def prediction(*, arch: str, image_size: int, repeats: int) -> Setup:
    """One image at a time, from uint8 to logits on the host."""
    pixels, _ = on_device(1, image_size)
    network = make_network(arch, compiled=False).eval()

    def do_round() -> tuple[int, dict[str, float]]:
        for _ in range(repeats):
            with autocast():
                network(normalised(pixels)).float().cpu()
        return repeats, device_memory()

    return _inferring(do_round)


def products(*, size: int, repeats: int) -> Setup:
    """Products of square matrices, in floating-point operations."""
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    a = torch.full((size, size), 1 / size, dtype=dtype, device=DEVICE)

    def do_round() -> tuple[int, dict[str, float]]:
        x = a
        for _ in range(repeats):
            x = x @ a
        synchronise()
        return 2 * size**3 * repeats, {}

    return do_round, {}


def flops(*, archs: list[str], image_size: int) -> Setup:
    """Does nothing, but tells the FLOPs that a training step nominally takes an image.

    Counted on PyTorch's networks, convolutions as they are defined: an algorithm that
    gets by on fewer products does not lower what there was to do.
    """

    def count(arch: str) -> float:
        with torch.device("meta"):  # shapes alone; nothing is computed
            network = torch_networks.create(arch)
            images = torch.zeros(2, 1, image_size, image_size)
        with FlopCounterMode(display=False) as counter:
            network(images).sum().backward()
        return counter.get_total_flops() / len(images)

    return lambda: (1, {}), {arch: count(arch) for arch in archs}


TASKS: dict[str, Callable[..., Setup]] = {
    "step": step,
    "evaluation": evaluation,
    "prediction": prediction,
    "products": products,
    "flops": flops,
}
