"""One training step as a pure function of a state and the images of a batch.

  gather -> normalise -> augment -> resize -> logits -> loss -> gradients -> optimizer

All randomness is `fold_in(key, state.step)`: a resumed run draws what an uninterrupted
one would have drawn, and no key is stored.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from fer_jax.models import Network
from fer_jax.training.augment_ops import normalise, resize
from fer_jax.training.devices import Devices
from fer_jax.training.optimizer import mask_updates

_RUN = np.uint32(2**32 - 1)  # folded into the key for `Shown.key`; no step has it


class TrainState(NamedTuple):
    """All that training carries from one step to the next."""

    step: jax.Array  # int32 scalar: steps taken so far
    params: Any
    batch_stats: Any
    opt_state: Any
    averaged: tuple[Any, Any] | None  # moving averages of params and batch_stats

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The params and batch_stats to predict with: averages, if there are any."""
        return self.averaged or (self.params, self.batch_stats)


class Largest(NamedTuple):
    """The largest absolute values in a step, float32, for the report of a bad one."""

    step: jax.Array  # int32: its number from 1, or 0 before the first
    loss: jax.Array
    logit: jax.Array
    gradient: jax.Array
    parameter: jax.Array


class EpochMetrics(NamedTuple):
    """What an epoch accumulates on the device; part of the checkpoint.

    N is the number of training images. The margin of an image is the logit of its class
    less the largest other one (Pleiss et al. 2020, arXiv:2001.10528).
    """

    loss: jax.Array  # float32: sum of the steps' losses
    correct: jax.Array  # int32: correct predictions on augmented images
    images: jax.Array  # int32
    steps: jax.Array  # int32
    bad_step: jax.Array  # int32: first with a loss or gradient not finite, from 1, or 0
    last_good: Largest  # of the newest step before that; kept over the epochs
    margin: jax.Array  # float32 [N]: sum over the times that the image was shown
    shown: jax.Array  # int32 [N]: how often that was
    rival: jax.Array  # int16 [N]: the largest other class, when last shown


class Shown(NamedTuple):
    """Which training images a batch shows, and when."""

    indices: jax.Array  # int [B]
    step: jax.Array  # int32 scalar, from 0
    key: jax.Array  # the same in every step, for choices that outlast one


LossFn = Callable[[jax.Array, jax.Array], jax.Array]  # of logits and labels [B, C]
# (key, images, labels, shown) -> (images, labels); images are normalised.
AugmentFn = Callable[
    [jax.Array, jax.Array, jax.Array, Shown], tuple[jax.Array, jax.Array]
]
# (state, metrics, (images, labels), indices, side=None) -> (state, metrics).
# `func` is the compiled function, which takes (the run's key, its numbers) first.
TrainStep = functools.partial[tuple[TrainState, EpochMetrics]]


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """What a training step computes.

    The functions may be pytrees (`jax.tree_util.Partial`). Then their numbers are
    arguments of the compiled step, and configs that differ in them alone share it.
    """

    network: Network
    optimizer: Callable[[], optax.GradientTransformation]
    loss_fn: LossFn
    augment_fn: AugmentFn
    sam_rho: float | None = None  # the radius of sharpness-aware minimisation
    ema_decay: float | None = None  # of the moving averages that the state then has
    trainable: Any = None  # 1 or 0 (frozen), broadcast to each of params; None: all 1

    def numbers(self) -> dict[str, Any]:
        """All but the network, as a pytree of arrays."""
        fields = dict(vars(self))
        del fields["network"]
        for name, value in fields.items():
            if callable(value) and not isinstance(value, Partial):
                fields[name] = Partial(value)
        return jax.tree.map(jnp.asarray, fields)


def init_state(
    params: Any,
    batch_stats: Any,
    optimizer: Callable[[], optax.GradientTransformation],
    *,
    averages: bool = False,
) -> TrainState:
    """The state before the first step; `averages`: with moving averages."""
    # Copies: the step donates its state, and a buffer is donated once.
    averaged = jax.tree.map(jnp.copy, (params, batch_stats)) if averages else None
    return TrainState(
        jnp.int32(0), params, batch_stats, optimizer().init(params), averaged
    )


def init_metrics(num_images: int, last_good: Largest | None = None) -> EpochMetrics:
    """The metrics before the first step of an epoch; `last_good` of the one before."""
    # One buffer each: the step donates them, and a buffer is donated once.
    if last_good is None:
        last_good = Largest(jnp.int32(0), *(jnp.float32(0) for _ in range(4)))
    return EpochMetrics(
        loss=jnp.float32(0),
        correct=jnp.int32(0),
        images=jnp.int32(0),
        steps=jnp.int32(0),
        bad_step=jnp.int32(0),
        last_good=last_good,
        margin=jnp.zeros(num_images, jnp.float32),
        shown=jnp.zeros(num_images, jnp.int32),
        rival=jnp.zeros(num_images, jnp.int16),
    )


