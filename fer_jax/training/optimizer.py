"""Numbers in, an optax transformation and its learning-rate schedule out."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

DIV_FACTOR = 25.0  # one-cycle starts at peak / 25 …
FINAL_DIV_FACTOR = 1e4  # … and ends at peak / 25 / 10,000
DROPS, DROP = (0.5, 0.75), 0.1  # the step schedule: where, and what is left

# Muon's steps then have the size of AdamW's, and share its rates and decay.
MUON_RMS = 0.2  # of Liu et al. 2025 (arXiv:2502.16982)


def one_cycle(peak: float, *, total_steps: int, pct_start: float) -> optax.Schedule:
    """The one-cycle schedule of Smith & Topin 2018 (arXiv:1708.07120).

    Rises from `peak / 25` to `peak` along a cosine over the first `pct_start` of
    the steps, then falls to `peak / 250,000`. Equal to PyTorch's `OneCycleLR` at
    its defaults, whose peak lies at step `pct_start * total_steps - 1`, which need
    not be whole (optax rounds it and counts from 0).

    Args:
      peak: the largest learning rate.
      total_steps: the number of steps, at least 1.
      pct_start: in (0, 1).

    Returns:
      a function from an int step (0-based) to a float32 learning rate.
    """
    start, end = peak / DIV_FACTOR, peak / DIV_FACTOR / FINAL_DIV_FACTOR
    # Below 0 in very short runs, which then begin on the way down.
    summit, last = pct_start * total_steps - 1.0, total_steps - 1.0

    def cosine(low: float, high: float, share: jax.Array) -> jax.Array:
        share = jnp.clip(share, 0.0, 1.0)
        return high + (low - high) / 2.0 * (1.0 + jnp.cos(jnp.pi * share))

    def schedule(step: jax.Array) -> jax.Array:
        rise = cosine(start, peak, step / max(summit, 1e-9))
        fall = cosine(peak, end, (step - summit) / (last - summit))
        return jnp.where(step <= summit, rise, fall)

    return schedule


def cosine(peak: float, *, total_steps: int, pct_start: float) -> optax.Schedule:
    """A linear rise over `pct_start` of the steps, then half a cosine down to 0.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv:1608.03983) without restarts.
    Arguments and result are those of `one_cycle`; no step has a rate of 0.
    """
    rising = round(pct_start * total_steps)

    def schedule(step: jax.Array) -> jax.Array:
        rise = peak * (step + 1) / max(rising, 1)
        share = (step - rising) / max(total_steps - rising, 1)
        fall = peak / 2.0 * (1.0 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
        return jnp.where(step < rising, rise, fall)

    return schedule


def step_down(peak: float, *, total_steps: int, pct_start: float) -> optax.Schedule:
    """A linear rise, then the peak, a tenth of it after 1/2 and 1/100 after 3/4.

    The fall of He et al. 2016 (arXiv:1512.03385) on CIFAR. Arguments and result are
    those of `one_cycle`.
    """
    rising = round(pct_start * total_steps)

    def schedule(step: jax.Array) -> jax.Array:
        rise = jnp.minimum(1.0, (step + 1) / max(rising, 1))
        drops = sum(step >= round(share * total_steps) for share in DROPS)
        return peak * rise * DROP**drops

    return schedule


SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "step": step_down}


def create(
    peak: float,
    *,
    total_steps: int,
    pct_start: float,
    weight_decay: float,
    rule: Literal["adamw", "sgd", "muon"] = "adamw",
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle",
    momentum: float = 0.9,
    clip_norm: float = 0.0,
    trained: Any = None,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """An optimizer under a schedule.

    `adamw` is that of Loshchilov & Hutter 2019 (arXiv:1711.05101); `sgd` has Nesterov's
    momentum, and weight decay as part of the gradient, as PyTorch's; `muon` (Jordan et
    al. 2024) moves kernels by orthogonalised momentum and the rest by Adam with
    Nesterov's momentum (Dozat 2016), at the same rate.

    Weight decay acts on kernels alone: biases and the scales of batch norm, which
    have one dimension, are left to the loss. Where `clip_norm` is not 0, a gradient
    whose L2 norm over all parameters is larger is first scaled down to it (Pascanu et
    al. 2013, arXiv:1211.5063).

    Args:
      peak: the largest learning rate.
      total_steps: the number of steps, at least 1.
      pct_start: the share of the steps in which the rate rises, in (0, 1).
      weight_decay: at least 0.
      rule: which rule.
      schedule: which schedule.
      momentum: of `sgd` and `muon`, in [0, 1).
      clip_norm: at least 0.
      trained: as `train_step.make_train_step` takes it; what it says is not moved by
        weight decay either.

    Returns:
      the transformation and the schedule that it follows, for the record.
    """
    rate = SCHEDULES[schedule](peak, total_steps=total_steps, pct_start=pct_start)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if rule == "sgd":
        parts.append(optax.add_decayed_weights(weight_decay, _kernels))
        parts.append(optax.sgd(rate, momentum or None, nesterov=momentum > 0))
    elif rule == "muon":
        parts.append(_muon(rate, momentum, weight_decay))
    else:
        parts.append(optax.adamw(rate, weight_decay=weight_decay, mask=_kernels))
    if trained is not None:
        parts.append(optax.stateless(lambda updates, _: only(updates, trained)))
    return parts[0] if len(parts) == 1 else optax.chain(*parts), rate


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def only(tree: Any, trained: Any) -> Any:
    """Gradients or updates times `trained`, a tree of 0 and 1 that broadcast."""
    return jax.tree.map(lambda leaf, is_trained: leaf * is_trained, tree, trained)


def _muon(
    rate: optax.Schedule, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """Muon on kernels, each as a matrix from all that an output sums over to it."""

    def as_matrices(params: Any) -> Any:
        return jax.tree.map(
            lambda leaf: (
                contrib.MuonDimensionNumbers(
                    tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,)
                )
                if leaf.ndim > 1
                else None
            ),
            params,
        )

    return contrib.muon(
        rate,
        beta=momentum,
        weight_decay=weight_decay,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=as_matrices,
    )
