"""The one-cycle schedule and AdamW against PyTorch's."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax import optimizer
from fer_jax.optimizer import one_cycle

ORACLE = json.loads((Path(__file__).parent / "oracles" / "torch.json").read_text())


@pytest.mark.parametrize(
    "case", ORACLE["one_cycle"], ids=lambda case: f"{case['total']}-{case['pct']}"
)
def test_every_step_has_the_rate_of_pytorch(case):
    schedule = one_cycle(case["peak"], total_steps=case["total"], pct_start=case["pct"])
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(case["total"]))
    # Near the end the rate is a small difference of float32 numbers near the peak.
    tolerance = {"rtol": 1e-5, "atol": 2e-7 * case["peak"]}
    np.testing.assert_allclose(rates, case["rates"], **tolerance)


def test_the_rate_starts_at_a_25th_peaks_once_and_ends_near_nothing():
    schedule = one_cycle(1.0, total_steps=1000, pct_start=0.3)
    rates = np.array(jax.vmap(schedule)(jnp.arange(1000)))
    np.testing.assert_allclose(rates[[0, 299, 999]], [0.04, 1.0, 4e-6], rtol=1e-5)
    assert (np.diff(rates[:300]) > 0).all() and (np.diff(rates[299:]) < 0).all()


@pytest.mark.parametrize("total", [1, 2, 3, 4, 5, 10, 20])
@pytest.mark.parametrize("pct_start", [0.05, 0.1, 0.25, 0.3, 0.5, 0.99])
def test_the_rate_is_positive_and_at_most_the_peak(total, pct_start):
    # Includes pct_start * total == 1, where PyTorch itself divides by zero.
    schedule = one_cycle(1e-3, total_steps=total, pct_start=pct_start)
    rates = np.array([schedule(step) for step in range(total)])
    assert (rates > 0).all() and (rates <= np.float32(1e-3)).all()


def test_steps_of_adamw_are_those_of_pytorch_with_decay_on_kernels_alone():
    oracle = ORACLE["adamw"]
    settings = dict(oracle["settings"])
    tx, _ = optimizer.create(settings.pop("peak"), **settings)
    params = {name: jnp.float32(value) for name, value in oracle["start"].items()}
    state = tx.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for grads, after in zip(oracle["grads"], oracle["after"], strict=True):
        grads = {name: jnp.float32(value) for name, value in grads.items()}
        params, state = step(params, state, grads)
        for name, value in after.items():
            np.testing.assert_allclose(params[name], value, rtol=2e-5, atol=2e-6)


def test_without_gradients_kernels_shrink_and_nothing_else_moves():
    tx, schedule = optimizer.create(
        0.5, total_steps=10, pct_start=0.3, weight_decay=0.1
    )
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * schedule(0), rtol=1e-6)
    assert not updates["bias"].any() and not updates["scale"].any()


def test_the_schedule_returned_is_the_one_applied():
    tx, schedule = optimizer.create(0.5, total_steps=6, pct_start=0.5, weight_decay=0)
    params = {"bias": jnp.zeros(1)}
    state = tx.init(params)
    for number in range(6):
        # Adam moves a constant gradient by the rate itself.
        updates, state = tx.update({"bias": jnp.ones(1)}, state, params)
        np.testing.assert_allclose(updates["bias"], -schedule(number), rtol=1e-4)


def test_a_gradient_is_clipped_to_its_norm_over_all_parameters():
    settings = {"total_steps": 8, "pct_start": 0.3, "weight_decay": 0.1}
    clipped, _ = optimizer.create(0.1, clip_norm=2.0, **settings)
    plain, _ = optimizer.create(0.1, **settings)
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    states = [tx.init(params) for tx in (clipped, plain)]
    for scale in (0.1, 30.0, 2.0, 0.01):  # AdamW alone forgets a common factor
        grads = {k: scale * rng.normal(size=v.shape) for k, v in params.items()}
        norm = np.sqrt(sum((value**2).sum() for value in grads.values()))
        by_hand = {k: value * min(1.0, 2.0 / norm) for k, value in grads.items()}
        ours, states[0] = clipped.update(grads, states[0], params)
        expected, states[1] = plain.update(by_hand, states[1], params)
        for name in params:
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5)
