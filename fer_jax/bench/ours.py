"""Our side of each comparison: what fer_jax itself runs, in rounds."""

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from fer_jax import config as config_lib
from fer_jax.bench.contest import Setup
from fer_jax.bench.settings import BASELINE, PLAIN, random_images
from fer_jax.data import Dataset
from fer_jax.data.batches import index_batches
from fer_jax.data.records import Split
from fer_jax.emotions import EMOTIONS
from fer_jax.system.memory import keep_memory
from fer_jax.training.augment import make_augment
from fer_jax.training.augment_ops import normalise
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.evaluate import predict_split
from fer_jax.training.loop import TrainingRun, run_epochs
from fer_jax.training.setup import build_setup
from fer_jax.training.step import Shown

keep_memory()  # as the commands do; only contenders import this module
ON_CPU = jax.default_backend() == "cpu"
AT_ONCE = 1 if ON_CPU else 32  # steps in a dispatch, as in `run_epochs`


def load_config(
    arch: str, batch: int, image_size: int, *, augmented: bool, epochs: int = 30
) -> config_lib.Config:
    """The baseline with another network, batch or image; without augmentation even."""
    overrides = [
        f"model.arch={arch}",
        f"training.batch_size={batch}",
        f"training.epochs={epochs}",
        f"data.image_size={image_size}",
        "data.channels=1",  # as the images made here and PyTorch's networks have it
    ]
    return config_lib.load(BASELINE, overrides + ([] if augmented else [*PLAIN]))


def random_dataset(count: int, image_size: int, val: int = len(EMOTIONS)) -> Dataset:
    """A data set of noise, with `count` images in train and `val` in val."""

    def split(size: int) -> Split:
        rows = np.arange(size, dtype=np.int32)
        return Split(*random_images(size, image_size), rows)

    return Dataset(
        source="generated",
        description="noise",
        fingerprint="0" * 16,
        class_names=tuple(EMOTIONS),
        splits={"train": split(count), "val": split(val)},
        skipped={},
        notes=(),
    )


def device_memory() -> dict[str, float]:
    """The device's largest use of memory so far, where it keeps account of it."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"device_mb": peak / 2**20}


def step(
    *, arch: str, batch: int, image_size: int, steps: int, augmented: bool = False
) -> Setup:
    """Training steps, from the indices of a batch to new parameters."""
    config = load_config(arch, batch, image_size, augmented=augmented)
    parts = build_setup(config, random_dataset(max(1024, 2 * batch), image_size))
    at_once = min(AT_ONCE, steps)
    batches = itertools.cycle(list(itertools.islice(parts.batches, steps)))
    arrays = parts.images["train"], parts.labels
    state, sums = parts.state, parts.init_metrics()

    def take() -> jax.Array:
        return jax.device_put(np.stack([next(batches) for _ in range(at_once)]))

    started = time.perf_counter()
    # The calls below find what is compiled here.
    keyed = parts.train_step
    arguments = (*keyed.args, state, sums, arrays, take())
    compiled = keyed.func.lower(*arguments).compile()
    told = {"compile_s": time.perf_counter() - started, **_sizes(compiled)}

    def do_round() -> tuple[int, dict[str, float]]:
        nonlocal state, sums
        for _ in range(steps // at_once):
            state, sums = parts.train_step(state, sums, arrays, take())
        jax.block_until_ready(sums)
        return steps // at_once * at_once * batch, device_memory()

    return do_round, told


def _sizes(compiled: jax.stages.Compiled) -> dict[str, float]:
    """What the compiled program says that it needs, in MB."""
    sizes = compiled.memory_analysis()
    if sizes is None:  # not every backend tells
        return {}
    return {
        "temporary_mb": sizes.temp_size_in_bytes / 2**20,
        "arguments_mb": sizes.argument_size_in_bytes / 2**20,
    }


def augmentation(*, batch: int, image_size: int, images: int, batches: int) -> Setup:
    """Batches of indices, gathered, normalised and augmented as in training."""
    config = load_config("fernet", batch, image_size, augmented=True)
    parts = build_setup(config, random_dataset(images, image_size))
    augment = make_augment(config.augmentation)
    pixels, labels = parts.images["train"], parts.labels
    key = jax.random.key(0)

    @jax.jit
    def deliver(
        pixels: jax.Array, labels: jax.Array, step: jax.Array, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        chosen = normalise(pixels[indices])
        own = jax.random.fold_in(key, step)
        return augment(own, chosen, labels[indices], Shown(indices, step, key))

    numbered = enumerate(itertools.chain.from_iterable(itertools.repeat(parts.batches)))

    def do_round() -> tuple[int, dict[str, float]]:
        for number, indices in itertools.islice(numbered, batches):
            jax.block_until_ready(deliver(pixels, labels, number, indices))
        return batches * batch, device_memory()

    started = time.perf_counter()
    do_round()
    return do_round, {"compile_s": time.perf_counter() - started}


def indices(*, batch: int, images: int, batches: int = 0) -> Setup:
    """Batches of indices alone, by default an epoch: all the host does for a step."""
    dataset = index_batches(
        images, batch_size=batch, epochs=10_000, seed=0
    )
    iterator, batches = iter(dataset), batches or images // batch

    def do_round() -> tuple[int, dict[str, float]]:
        for _ in range(batches):
            next(iterator)
        return batches * batch, {}

    return do_round, {}


def evaluation(*, arch: str, batch: int, image_size: int, images: int) -> Setup:
    """Logits of a whole split."""
    config = load_config(arch, 1, image_size, augmented=False)
    parts = build_setup(config, random_dataset(images, image_size))
    state, pixels = parts.state, parts.images["train"]

    def do_round() -> tuple[int, dict[str, float]]:
        predict_split(
            parts.predict, state.params, state.batch_stats, pixels, batch_size=batch
        )
        return images, device_memory()

    started = time.perf_counter()
    do_round()
    return do_round, {"compile_s": time.perf_counter() - started}


def prediction(*, arch: str, image_size: int, repeats: int) -> Setup:
    """One image at a time, from uint8 to logits on the host."""
    config = load_config(arch, 1, image_size, augmented=False)
    parts = build_setup(config, random_dataset(256, image_size))
    state, pixels = parts.state, parts.images["train"]
    one = jnp.zeros(1, jnp.int32)

    def do_round() -> tuple[int, dict[str, float]]:
        for _ in range(repeats):
            np.asarray(parts.predict(state.params, state.batch_stats, pixels, one))
        return repeats, device_memory()

    started = time.perf_counter()
    do_round()
    return do_round, {"compile_s": time.perf_counter() - started}


class _TimedCheckpoints(Checkpoints):
    """Checkpoints that know how long saving took."""

    seconds = 0.0

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves, and adds the time."""
        started = time.perf_counter()
        super().save(*args, **kwargs)
        self.seconds += time.perf_counter() - started


