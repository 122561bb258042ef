"""The optimizer of a config, and its learning-rate schedule."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial
from optax import contrib

from fer_jax.config import Training

DIV_FACTOR = 25.0  # one-cycle starts at peak / 25 ...
FINAL_DIV_FACTOR = 1e4  # ... and ends at peak / 25 / 10,000
DROPS, DROP = (0.5, 0.75), 0.1  # the step schedule: when, and by which factor

# Muon's updates then have the size of AdamW's, and suit its rates and decay.
MUON_RMS = 0.2  # of Liu et al. 2025 (arXiv:2502.16982)


def peak_step(total_steps: int, pct_start: float) -> int:
    """The step, from 0, at which every schedule reaches its peak.

    That of PyTorch's `OneCycleLR`, rounded to a step of the run.
    """
    return max(round(pct_start * total_steps), 1) - 1


def one_cycle(peak: float, *, total_steps: int, pct_start: float) -> Partial:
    """The one-cycle schedule of Smith & Topin 2018 (arXiv:1708.07120).

    Rises from `peak / 25` to `peak` along a cosine, then falls to `peak / 250,000`.
    Equal to PyTorch's `OneCycleLR` at its defaults where `pct_start * total_steps` is
    whole; PyTorch's peak otherwise lies between two steps.

    Args:
      peak: the largest learning rate, which one step has.
      total_steps: the number of steps, at least 1.
      pct_start: the share of the steps in which the rate rises, in (0, 1).

    Returns:
      an optax schedule. Its numbers are leaves of a pytree, so that a compiled step
      can take them as arguments.
    """
    return _schedule(_one_cycle, peak, total_steps, pct_start)


def _schedule(
    rate: Callable[..., jax.Array], peak: float, total_steps: int, pct_start: float
) -> Partial:
    summit = peak_step(total_steps, pct_start)
    return Partial(rate, peak=peak, total_steps=total_steps, summit=summit)


def _one_cycle(
    step: jax.Array, *, peak: jax.Array, total_steps: jax.Array, summit: jax.Array
) -> jax.Array:
    start, end = peak / DIV_FACTOR, peak / DIV_FACTOR / FINAL_DIV_FACTOR

    def between(low: jax.Array, high: jax.Array, share: jax.Array) -> jax.Array:
        share = jnp.clip(share, 0.0, 1.0)
        return high + (low - high) / 2.0 * (1.0 + jnp.cos(jnp.pi * share))

    risen = jnp.where(summit > 0, step / jnp.maximum(summit, 1), 1.0)
    fallen = (step - summit) / jnp.maximum(total_steps - 1 - summit, 1)
    rise, fall = between(start, peak, risen), between(peak, end, fallen)
    return jnp.where(step <= summit, rise, fall)


def cosine(peak: float, *, total_steps: int, pct_start: float) -> Partial:
    """A linear rise to the peak, then half a cosine towards 0.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv:1608.03983) without restarts.
    Arguments and result are those of `one_cycle`; no step has a rate of 0.
    """
    return _schedule(_cosine, peak, total_steps, pct_start)


def _cosine(
    step: jax.Array, *, peak: jax.Array, total_steps: jax.Array, summit: jax.Array
) -> jax.Array:
    rise = peak * (step + 1) / (summit + 1)
    share = jnp.clip((step - summit) / (total_steps - summit), 0.0, 1.0)
    return jnp.where(step < summit, rise, peak / 2.0 * (1.0 + jnp.cos(jnp.pi * share)))


def step_down(peak: float, *, total_steps: int, pct_start: float) -> Partial:
    """A linear rise to the peak, a tenth of it after 1/2 and 1/100 after 3/4.

    The decay of He et al. 2016 (arXiv:1512.03385) on CIFAR, after the peak in any case.
    Arguments and result are those of `one_cycle`.
    """
    return _schedule(_step_down, peak, total_steps, pct_start)


def _step_down(
    step: jax.Array, *, peak: jax.Array, total_steps: jax.Array, summit: jax.Array
) -> jax.Array:
    rise = jnp.minimum(1.0, (step + 1) / (summit + 1))
    drops = sum(
        step >= jnp.maximum(jnp.round(share * total_steps), summit + 1)
        for share in DROPS
    )
    return peak * rise * DROP**drops


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "step": step_down}


def make_optimizer(
    training: Training, total_steps: int, *, trainable: Any = None
) -> tuple[Partial, Partial]:
    """The optimizer of the `training` section of a config, and its schedule.

    `adamw` is that of Loshchilov & Hutter 2019 (arXiv:1711.05101). `sgd` has Nesterov
    momentum, and weight decay as part of the gradient, as in PyTorch. `muon` (Jordan et
    al. 2024) updates kernels by orthogonalised momentum and the rest by Adam with
    Nesterov momentum (Dozat 2016), at the same rate.

    Weight decay acts on kernels alone: biases and scales, which have one dimension, are
    not decayed. With `clip_norm`, the gradient is first scaled down to at most that L2
    norm over all parameters (Pascanu et al. 2013, arXiv:1211.5063).

    `trainable` is that of `step.StepSpec`; frozen weights are not decayed.

    Returns:
      a function that returns the optax transformation, and the schedule. The numbers of
      both are leaves of pytrees.
    """
    schedule = SCHEDULES[training.schedule](
        training.lr, total_steps=total_steps, pct_start=training.pct_start
    )
    optimizer = Partial(
        functools.partial(_transformation, training.optimizer),
        schedule=schedule,
        decay=training.weight_decay,
        momentum=training.momentum or None,
        clip_norm=training.clip_norm or None,
        trainable=trainable,
    )
    return optimizer, schedule


def _transformation(
    name: str,
    *,
    schedule: optax.Schedule,
    decay: float,
    momentum: float | None,
    clip_norm: float | None,
    trainable: Any,
) -> optax.GradientTransformation:
    parts = []
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if name == "sgd":
        parts.append(optax.add_decayed_weights(decay, _kernels))
        parts.append(optax.sgd(schedule, momentum, nesterov=momentum is not None))
    elif name == "muon":
        parts.append(_muon(schedule, 0.0 if momentum is None else momentum, decay))
    else:
        parts.append(optax.adamw(schedule, weight_decay=decay, mask=_kernels))
    if trainable is not None:
        parts.append(
            optax.stateless(lambda updates, _: mask_updates(updates, trainable))
        )
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def mask_updates(tree: Any, trainable: Any) -> Any:
    """Gradients or updates times `trainable`, as in `step.StepSpec`."""
    if trainable is None:
        return tree
    return jax.tree.map(lambda leaf, mask: leaf * mask, tree, trainable)


def _muon(
    rate: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Muon on kernels, each as a matrix from the inputs of an output to the outputs."""

    def as_matrix(leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return contrib.MuonDimensionNumbers(
            tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,)
        )

    return contrib.muon(
        rate,
        beta=momentum,
        weight_decay=weight_decay,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(as_matrix, params),
    )
