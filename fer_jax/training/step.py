"""One step of training as a pure function of (state, which images).

  gather -> normalise -> augment -> resize -> logits -> loss -> gradients -> optimizer

The images of a streamed set are given, and not gathered.

All randomness is `fold_in(key, state.step)`, so that a resumed run draws what an
undisturbed one would have drawn, and no key needs to be stored.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fer_jax.models import Network
from fer_jax.training.augment_ops import normalise, resize
from fer_jax.training.devices import Devices
from fer_jax.training.optimizer import only

LossFn = Callable[[jax.Array, jax.Array], jax.Array]
# Of (key, images, labels, indices, step).
AugmentFn = Callable[..., tuple[jax.Array, jax.Array]]


class TrainState(NamedTuple):
    """All that training carries from one step to the next."""

    step: jax.Array  # int32 scalar: steps taken so far
    params: Any
    batch_stats: Any
    opt_state: Any
    averaged: tuple[Any, Any] | None  # of params and batch_stats, where asked for

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The params and batch_stats to predict with: the averages, if there are."""
        return self.averaged or (self.params, self.batch_stats)


class Largest(NamedTuple):
    """The largest absolute values in a step, float32, to judge one that fails by."""

    step: jax.Array  # int32: its number from 1, or 0 before the first
    loss: jax.Array
    logit: jax.Array
    gradient: jax.Array
    parameter: jax.Array


class Sums(NamedTuple):
    """What an epoch adds up on the device; part of the checkpoint.

    N is the number of training images. The margin of a shown image is its class's logit
    less the largest other one (Pleiss et al. 2020, arXiv:2001.10528).
    """

    loss: jax.Array  # float32: sum of the steps' losses
    correct: jax.Array  # int32: hits on augmented images
    images: jax.Array  # int32
    steps: jax.Array  # int32
    bad_step: jax.Array  # int32: first with a loss or gradient not finite, from 1, or 0
    last_good: Largest  # of the newest step before that; goes on over the epochs
    margin: jax.Array  # float32 [N]: sum over the times that the image was shown
    shown: jax.Array  # int32 [N]: how often that was
    rival: jax.Array  # int16 [N]: the largest other class, when last shown


# Of (state, sums, images, labels, indices); its `func` is compiled and takes the key
# first.
TrainStep = functools.partial[tuple[TrainState, Sums]]


def init_state(
    params: Any,
    batch_stats: Any,
    tx: optax.GradientTransformation,
    *,
    averages: bool = False,
) -> TrainState:
    """The state before the first step; `averages`: with averaged weights."""
    # Copies, as the step donates its state, and a buffer is donated once.
    averaged = jax.tree.map(jnp.copy, (params, batch_stats)) if averages else None
    return TrainState(jnp.int32(0), params, batch_stats, tx.init(params), averaged)


def zero_sums(num_images: int, last_good: Largest | None = None) -> Sums:
    """The sums before the first step of an epoch; `last_good` of the one before."""
    # One buffer each: the step donates them, and a buffer is donated once.
    counts = [jnp.int32(0) for _ in range(4)]
    if last_good is None:
        last_good = Largest(jnp.int32(0), *(jnp.float32(0) for _ in range(4)))
    return Sums(
        jnp.float32(0),
        *counts,
        last_good=last_good,
        margin=jnp.zeros(num_images, jnp.float32),
        shown=jnp.zeros(num_images, jnp.int32),
        rival=jnp.zeros(num_images, jnp.int16),
    )


