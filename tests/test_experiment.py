import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config

from fer_jax import data, experiment
from fer_jax.errors import UserError
from fer_jax.train_step import zero_sums

OFF = (
    "augmentation.horizontal_flip=false",
    "augmentation.rotation=0",
    "augmentation.shift=0",
    "augmentation.scale=0",
    "augmentation.random_erasing=0",
    "augmentation.mixup_alpha=0",
)


def augmented(*overrides):
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 1))
    labels = jnp.eye(8)
    apply = experiment.make_augment(tiny_config(*OFF, *overrides).augmentation)
    return (images, labels), apply(jax.random.key(0), images, labels)


def test_all_augmentations_off_change_nothing():
    before, after = augmented()
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize(
    ("switch", "labels_change"),
    [
        ("augmentation.horizontal_flip=true", False),
        ("augmentation.rotation=10", False),
        ("augmentation.shift=0.1", False),
        ("augmentation.scale=0.1", False),
        ("augmentation.random_erasing=1", False),
        ("augmentation.mixup_alpha=1", True),
    ],
)
def test_each_augmentation_is_switched_by_its_own_key(switch, labels_change):
    before, after = augmented(switch)
    assert (before[0] != after[0]).any()
    assert bool((before[1] != after[1]).any()) == labels_change
    np.testing.assert_allclose(after[1].sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")],
)
def test_precision_decides_what_convolutions_compute_in(precision, dtype, tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    parts = experiment.build(tiny_config(f"training.precision={precision}"), dataset)
    assert parts.compute_dtype == dtype
    state, images = parts.state, dataset.splits["val"].images[:4]
    program = parts.predict.lower(
        state.params, state.batch_stats, images, jnp.arange(4)
    ).as_text()
    assert ("bf16" in program) == (dtype == "bfloat16")


def test_a_batch_larger_than_the_data_is_refused(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    with pytest.raises(UserError, match="training.batch_size is 129"):
        experiment.build(tiny_config("training.batch_size=129"), dataset)


def test_seeds_share_one_compiled_step(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    programs = set()
    for seed in (1, 2):
        parts = experiment.build(tiny_config(f"training.seed={seed}"), dataset)
        arrays = (parts.images["train"], parts.labels, np.zeros((1, 32), np.int32))
        step = parts.train_step
        sums = zero_sums(len(parts.labels))
        lowered = step.func.lower(*step.args, parts.state, sums, *arrays)
        programs.add(lowered.as_text())
    assert len(programs) == 1