def margins(logits: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each image's margin, float32 `[B]`, and its largest other class, int32 `[B]`."""
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    others = logits.at[jnp.arange(len(logits)), classes].set(-jnp.inf)
    return own - others.max(axis=1), others.argmax(axis=1)


def sam_perturb(params: Any, grads: Any, rho: float) -> Any:
    """Params moved by `rho` along the gradient.

    A step of SAM (Foret et al. 2021, arXiv:2010.01412) takes the gradient there.
    """
    scale = rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
    return jax.tree.map(lambda param, grad: param + scale * grad, params, grads)


def ema_update(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving averages (Polyak & Juditsky 1992).

    The decay is at most (1 + step) / (10 + step), to forget the initial weights.
    """
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(new, average, 1.0 - now)


def make_train_step(
    spec: StepSpec, *, key: jax.Array, devices: Devices | None = None
) -> TrainStep:
    """Compiles `(state, metrics, (images, labels), indices, side) -> (state, metrics)`.

    The compiled function takes K steps in one dispatch, and donates state and metrics.
    On CPU K should be 1: XLA's convolutions are far slower inside a scan. It takes

      images: uint8 `[N, H, W, C]` of the whole training set; of a streamed set, those
        at the indices, `[K, B, H, W, C]`.
      labels: float `[N, C]`, of the whole training set.
      indices: int32 `[K, B]`.
      side: static; the side of the images that the network sees; None: that of the
        augmented images.

    Args:
      spec: what a step computes.
      key: the run's key; every step folds its number into it.
      devices: what shares each batch; None: JAX's first device.
    """

    def dispatch(
        run: tuple[jax.Array, dict[str, Any]],
        state: TrainState,
        metrics: EpochMetrics,
        data: tuple[jax.Array, jax.Array],
        indices: jax.Array,
        side: int | None = None,
    ) -> tuple[TrainState, EpochMetrics]:
        key, numbers = run
        computed = StepSpec(spec.network, **numbers)
        images, labels = data
        streamed = images if images.ndim == 5 else None

        def body(
            carry: tuple[TrainState, EpochMetrics],
            drawn: tuple[jax.Array, jax.Array | None],
        ) -> tuple[tuple[TrainState, EpochMetrics], None]:
            chosen, given = drawn
            given = images[chosen] if given is None else given
            batch = given, labels[chosen], chosen
            if devices:  # else XLA may have each device compute all of it
                batch = jax.lax.with_sharding_constraint(batch, devices.divided())
            return _take_step(computed, devices, key, carry, batch, side), None

        if len(indices) == 1:  # no scan around a single step
            drawn = jax.tree.map(lambda each: each[0], (indices, streamed))
            return body((state, metrics), drawn)[0]
        return jax.lax.scan(body, (state, metrics), (indices, streamed))[0]

    whole = devices.replicated if devices else None
    compiled = jax.jit(
        dispatch,
        donate_argnums=(1, 2),
        static_argnames="side",
        in_shardings=(None, whole, whole, None, None),
        out_shardings=whole,
    )
    # As arguments, not constants of the program, so that seeds, and configs that differ
    # in numbers, share a compilation.
    numbers = spec.numbers()
    numbers = devices.replicate(numbers) if devices else numbers
    return functools.partial(compiled, (key, numbers))


def _take_step(
    spec: StepSpec,
    devices: Devices | None,
    key: jax.Array,
    carry: tuple[TrainState, EpochMetrics],
    batch: tuple[jax.Array, jax.Array, jax.Array],
    side: int | None,
) -> tuple[TrainState, EpochMetrics]:
    state, metrics = carry
    images, labels, indices = batch
    classes = labels.argmax(axis=-1)  # before labels are mixed
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    shown = Shown(indices, state.step, jax.random.fold_in(key, _RUN))
    images, labels = spec.augment_fn(augment_key, normalise(images), labels, shown)
    if side is not None:
        images = resize(images, side)

    def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, batch_stats = spec.network.train(
            params, state.batch_stats, images, dropout_key
        )
        return spec.loss_fn(logits, labels), (logits, batch_stats)

    def differentiate(params: Any) -> tuple[Any, Any]:
        found, grads = jax.value_and_grad(objective, has_aux=True)(params)
        return found, mask_updates(grads, spec.trainable)

    (loss, (logits, batch_stats)), grads = differentiate(state.params)
    if spec.sam_rho is not None:
        grads = differentiate(sam_perturb(state.params, grads, spec.sam_rho))[1]
    updates, opt_state = spec.optimizer().update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    averaged = state.averaged
    if spec.ema_decay is not None:
        averaged = ema_update(
            averaged, (params, batch_stats), spec.ema_decay, state.step
        )
    number = state.step + 1
    sizes = [optax.tree.norm(x, ord="inf") for x in (loss, logits, grads, state.params)]
    correct = logits.argmax(axis=-1) == labels.argmax(axis=-1)
    per_image = indices, *margins(logits, classes)
    if devices:
        # These few first: else all N of the metrics would pass between the devices.
        per_image = jax.lax.with_sharding_constraint(per_image, devices.replicated)
    metrics = _add(metrics, loss, Largest(number, *sizes), correct, per_image)
    return TrainState(number, params, batch_stats, opt_state, averaged), metrics


def _add(
    metrics: EpochMetrics,
    loss: jax.Array,
    largest: Largest,
    correct: jax.Array,
    per_image: tuple[jax.Array, jax.Array, jax.Array],
) -> EpochMetrics:
    """The metrics after one more step; `per_image`: indices, margins and rivals."""
    indices, margin, rival = per_image
    finite = jnp.isfinite(jnp.stack(largest[1:])).all()
    good = finite & (metrics.bad_step == 0)
    return EpochMetrics(
        loss=metrics.loss + loss,
        correct=metrics.correct + correct.sum(dtype=jnp.int32),
        images=metrics.images + len(correct),
        steps=metrics.steps + 1,
        bad_step=jnp.where(
            good | (metrics.bad_step > 0), metrics.bad_step, largest.step
        ),
        last_good=jax.tree.map(
            lambda new, old: jnp.where(good, new, old), largest, metrics.last_good
        ),
        margin=metrics.margin.at[indices].add(margin),
        shown=metrics.shown.at[indices].add(1),
        rival=metrics.rival.at[indices].set(rival.astype(jnp.int16)),
    )
