"""Whether two run folders hold the same run, bit for bit.

Times may differ, and how the settings came about: by a file or by --set.
"""

import json

import jax
import numpy as np

from fer_jax import config, data
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.setup import build_setup

APART = {"timing", "train_s", "wall_s", "images_per_s"}
APART |= {"overrides", "config_path"}
APART |= {"environment", "environments", "earlier_environments"}


def rows(folder):
    """The epochs of `metrics.jsonl`."""
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def compared(value):
    if isinstance(value, list):
        return [compared(item) for item in value]
    if isinstance(value, dict):
        return {k: compared(v) for k, v in value.items() if k not in APART}
    return value


def newest(folder, data_root):
    """Everything in the newest checkpoint: arrays, and the record."""
    settings = config.load(folder / "config.yaml")
    dataset = data.load(str(data_root), image_size=settings.data.image_size)
    setup = build_setup(settings, dataset)
    like = {"state": setup.state, "metrics": setup.init_metrics()}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.left_out == []
        step = checkpoints.steps[0]
        record = compared(checkpoints.record(step))
        return jax.tree.map(np.asarray, checkpoints.load(step, like)), record


def assert_same_run(folder, other, data_root):
    """Compares metrics, result, predictions and all that the checkpoint holds."""
    assert compared(rows(folder)) == compared(rows(other))
    for name in ("rows", "labels", "margins", "rivals"):
        mine, theirs = (
            np.load(each / "dynamics" / f"{name}.npy") for each in (folder, other)
        )
        np.testing.assert_array_equal(mine, theirs)
    results = [
        json.loads((each / "result.json").read_text()) for each in (folder, other)
    ]
    assert compared(results[0]) == compared(results[1])
    names = sorted(path.name for path in other.glob("predictions_*.npz"))
    assert names == sorted(path.name for path in folder.glob("predictions_*.npz"))
    for name in names:
        with np.load(folder / name) as ours, np.load(other / name) as theirs:
            for key in theirs.files:
                np.testing.assert_array_equal(ours[key], theirs[key])
    (ours, record), (theirs, expected) = (newest(f, data_root) for f in (folder, other))
    assert record == expected
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