def epoch(
    *, arch: str, batch: int, image_size: int, images: int, val: int = 3589
) -> Setup:
    """Runs of one epoch through the loop: augmentation, evaluation and checkpoint."""
    config = load_config(arch, batch, image_size, augmented=True, epochs=1)
    dataset = random_dataset(images, image_size, val)
    parts = build_setup(config, dataset)

    def run_one(per_epoch: int) -> tuple[int, dict[str, float]]:
        # The loop donates the state that it starts from.
        state = jax.tree.map(jnp.copy, parts.state)
        ours = parts._replace(state=state, steps_per_epoch=per_epoch)
        with (
            tempfile.TemporaryDirectory() as name,
            _TimedCheckpoints(Path(name) / "checkpoints") as checkpoints,
        ):
            run = TrainingRun(config, dataset, ours, Path(name), checkpoints)
            now = run_epochs(run, Console(quiet=True))
            rest = now.wall_s - now.train_s - checkpoints.seconds
        return per_epoch * batch, {
            "training_s": now.train_s,
            "evaluation_s": rest,
            "checkpoint_s": checkpoints.seconds,
        }

    started = time.perf_counter()
    # Two steps compile what a CPU needs; where dispatches differ in length, all do.
    run_one(min(2, parts.steps_per_epoch) if ON_CPU else parts.steps_per_epoch)
    told = {"compile_s": time.perf_counter() - started}
    return lambda: run_one(parts.steps_per_epoch), told


def products(*, size: int, repeats: int) -> Setup:
    """Products of square matrices, in floating-point operations."""
    a = jnp.full((size, size), 1 / size, jnp.float32 if ON_CPU else jnp.bfloat16)
    product = jax.jit(lambda x, y: x @ y)

    def do_round() -> tuple[int, dict[str, float]]:
        x = a
        for _ in range(repeats):
            x = product(x, a)
        jax.block_until_ready(x)
        return 2 * size**3 * repeats, {}

    return do_round, {}


def device() -> Setup:
    """Does nothing, but tells what JAX runs on."""
    told = {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind}
    return lambda: (1, {}), told


TASKS: dict[str, Callable[..., Setup]] = {
    "step": step,
    "augmentation": augmentation,
    "indices": indices,
    "evaluation": evaluation,
    "prediction": prediction,
    "epoch": epoch,
    "products": products,
    "device": device,
}
