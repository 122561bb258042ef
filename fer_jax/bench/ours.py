"""Our side of each comparison: what fer_jax itself runs, in rounds."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import config as config_lib
from fer_jax import experiment
from fer_jax.bench.contest import Round
from fer_jax.bench.settings import BASELINE, PLAIN, random_dataset
from fer_jax.evaluate import predict_split
from fer_jax.train_step import zero_sums

Setup = tuple[Round, dict[str, Any]]


def _build(
    arch: str, batch: int, image_size: int, images: int, augmented: bool
) -> experiment.Experiment:
    overrides = [
        f"model.arch={arch}",
        f"training.batch_size={batch}",
        f"data.image_size={image_size}",
    ]
    settings = config_lib.load(BASELINE, overrides + ([] if augmented else [*PLAIN]))
    return experiment.build(settings, random_dataset(images, image_size))


def step(
    *, arch: str, batch: int, image_size: int, steps: int, augmented: bool = False
) -> Setup:
    """Training steps, from the indices of a batch to new parameters."""
    parts = _build(arch, batch, image_size, max(1024, 2 * batch), augmented)
    on_cpu = jax.default_backend() == "cpu"
    at_once = 1 if on_cpu else steps
    batches = itertools.cycle(list(itertools.islice(parts.batches, steps)))
    images, labels = parts.images["train"], parts.labels
    state, sums = parts.state, zero_sums()

    def take() -> np.ndarray:
        return np.stack([next(batches) for _ in range(at_once)])

    started = time.perf_counter()
    compiled = parts.train_step.lower(state, sums, images, labels, take()).compile()
    told = {"compile_s": time.perf_counter() - started}
    cost = compiled.cost_analysis() or {}
    told["flops"] = cost.get("flops", 0.0) / (at_once if on_cpu else 1)

    def do_round() -> int:
        nonlocal state, sums
        for _ in range(steps // at_once):
            state, sums = parts.train_step(state, sums, images, labels, take())
            jax.block_until_ready(sums)
        return steps * batch

    do_round()
    return do_round, told


def augmentation(*, batch: int, image_size: int, batches: int) -> Setup:
    """Batches of indices, gathered, normalised and augmented as in training."""
    parts = _build("fernet", batch, image_size, 4096, augmented=True)
    settings = config_lib.load(BASELINE).augmentation
    augment = experiment.make_augment(settings)
    images, labels = parts.images["train"], parts.labels
    key = jax.random.key(0)

    @jax.jit
    def deliver(step: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = experiment.augment.normalise(images[indices])
        return augment(jax.random.fold_in(key, step), chosen, labels[indices])

    numbered = enumerate(parts.batches)

    def do_round() -> int:
        for number, indices in itertools.islice(numbered, batches):
            jax.block_until_ready(deliver(number, indices))
        return batches * batch

    do_round()
    return do_round, {}


def indices(*, batch: int, images: int, batches: int) -> Setup:
    """Batches of indices alone, all that the host does for a step."""
    dataset = experiment.pipeline.index_batches(
        images, batch_size=batch, epochs=100_000, seed=0
    )
    iterator = iter(dataset)

    def do_round() -> int:
        for _ in range(batches):
            next(iterator)
        return batches * batch

    return do_round, {}


def evaluation(*, arch: str, batch: int, image_size: int, images: int) -> Setup:
    """Logits of a whole split."""
    parts = _build(arch, 128, image_size, images, augmented=False)

    def do_round() -> int:
        state = parts.state
        predict_split(
            parts.predict,
            state.params,
            state.batch_stats,
            parts.images["train"],
            batch_size=batch,
        )
        return images

    do_round()
    return do_round, {}


def prediction(*, arch: str, image_size: int, repeats: int) -> Setup:
    """One image at a time, from uint8 to logits on the host."""
    parts = _build(arch, 128, image_size, 256, augmented=False)
    state, one = parts.state, jnp.zeros(1, jnp.int32)

    def do_round() -> int:
        for _ in range(repeats):
            logits = parts.predict(
                state.params, state.batch_stats, parts.images["train"], one
            )
            np.asarray(logits)
        return repeats

    do_round()
    return do_round, {}


def matmul(*, size: int, repeats: int) -> Setup:
    """Products of square matrices, in floating-point operations."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    a = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(lambda x, y: x @ y)

    def do_round() -> int:
        x = a
        for _ in range(repeats):
            x = product(x, a)
        jax.block_until_ready(x)
        return 2 * size**3 * repeats

    do_round()
    return do_round, {"device": jax.devices()[0].device_kind}


TASKS: dict[str, Callable[..., Setup]] = {
    "step": step,
    "augmentation": augmentation,
    "indices": indices,
    "evaluation": evaluation,
    "prediction": prediction,
    "matmul": matmul,
}
