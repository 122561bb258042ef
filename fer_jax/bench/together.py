"""Several runs at once on one device, each with a seed and a rate of its own.

One program for all of them takes seeds and rates as arguments, `vmap` side by side
or `lax.map` one after the other; or each run is a process.
"""

import atexit
import contextlib
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import models
from fer_jax.bench.contest import Contender, Process, Setup
from fer_jax.bench.ours import AT_ONCE, device_memory, load_config, random_dataset
from fer_jax.config import Config
from fer_jax.training import losses
from fer_jax.training.augment import make_augment
from fer_jax.training.optimizer import make_optimizer
from fer_jax.training.setup import build_setup
from fer_jax.training.step import StepSpec, init_metrics, make_train_step


def _make_step(config: Config, total_steps: int) -> Callable[..., Any]:
    """`train_step` with the run's key and peak rate as its first arguments."""
    training = config.training
    network, _, _ = models.create(
        config.model.arch,
        jax.random.key(0),
        num_classes=7,
        dropout=config.model.dropout,
        channels=config.data.channels,
        dtype=jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16,
    )

    def step(key: jax.Array, rate: jax.Array, *arguments: Any) -> Any:
        own = training.model_copy(update={"lr": rate})
        spec = StepSpec(
            network,
            make_optimizer(own, total_steps)[0],
            functools.partial(
                losses.softmax_loss, label_smoothing=config.loss.label_smoothing
            ),
            make_augment(config.augmentation),
        )
        return make_train_step(spec, key=key)(*arguments)

    return step


def one_program(
    *, how: str, runs: int, arch: str, batch: int, image_size: int, steps: int
) -> Setup:
    """Steps of all runs in one compiled program; `how` is "vmap" or "map"."""
    config = load_config(arch, batch, image_size, augmented=False)
    dataset = random_dataset(max(1024, 2 * batch), image_size)
    seeds = [
        config.model_copy(
            update={"training": config.training.model_copy(update={"seed": seed})}
        )
        for seed in range(runs)
    ]
    parts = [build_setup(each, dataset) for each in seeds]
    step = _make_step(config, parts[0].steps_per_epoch * config.training.epochs)
    images, labels = parts[0].images["train"], parts[0].labels
    batches = [
        itertools.chain.from_iterable(itertools.repeat(p.batches)) for p in parts
    ]
    keys = jax.random.split(jax.random.key(0), runs)
    rates = jnp.geomspace(1e-4, 1e-3, runs)
    at_once = min(AT_ONCE, steps)

    @functools.partial(jax.jit, donate_argnums=0)
    def train(carry: Any, images: jax.Array, labels: jax.Array, indices: jax.Array):
        def one(key: jax.Array, rate: jax.Array, carry: Any, chosen: jax.Array) -> Any:
            return step(key, rate, *carry, (images, labels), chosen)

        if how == "vmap":
            return jax.vmap(one)(keys, rates, carry, indices)
        return jax.lax.map(lambda each: one(*each), (keys, rates, carry, indices))

    carry = jax.tree.map(
        lambda *each: jnp.stack(each),
        *[(p.state, init_metrics(len(p.labels))) for p in parts],
    )

    def take(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            chosen = [[next(each) for _ in range(at_once)] for each in batches]
            carry = train(carry, images, labels, jax.device_put(np.array(chosen)))
        jax.block_until_ready(carry)

    started = time.perf_counter()
    take(1)
    told = {"compile_s": time.perf_counter() - started}

    def do_round() -> tuple[int, dict[str, float]]:
        take(steps // at_once)
        return runs * (steps // at_once) * at_once * batch, device_memory()

    return do_round, told


def processes(*, runs: int, **settings: Any) -> Setup:
    """Processes at once, a run each; they set up one after the other."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    running, told = [], {}
    for number in range(runs):
        contender = Contender("ours", "step", settings)
        running.append(stack.enter_context(Process(f"run {number}", contender)))
        told = running[-1].answer()

    def do_round() -> tuple[int, dict[str, float]]:
        for process in running:
            process.go()
        answers = [process.answer() for process in running]
        memory = {"all_memory_mb": sum(each["memory_mb"] for each in answers)}
        return sum(each["items"] for each in answers), memory

    return do_round, {"compile_s": told["compile_s"]}


TASKS: dict[str, Callable[..., Setup]] = {
    "one_program": one_program,
    "processes": processes,
}
