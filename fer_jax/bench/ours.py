"""The tasks of fer_jax, which call what training and prediction call."""

import itertools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from fer_jax import config as config_lib
from fer_jax.bench.contender import Task, random_images, val_count, warmed_up
from fer_jax.config import Augmentation, Config
from fer_jax.data import Dataset
from fer_jax.data.records import Split
from fer_jax.emotions import EMOTIONS
from fer_jax.system.memory import keep_memory, return_memory
from fer_jax.training.augment import make_augment
from fer_jax.training.augment_ops import normalise
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.evaluate import predict_split
from fer_jax.training.loop import TrainingRun, run_epochs
from fer_jax.training.setup import Setup, build_setup
from fer_jax.training.step import Shown

keep_memory()  # as the commands do; only contenders import this module
ON_CPU = jax.default_backend() == "cpu"


def _config(batch: int, image_size: int, *, augmented: bool, epochs: int) -> Config:
    """The baseline for grey images, as the random images are grey."""
    overrides = [
        f"training.batch_size={batch}",
        f"training.epochs={epochs}",
        f"data.image_size={image_size}",
        "data.channels=1",
    ]
    if not augmented:
        for key in Augmentation.model_fields:
            off = "false" if key == "horizontal_flip" else "0"
            overrides.append(f"augmentation.{key}={off}")
    return config_lib.load("baseline", overrides)


def _dataset(train: int, image_size: int, val: int = len(EMOTIONS)) -> Dataset:
    """Random images: `train` and `val` of them in the two splits."""

    def split(count: int) -> Split:
        rows = np.arange(count, dtype=np.int32)
        return Split(*random_images(count, image_size), rows)

    return Dataset(
        source="generated",
        description="noise",
        fingerprint="0" * 16,
        class_names=tuple(EMOTIONS),
        splits={"train": split(train), "val": split(val)},
        skipped={},
        notes=(),
    )


def _setup(
    batch: int, image_size: int, images: int, *, augmented: bool = False
) -> Setup:
    """The compiled functions and arrays of a baseline over random images."""
    config = _config(batch, image_size, augmented=augmented, epochs=30)
    return build_setup(config, _dataset(images, image_size))


def _device_memory() -> dict[str, float]:
    """The device's peak memory; empty where the backend does not count it."""
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"device_mb": peak / 2**20}


def step(*, batch: int, image_size: int, steps: int) -> Task:
    """Training steps, from the indices of a batch to new parameters."""
    setup = _setup(batch, image_size, max(1024, 2 * batch))
    per_call = min(setup.steps_per_dispatch, steps)
    batches = itertools.cycle(list(itertools.islice(setup.batches, steps)))
    arrays = setup.images["train"], setup.labels
    state, sums = setup.state, setup.init_metrics()

    def take() -> jax.Array:
        return jax.device_put(np.stack([next(batches) for _ in range(per_call)]))

    def run_calls(count: int) -> tuple[int, dict[str, float]]:
        nonlocal state, sums
        for _ in range(count):
            state, sums = setup.train_step(state, sums, arrays, take())
        jax.block_until_ready(sums)
        return count * per_call * batch, _device_memory()

    def compile_step() -> None:
        run_calls(1)
        return_memory()  # as the training loop does

    # A backward pass costs about twice the forward pass.
    info = {"flops_per_image": 3 * setup.flops}
    task = warmed_up(lambda: run_calls(steps // per_call), compile_step)
    return Task(task.run_round, task.info | info)


def augmentation(*, batch: int, image_size: int, images: int, batches: int) -> Task:
    """Batches gathered by index, normalised and augmented as in training."""
    config = _config(batch, image_size, augmented=True, epochs=30)
    setup = build_setup(config, _dataset(images, image_size))
    augment = make_augment(config, setup.steps_per_epoch)
    pixels, labels = setup.images["train"], setup.labels
    key = jax.random.key(0)

    @jax.jit
    def augmented_batch(
        pixels: jax.Array, labels: jax.Array, step: jax.Array, indices: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        step_key = jax.random.fold_in(key, step)
        chosen = normalise(pixels[indices])
        shown = Shown(indices, step, key)
        return augment(step_key, chosen, labels[indices], shown)

    numbered = enumerate(itertools.chain.from_iterable(itertools.repeat(setup.batches)))

    def run_round() -> tuple[int, dict[str, float]]:
        for number, indices in itertools.islice(numbered, batches):
            jax.block_until_ready(augmented_batch(pixels, labels, number, indices))
        return batches * batch, _device_memory()

    return warmed_up(run_round)


def evaluation(*, batch: int, image_size: int, images: int) -> Task:
    """Logits of a whole split."""
    setup = _setup(1, image_size, images)
    state, pixels = setup.state, setup.images["train"]

    def run_round() -> tuple[int, dict[str, float]]:
        predict_split(
            setup.predict, state.params, state.batch_stats, pixels, batch_size=batch
        )
        return images, _device_memory()

    return warmed_up(run_round)


def prediction(*, image_size: int, repeats: int) -> Task:
    """Logits of one image at a time, from uint8 to the host's memory."""
    setup = _setup(1, image_size, 256)
    state, pixels = setup.state, jnp.asarray(setup.images["train"])
    first = jnp.zeros(1, jnp.int32)

    def run_round() -> tuple[int, dict[str, float]]:
        for _ in range(repeats):
            np.asarray(setup.predict(state.params, state.batch_stats, pixels, first))
        return repeats, _device_memory()

    return warmed_up(run_round)


def epoch(*, batch: int, image_size: int, images: int) -> Task:
    """Runs of one epoch through the training loop."""
    config = _config(batch, image_size, augmented=True, epochs=1)
    dataset = _dataset(images, image_size, val_count(images))
    setup = build_setup(config, dataset)

    def train(per_epoch: int) -> tuple[int, dict[str, float]]:
        # The loop donates the state that it starts from.
        state = jax.tree.map(jnp.copy, setup.state)
        ours = setup._replace(state=state, steps_per_epoch=per_epoch)
        with (
            tempfile.TemporaryDirectory() as name,
            Checkpoints(Path(name) / "checkpoints") as checkpoints,
        ):
            run = TrainingRun(config, dataset, ours, Path(name), checkpoints)
            progress = run_epochs(run, Console(quiet=True))
        return per_epoch * batch, {"training_s": progress.train_s}

    # On a CPU two steps compile everything. Elsewhere the last dispatch may be shorter
    # than the others and is compiled too.
    whole = setup.steps_per_epoch
    first = min(2, whole) if ON_CPU else whole
    return warmed_up(lambda: train(whole), lambda: train(first))


def products(*, size: int, repeats: int) -> Task:
    """Products of square matrices; the items are floating-point operations."""
    a = jnp.full((size, size), 1 / size, jnp.float32 if ON_CPU else jnp.bfloat16)
    product = jax.jit(lambda x, y: x @ y)

    def run_round() -> tuple[int, dict[str, float]]:
        x = a
        for _ in range(repeats):
            x = product(x, a)
        jax.block_until_ready(x)
        return 2 * size**3 * repeats, {}

    return Task(run_round, {})


def device() -> Task:
    """Nothing to run; the set-up reports the device."""
    info = {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind}
    return Task(lambda: (1, {}), info)
