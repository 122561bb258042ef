"""Schedules and rules against PyTorch's, optax's and their definitions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import tiny_config

from fer_jax.training.optimizer import SCHEDULES, make_optimizer, one_cycle

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "torch.json").read_text())


def created(total_steps, *, trainable=None, **settings):
    """The optimizer and schedule of the default settings, but for some."""
    training = tiny_config().training.model_copy(update=settings)
    optimizer, schedule = make_optimizer(training, total_steps, trainable=trainable)
    return optimizer(), schedule


# PyTorch's peak lies between two steps where this is not whole.
WHOLE = [c for c in ORACLE["one_cycle"] if (c["total"] * c["pct"]).is_integer()]


@pytest.mark.parametrize(
    "case", WHOLE, ids=lambda case: f"{case['total']}-{case['pct']}"
)
def test_every_step_has_the_rate_of_pytorch(case):
    schedule = one_cycle(case["peak"], total_steps=case["total"], pct_start=case["pct"])
    rates = schedule(jnp.arange(case["total"]))
    # Near the end the rate is a small difference of float32 numbers near the peak.
    tolerance = {"rtol": 1e-5, "atol": 2e-7 * case["peak"]}
    np.testing.assert_allclose(rates, case["rates"], **tolerance)


def test_the_rate_starts_at_a_25th_peaks_once_and_ends_near_nothing():
    schedule = one_cycle(1.0, total_steps=1000, pct_start=0.3)
    rates = np.array(schedule(jnp.arange(1000)))
    np.testing.assert_allclose(rates[[0, 299, 999]], [0.04, 1.0, 4e-6], rtol=1e-5)
    assert (np.diff(rates[:300]) > 0).all() and (np.diff(rates[299:]) < 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("pct_start", [0.01, 0.1, 0.25, 0.3, 0.5, 0.7, 0.99])
def test_any_run_reaches_the_peak_once_and_has_no_rate_of_0(name, pct_start):
    steps = jnp.arange(101)  # one shape, as each costs a compilation
    for total in (*range(1, 13), 100, 101):
        schedule = SCHEDULES[name](3e-4, total_steps=total, pct_start=pct_start)
        rates = np.array(schedule(steps))[:total]
        assert (rates > 0).all() and (rates <= np.float32(3e-4)).all()
        at_peak = np.flatnonzero(rates == np.float32(3e-4))
        # The step schedule stays there until its first drop.
        assert len(at_peak) == 1 or name == "step"
        assert (np.diff(at_peak) == 1).all() and len(at_peak)
        assert abs(at_peak[0] - (pct_start * total - 1)) <= 0.5 or at_peak[0] == 0
        assert (np.diff(rates[: at_peak[0] + 1]) > 0).all()
        assert (np.diff(rates[at_peak[-1] :]) <= 0).all()


def pytorchs_one_cycle(peak, *, total_steps, pct_start):
    """OneCycleLR, whose peak may lie between two steps."""
    summit, step = pct_start * total_steps - 1, np.arange(total_steps)
    rise = np.clip(step / summit, 0, 1)
    fall = np.clip((step - summit) / (total_steps - 1 - summit), 0, 1)
    up = peak + (peak / 25 - peak) / 2 * (1 + np.cos(np.pi * rise))
    down = peak / 2.5e5 + (peak - peak / 2.5e5) / 2 * (1 + np.cos(np.pi * fall))
    rates = jnp.float32(np.where(step <= summit, up, down))
    return lambda step: rates[step]


def test_steps_of_adamw_are_those_of_pytorch_with_decay_on_kernels_alone(monkeypatch):
    oracle = ORACLE["adamw"]
    monkeypatch.setitem(SCHEDULES, "one_cycle", pytorchs_one_cycle)
    settings = dict(oracle["settings"])
    tx, _ = created(settings.pop("total_steps"), lr=settings.pop("peak"), **settings)
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
    tx, schedule = created(10, lr=0.5, weight_decay=0.1)
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3), "scale": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * schedule(0), rtol=1e-6)
    assert not updates["bias"].any() and not updates["scale"].any()


def test_the_schedule_returned_is_the_one_applied():
    tx, schedule = created(6, lr=0.5, pct_start=0.5)
    params = {"bias": jnp.zeros(1)}
    state = tx.init(params)
    for number in range(6):
        # Adam moves a constant gradient by the rate itself.
        updates, state = tx.update({"bias": jnp.ones(1)}, state, params)
        np.testing.assert_allclose(updates["bias"], -schedule(number), rtol=1e-4)


def test_a_gradient_is_clipped_to_its_norm_over_all_parameters():
    clipped, _ = created(8, lr=0.1, clip_norm=2.0)
    plain, _ = created(8, lr=0.1)
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
    made = SCHEDULES[schedule](0.5, total_steps=total, pct_start=pct_start)
    return np.array(made(jnp.arange(total)))


def test_the_cosine_is_that_of_optax_after_a_linear_rise():
    rates = rates_of("cosine")
    np.testing.assert_allclose(rates[:8], 0.5 * np.arange(1, 9) / 8, rtol=1e-6)
    expected = optax.cosine_decay_schedule(0.5, 33)(jnp.arange(33))
    np.testing.assert_allclose(rates[7:], expected, rtol=1e-5, atol=1e-7)
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
    how = {"optimizer": "sgd", "schedule": "cosine", "momentum": momentum}
    tx, rate = created(4, lr=0.1, weight_decay=0.01, **how)
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
    muon, rate = created(10, lr=0.1, weight_decay=0.0, optimizer="muon")
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
    trainable = {"stem": every | {"kernel": filters}, "head": every}
    tx, _ = created(4, lr=0.1, optimizer=rule, trainable=trainable)
    params = {"stem": inner, "head": inner}
    after = follow(tx, params, [{"stem": g, "head": g} for g in grads])[-1]
    moved = np.array(after["stem"]["kernel"]) != np.array(inner["kernel"])
    assert not moved[..., :3].any() and moved[..., 3:].all()
    for layer, name in (("stem", "bias"), ("head", "kernel"), ("head", "bias")):
        assert (np.array(after[layer][name]) != np.array(inner[name])).all()
