"""Trains the same run on 1, 2, 4 and 8 devices and measures how far they differ.

    python tests/soak/devices.py --steps 8

A CPU simulates the devices. The control is one device again, whose initial weights were
each moved by at most half a unit in the last place, as another order of additions does.
The figures, against one device:

  first loss, first update: of the first step, from the same weights, by SGD; relative,
    the update's in its L2 norm
  logits: of val, with the same initial weights; the largest difference, relative to the
    largest of them
  loss after K: the relative difference of the mean loss of all steps
  work: floating-point operations of a step on each device, in percent of one device's

It fails if the first two rows are more than rounding (`MOST`, or for the update what
ten controls differ by: an activation that crosses 0 changes a gradient at once), if the
loss after K steps differs by more than 100 controls and 0.1 % (training amplifies
rounding), or if the work is not shared. Last, the fewest devices take the K steps in
one dispatch, as accelerators do, and must reach the same loss within the same limits.
"""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
COUNTS = (1, 2, 4, 8)
if __name__ == "__main__":  # before JAX counts them
    flag = f"--xla_force_host_platform_device_count={COUNTS[-1]}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from fer_jax import config as config_lib
from fer_jax import data
from fer_jax.training.evaluate import predict_split
from fer_jax.training.setup import Setup, build_setup

MOST = {"first_loss": 1e-6, "first_update": 1e-4, "logits": 1e-5}
GROWN, LEAST = 100, 1e-3
# All that is random, and all that looks across images.
SETTINGS = (
    "augmentation.random_erasing=0.5",
    "augmentation.mixup_alpha=0.3",
    "augmentation.cutmix_alpha=1.0",
    "data.weighted_sampler=true",
    "training.ema_decay=0.9",
    "training.optimizer=sgd",
    "training.lr=0.01",
    "training.batch_size=32",
    "training.eval_batch_size=24",
)


def _built(dataset, count: int, *settings: str) -> Setup:
    path = ROOT / "configs/baseline.yaml"
    config = config_lib.load(path, [*SETTINGS, f"device={count}", *settings])
    return build_setup(config, dataset)


def _moved(tree):
    """Each value times 1 + u, u uniform in ± half of float32's precision."""
    rng = np.random.default_rng(0)
    half = np.finfo(np.float32).eps / 2
    return jax.tree.map(
        lambda x: np.float32(x * (1 + rng.uniform(-half, half, x.shape))), tree
    )


def measure(dataset, count: int, steps: int, moved: bool, settings) -> dict:
    """What one run of a few steps comes to."""
    parts = _built(dataset, count, *settings)
    state, sums = parts.state, parts.init_metrics()
    if moved:
        state = state._replace(params=parts.devices.replicate(_moved(state.params)))
    start = jax.device_get(state.params)
    logits = predict_split(
        parts.predict,
        *state.evaluated,
        parts.images["val"],
        batch_size=24,
        devices=parts.devices,
    )
    batches, arrays = iter(parts.batches), (parts.images["train"], parts.labels)
    found = {"logits": logits}
    for step in range(steps):
        indices = next(batches)[None]
        indices = parts.devices.divide(indices, parts.batch_size, axis=1)
        arguments = state, sums, arrays, indices
        if not step:
            step_fn = parts.train_step.func
            program = step_fn.lower(*parts.train_step.args, *arguments).compile()
            found["flops"] = program.cost_analysis()["flops"]
        state, sums = parts.train_step(*arguments)
        if not step:
            found["loss"] = float(sums.loss)
            found["update"] = jax.tree.map(
                np.subtract, jax.device_get(state.params), start
            )
    found["mean"] = float(sums.loss) / steps
    assert sums.margin.sharding.is_fully_replicated
    return found


def mean_in_one_dispatch(dataset, count: int, steps: int, settings) -> float:
    """The mean loss of the steps, scanned over."""
    parts = _built(dataset, count, *settings)
    batches = iter(parts.batches)
    indices = np.stack([next(batches) for _ in range(steps)])
    indices = parts.devices.divide(indices, parts.batch_size, axis=1)
    arrays = (parts.images["train"], parts.labels), indices
    _, metrics = parts.train_step(parts.state, parts.init_metrics(), *arrays)
    return float(metrics.loss) / steps


def differences(found: dict, single: dict) -> dict:
    """How far a run is from that of one device."""
    apart = jax.tree.map(np.subtract, found["update"], single["update"])
    return {
        "first_loss": abs(found["loss"] / single["loss"] - 1),
        "first_update": float(
            optax.tree.norm(apart) / optax.tree.norm(single["update"])
        ),
        "logits": float(
            np.abs(found["logits"] - single["logits"]).max()
            / np.abs(single["logits"]).max()
        ),
        "loss": abs(found["mean"] / single["mean"] - 1),
        "work": found["flops"] / single["flops"],
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=48)
    parser.add_argument("--data_root")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS[1:])
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = [f"data.image_size={args.image_size}", *args.set]
    dataset = data.load(args.data_root, image_size=args.image_size)
    single = measure(dataset, 1, args.steps, False, settings)
    scanned = mean_in_one_dispatch(dataset, min(args.counts), args.steps, settings)
    scanned = abs(scanned / single["mean"] - 1)
    rows = {"control": measure(dataset, 1, args.steps, True, settings)}
    for count in args.counts:
        rows[str(count)] = measure(dataset, count, args.steps, False, settings)
    rows = {name: differences(found, single) for name, found in rows.items()}
    if args.json:
        print(json.dumps(rows | {"scanned": scanned}, default=float))
    else:
        print("devices  first loss  first update   logits  loss after", args.steps)
        for name, row in rows.items():
            print(
                f"{name:>7}  {row['first_loss']:10.1e}  {row['first_update']:12.1e}  "
                f"{row['logits']:7.1e}  {row['loss']:10.1e}  work {row['work']:.1%}"
            )
        print(f"in one dispatch, on {min(args.counts)}: loss after {scanned:.1e}")
    limits = MOST | {"loss": max(GROWN * rows["control"]["loss"], LEAST)}
    limits["first_update"] = max(
        10 * rows["control"]["first_update"], MOST["first_update"]
    )
    wrong = [
        name
        for name, row in rows.items()
        if name != "control"
        and (
            any(row[what] > most for what, most in limits.items())
            or row["work"] > 1.5 / int(name)
        )
    ]
    if scanned > limits["loss"]:
        wrong.append("in one dispatch")
    if wrong:
        print(f"not equal, or not shared: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
