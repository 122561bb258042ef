"""Schedules and rules against PyTorch's, optax's and their definitions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fer_jax.training import optimizer
from fer_jax.training.optimizer import one_cycle

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "torch.json").read_text())


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


# --- the other schedules


def rates_of(schedule, total=40, pct_start=0.2):
    made = optimizer.SCHEDULES[schedule](0.5, total_steps=total, pct_start=pct_start)
    return np.array(jax.vmap(made)(jnp.arange(total)))


def test_the_cosine_is_that_of_optax_after_a_linear_rise():
    rates = rates_of("cosine")
    np.testing.assert_allclose(rates[:8], 0.5 * np.arange(1, 9) / 8, rtol=1e-6)
    expected = optax.cosine_decay_schedule(0.5, 32)(jnp.arange(32))
    np.testing.assert_allclose(rates[8:], expected, rtol=1e-5, atol=1e-7)
    assert rates[-1] > 0


def test_the_steps_are_tenths_of_the_peak_after_a_half_and_three_quarters():
    rates = rates_of("step")
    np.testing.assert_allclose(rates[:8], 0.5 * np.arange(1, 9) / 8, rtol=1e-6)
    for part, rate in (
        (slice(8, 20), 0.5),
        (slice(20, 30), 0.05),
        (slice(30, 40), 5e-3),
    ):
        np.testing.assert_allclose(rates[part], rate, rtol=1e-5)


@pytest.mark.parametrize("schedule", optimizer.SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("pct_start", [0.01, 0.3, 0.99])
def test_every_rate_of_short_runs_is_in_its_range(schedule, total, pct_start):
    rates = rates_of(schedule, total, pct_start)
    assert (rates > 0).all() and (rates <= 0.5 + 1e-6).all()


# --- the other rules


def follow(tx, params, grads):
    """The params after each of some gradients."""
    state, seen = tx.init(params), []
    for each in grads:
        updates, state = tx.update(each, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def some(count=4):
    rng = np.random.default_rng(1)
    params = {"kernel": rng.normal(size=(3, 3, 2, 8)), "bias": rng.normal(size=8)}
    grads = [
        {k: jnp.float32(rng.normal(size=v.shape)) for k, v in params.items()}
        for _ in range(count)
    ]
    return {k: jnp.float32(v) for k, v in params.items()}, grads


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_pytorchs_with_nesterovs_momentum_and_decay(momentum):
    params, grads = some()
    tx, rate = optimizer.create(
        0.1,
        total_steps=4,
        pct_start=0.3,
        weight_decay=0.01,
        rule="sgd",
        schedule="cosine",
        momentum=momentum,
    )
    found = follow(tx, params, grads)
    for name, decay in (("kernel", 0.01), ("bias", 0.0)):
        # As torch.optim.SGD's documentation defines it.
        value, buffer = np.float64(params[name]), 0.0
        for step, each in enumerate(grads):
            grad = np.float64(each[name]) + decay * value
            buffer = momentum * buffer + grad
            value = value - float(rate(step)) * (grad + momentum * buffer)
            np.testing.assert_allclose(found[step][name], value, rtol=1e-4, atol=1e-6)


def test_muon_moves_kernels_by_orthogonal_matrices_and_the_rest_as_adam():
    params, grads = some(1)
    settings = {"total_steps": 10, "pct_start": 0.3, "weight_decay": 0.0}
    muon, rate = optimizer.create(0.1, rule="muon", **settings)
    adamw = optax.adamw(rate, nesterov=True)
    found, plain = (follow(tx, params, grads)[0] for tx in (muon, adamw))
    np.testing.assert_allclose(found["bias"], plain["bias"], rtol=1e-6)
    moved = np.array(found["kernel"] - params["kernel"]).reshape(18, 8)
    # Newton and Schulz bring the singular values near 1, not to it.
    values = np.linalg.svd(moved / (float(rate(0)) * 0.2 * np.sqrt(18)))[1]
    assert (values > 0.6).all() and (values < 1.3).all()
    # The directions are those of the gradient.
    left, _, right = np.linalg.svd(
        np.array(grads[0]["kernel"]).reshape(18, 8), full_matrices=False
    )
    aligned = np.diagonal(left.T @ moved @ right.T)
    assert (aligned < 0).all()
    assert np.abs(aligned).sum() > 0.99 * np.linalg.svd(moved)[1].sum()


@pytest.mark.parametrize("rule", ["adamw", "sgd", "muon"])
def test_what_is_not_trained_stays_and_the_rest_moves(rule):
    inner, grads = some(2)
    every = jax.tree.map(lambda _: 1.0, inner)
    filters = np.float32(np.arange(8) >= 3)  # the first three of the kernel stay
    tx, _ = optimizer.create(
        0.1,
        total_steps=4,
        pct_start=0.3,
        weight_decay=0.1,
        rule=rule,
        trained={"stem": every | {"kernel": filters}, "head": every},
    )
    params = {"stem": inner, "head": inner}
    after = follow(tx, params, [{"stem": g, "head": g} for g in grads])[-1]
    moved = np.array(after["stem"]["kernel"]) != np.array(inner["kernel"])
    assert not moved[..., :3].any() and moved[..., 3:].all()
    for layer, name in (("stem", "bias"), ("head", "kernel"), ("head", "bias")):
        assert (np.array(after[layer][name]) != np.array(inner[name])).all()
