"""Numbers in, an optax transformation and its learning-rate schedule out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

DIV_FACTOR = 25.0  # the rate starts at peak / 25 …
FINAL_DIV_FACTOR = 1e4  # … and ends at peak / 25 / 10,000


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


def adamw_one_cycle(
    peak: float,
    *,
    total_steps: int,
    pct_start: float,
    weight_decay: float,
    clip_norm: float = 0.0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) under `one_cycle`.

    Weight decay acts on kernels alone: biases and the scales of batch norm, which
    have one dimension, are left to the loss. Where `clip_norm` is not 0, a gradient
    whose L2 norm over all parameters is larger is first scaled down to it (Pascanu et
    al. 2013, arXiv:1211.5063).

    Returns:
      the transformation and the schedule that it follows, for the record.
    """
    schedule = one_cycle(peak, total_steps=total_steps, pct_start=pct_start)

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    tx = optax.adamw(schedule, weight_decay=weight_decay, mask=kernels)
    if clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    return tx, schedule