def margins(logits: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How clearly a network prefers the class an image has, and to which other.

    Args:
      logits: float `[B, C]`.
      classes: int `[B]`.

    Returns:
      float32 `[B]`, the class's logit less the largest other one, and int32 `[B]`,
      which other one that is.
    """
    logits = logits.astype(jnp.float32)
    own = jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    others = logits.at[jnp.arange(len(logits)), classes].set(-jnp.inf)
    return own - others.max(axis=1), others.argmax(axis=1)


def uphill(params: Any, grads: Any, rho: float) -> Any:
    """Where the loss near params is largest, to first order, at a distance of rho.

    The first half of a step of SAM (Foret et al. 2021, arXiv:2010.01412); the second
    moves params by the gradient found there.
    """
    scale = rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
    return jax.tree.map(lambda param, grad: param + scale * grad, params, grads)


def average(old: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving averages (Polyak & Juditsky 1992; as TensorFlow's).

    In the first steps the average forgets faster, (1 + step) / (10 + step), as else
    the initial weights would stay in it for long.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(new, old, 1.0 - decay)


def make_train_step(
    network: Network,
    tx: optax.GradientTransformation,
    *,
    loss_fn: LossFn,
    augment_fn: AugmentFn,
    key: jax.Array,
    sam_rho: float = 0.0,
    ema_decay: float = 0.0,
    trained: Any = None,
    devices: Devices | None = None,
) -> TrainStep:
    """Compiles `(state, sums, images, labels, indices, side=None) -> (state, sums)`.

    Args:
      network: from `models.create`.
      tx: the optimizer.
      loss_fn: `(logits [B, C], labels [B, C]) -> scalar`.
      augment_fn: `(key, images, labels, indices, step) -> (images, labels)`, images
        normalised; indices int `[B]` and step, from 0, say which ones and when.
      key: the run's key; every step folds its number into it.
      sam_rho: the distance that sharpness-aware minimisation looks; 0: it does not.
      ema_decay: of the averages, which the state then must have; 0: none.
      trained: in the structure of params 1, or 0 for what has no gradient, broadcast
        to each leaf; None: everything is trained.
      devices: what shares each batch; None: JAX's first device.

    Returns:
      a compiled function that takes uint8 images `[N, H, W, C]` and float labels
      `[N, C]` of the whole training set, and int32 indices `[K, B]`, does K steps
      in one dispatch, and donates state and sums. Of a streamed set it takes the
      images at the indices, `[K, B, H, W, C]`. On CPU K should be 1, where XLA runs
      convolutions inside a scan far more slowly. `side`, static, is that of the
      augmented images as the network sees them; None: as they are.
    """

    def step(
        key: jax.Array,
        state: TrainState,
        sums: Sums,
        images: jax.Array,
        labels: jax.Array,
        chosen: jax.Array,
        side: int | None,
    ) -> tuple[TrainState, Sums]:
        classes = labels.argmax(axis=-1)  # before another's are mixed in
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        images, labels = augment_fn(
            augment_key, normalise(images), labels, chosen, state.step
        )
        if side is not None:
            images = resize(images, side)

        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            logits, batch_stats = network.train(
                params, state.batch_stats, images, dropout_key
            )
            return loss_fn(logits, labels), (logits, batch_stats)

        def differentiate(params: Any) -> tuple[Any, Any]:
            found, grads = jax.value_and_grad(objective, has_aux=True)(params)
            return found, grads if trained is None else only(grads, trained)

        (loss, (logits, batch_stats)), grads = differentiate(state.params)
        if sam_rho:
            grads = differentiate(uphill(state.params, grads, sam_rho))[1]
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged
        if ema_decay:
            averaged = average(averaged, (params, batch_stats), ema_decay, state.step)
        largest = [optax.tree.norm(x, ord="inf") for x in (loss, logits, grads)]
        largest.append(optax.tree.norm(state.params, ord="inf"))
        number = state.step + 1
        finite = jnp.isfinite(jnp.stack(largest)).all()
        good = finite & (sums.bad_step == 0)
        hits = logits.argmax(axis=-1) == labels.argmax(axis=-1)
        of_each = chosen, *margins(logits, classes)
        if devices:
            # These few first: else the sums of all N would go through all devices.
            of_each = jax.lax.with_sharding_constraint(of_each, devices.whole)
        places, margin, rival = of_each
        sums = Sums(
            loss=sums.loss + loss,
            correct=sums.correct + hits.sum(dtype=jnp.int32),
            images=sums.images + len(hits),
            steps=sums.steps + 1,
            bad_step=jnp.where(good | (sums.bad_step > 0), sums.bad_step, number),
            last_good=jax.tree.map(
                lambda new, old: jnp.where(good, new, old),
                Largest(number, *largest),
                sums.last_good,
            ),
            margin=sums.margin.at[places].add(margin),
            shown=sums.shown.at[places].add(1),
            rival=sums.rival.at[places].set(rival.astype(jnp.int16)),
        )
        return TrainState(number, params, batch_stats, opt_state, averaged), sums

    def dispatch(
        key: jax.Array,
        state: TrainState,
        sums: Sums,
        images: jax.Array,
        labels: jax.Array,
        indices: jax.Array,
        side: int | None = None,
    ) -> tuple[TrainState, Sums]:
        given = images if images.ndim == 5 else None

        def body(
            carry: tuple[TrainState, Sums], drawn: tuple[jax.Array, jax.Array | None]
        ):
            chosen, shown = drawn
            shown = images[chosen] if shown is None else shown
            batch = shown, labels[chosen], chosen
            if devices:  # else XLA may have each device do all of it
                batch = jax.lax.with_sharding_constraint(batch, devices.parts())
            return step(key, *carry, *batch, side), None

        if len(indices) == 1:  # no scan around a single step
            drawn = jax.tree.map(lambda each: each[0], (indices, given))
            return body((state, sums), drawn)[0]
        return jax.lax.scan(body, (state, sums), (indices, given))[0]

    whole = devices.whole if devices else None
    compiled = jax.jit(
        dispatch,
        donate_argnums=(1, 2),
        static_argnames="side",
        in_shardings=(None, whole, whole, None, None, None),
        out_shardings=whole,
    )
    # As an argument, and not a constant of the program: seeds share what is compiled.
    return functools.partial(compiled, key)
