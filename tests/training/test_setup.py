from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny_config

from fer_jax import data
from fer_jax.batch.plan import PHASES
from fer_jax.config import load
from fer_jax.errors import UserError
from fer_jax.models.whitening import whitened
from fer_jax.training import augment_ops
from fer_jax.training.augment import make_augment
from fer_jax.training.setup import build_setup, side_at
from fer_jax.training.step import Shown

OFF = (
    "augmentation.horizontal_flip=false",
    "augmentation.rotation=0",
    "augmentation.shift=0",
    "augmentation.scale=0",
    "augmentation.random_erasing=0",
    "augmentation.mixup_alpha=0",
)


def shown(count, step=0, seed=0):
    return Shown(jnp.arange(count), jnp.int32(step), jax.random.key(seed))


def augmented(*overrides):
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 1))
    labels = jnp.eye(8)
    apply = make_augment(tiny_config(*OFF, *overrides), 10)
    return (images, labels), apply(jax.random.key(0), images, labels, shown(8))


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
        ("augmentation.horizontal_flip=alternating", False),
        ("augmentation.brightness=0.2", False),
        ("augmentation.contrast=0.2", False),
        ("augmentation.randaugment=3", False),
        ("augmentation.random_erasing=1", False),
        ("augmentation.cutout=0.5", False),
        ("augmentation.mixup_alpha=1", True),
        ("augmentation.cutmix_alpha=1", True),
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
    parts = build_setup(tiny_config(f"training.precision={precision}"), dataset)
    assert parts.compute_dtype == dtype
    state, images = parts.state, dataset.splits["val"].images[:4]
    program = parts.predict.lower(
        state.params, state.batch_stats, images, jnp.arange(4)
    ).as_text()
    assert ("bf16" in program) == (dtype == "bfloat16")


def colour_step(arch, side, batch, *overrides):
    """A step with the shipped loss, and what it takes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (14, side, side, 1), dtype=np.uint8)
    labels = np.arange(14, dtype=np.int32) % 7
    images = np.concatenate([images, 255 - images, images // 2], axis=3)
    split = data.Split(images, labels, np.arange(len(labels), dtype=np.int32))
    names = tuple("abcdefg")
    dataset = data.Dataset(
        "made", "noise", "0" * 16, names, {"train": split, "val": split}, {}, ()
    )
    settings = (f"data.image_size={side}", "data.channels=3", f"model.arch={arch}")
    config = tiny_config(*settings, f"training.batch_size={batch}", *overrides)
    parts = build_setup(config, dataset)
    indices = jnp.arange(batch)[None]
    arrays = (parts.images["train"], parts.labels), indices
    return parts.train_step, (parts.state, parts.init_metrics(), *arrays)


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("fernet", 224),
        pytest.param("resnet18", 100, marks=pytest.mark.slow),
    ],
)
def test_a_colour_step_keeps_the_shapes_of_the_state(arch, side):
    # Compiling these would take a minute; tracing goes through every convolution.
    step, arguments = colour_step(arch, side, 8, *(OFF if arch != "fernet" else ()))
    state, sums = jax.eval_shape(step, *arguments)
    assert state.params["stem"]["kernel"].shape[2] == 3
    for before, after in ((arguments[0], state), (arguments[1], sums)):
        assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


def test_a_colour_step_trains_on_every_channel():
    step, arguments = colour_step("tiny", 32, 2, *OFF)
    before = np.array(arguments[0].params["stem"]["kernel"])
    state, sums = step(*arguments)
    assert int(sums.bad_step) == 0 and np.isfinite(float(sums.loss))
    # The first step of the schedule is small, but larger than rounding.
    moved = np.abs(np.array(state.params["stem"]["kernel"]) - before)
    assert (moved.max(axis=(0, 1, 3)) > 1e-8).all()


def test_a_batch_larger_than_the_data_is_refused(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    with pytest.raises(UserError, match="training.batch_size is 129"):
        build_setup(tiny_config("training.batch_size=129"), dataset)


def test_the_models_settings_reach_the_network(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    settings = ("arch=fernet", "width=0.5", "squeeze_excitation=true")
    settings += ("norm=zero_last", "blocks=[1, 1, 1]")
    parts = build_setup(tiny_config(*(f"model.{s}" for s in settings)), dataset)
    params = parts.state.params
    assert params["stem"]["kernel"].shape == (5, 5, 1, 16)
    assert params["blocks"][0]["conv2"]["kernel"].shape == (3, 3, 16, 16)
    for block in params["blocks"].values():
        assert not block["norm2"]["scale"].any() and "excite" in block


def test_flops_are_of_one_image_of_the_set(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    parts = build_setup(tiny_config("model.arch=fernet"), dataset)
    # By hand: at 8 x 8, 4 x 4 and 2 x 2.
    stem, head = 25 * 32 * 64, 9 * 192 * 7
    blocks = (9 * 32 * 96 + 3 * 9 * 96 * 96 + 32 * 96) * 16
    blocks += (9 * 96 * 192 + 9 * 192 * 192 + 96 * 192) * 4
    means = 3 * 2 * 192 * (2 + 3)  # 2 x 2 pixels to 3 x 3 cells, as products
    assert parts.flops == 2 * (stem + blocks + head + means)


@pytest.mark.parametrize("memory_limit", [0, None], ids=["streamed", "in_memory"])
def test_a_whitened_stem_is_of_the_train_images(memory_limit, tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16, memory_limit=memory_limit)
    plain, white = (
        build_setup(tiny_config(f"model.whitened_stem={switch}"), dataset)
        for switch in ("false", "true")
    )
    images = data.load(str(tiny_csv), image_size=16).splits["train"].images
    start = np.asarray(plain.state.params["stem"]["kernel"])
    expected = whitened(start, np.asarray(augment_ops.normalise(jnp.asarray(images))))
    assert (expected != start).all()  # 32 filters, of 25 pairs
    np.testing.assert_array_equal(white.state.params["stem"]["kernel"], expected)
    # Nothing else is touched.
    for name in plain.state.params.keys() - {"stem"}:
        jax.tree.map(
            np.testing.assert_array_equal,
            plain.state.params[name],
            white.state.params[name],
        )


def lowered_step(config, dataset):
    """The program of a training step, as it is given to the compiler."""
    parts = build_setup(config, dataset)
    size = parts.batch_size
    arrays = (parts.images["train"], parts.labels), np.zeros((1, size), np.int32)
    start = parts.state, parts.init_metrics()
    return parts.train_step.func.lower(
        *parts.train_step.args, *start, *arrays
    ).as_text()


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_optimizer_takes_its_numbers_as_arguments_of_the_step(
    optimizer, momentum, tiny_csv
):
    dataset = data.load(str(tiny_csv), image_size=16)
    items = f"training.optimizer={optimizer}", f"training.momentum={momentum}"
    assert "func.func" in lowered_step(tiny_config(*items), dataset)


def test_seeds_share_one_compiled_step(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    configs = (tiny_config(f"training.seed={seed}") for seed in (1, 2))
    assert len({lowered_step(config, dataset) for config in configs}) == 1


def test_the_twelve_experiments_compile_four_training_steps(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    programs = defaultdict(set)
    for name in PHASES:
        config = load(ROOT / f"configs/{name}.yaml", ["model.arch=tiny"])
        small = {"batch_size": config.training.batch_size // 8}  # of so few images
        config = config.model_copy(
            update={"training": config.training.model_copy(update=small)}
        )
        programs[lowered_step(config, dataset)].add(name)
    apart = {"batch_64"}, {"batch_256"}, {"aug_none"}
    shared = set(PHASES).difference(*apart)
    assert sorted(map(sorted, programs.values())) == sorted(
        map(sorted, (*apart, shared))
    )


def flipped(step, seed=0, count=64):
    """Which images alternating flips turn at a step, ten of which are an epoch."""
    config = tiny_config(*OFF, "augmentation.horizontal_flip=alternating")
    apply = make_augment(config, 10)
    images = jax.random.normal(jax.random.key(1), (count, 4, 4, 1))
    labels, key = jnp.eye(count), jax.random.key(step)
    found, _ = apply(key, images, labels, shown(count, step, seed))
    turned = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (turned ^ (found == images).all(axis=(1, 2, 3))).all()
    return np.array(turned)


def test_alternating_flips_show_both_sides_in_two_epochs():
    np.testing.assert_array_equal(flipped(0), flipped(9))
    np.testing.assert_array_equal(flipped(0), ~flipped(10))
    np.testing.assert_array_equal(flipped(0), flipped(20))
    assert 0.25 < flipped(0).mean() < 0.75


def test_alternating_flips_depend_on_the_seed():
    sides = np.array([flipped(0, seed) for seed in range(8)])
    # Of 64 images two independent draws agree on half, give or take four.
    agree = (sides[:, None] == sides[None]).mean(axis=2)[~np.eye(8, dtype=bool)]
    assert agree.min() > 0.25 and agree.max() < 0.75


def test_crops_have_the_size_that_is_asked_for_in_training_and_evaluation(tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=24)
    config = tiny_config(
        *("data.image_size=24", "data.crop_size=20", "evaluation.tta=ten_crop")
    )
    apply = make_augment(config, 10)
    images = jnp.zeros((4, 24, 24, 1))
    found, _ = apply(jax.random.key(0), images, jnp.eye(4), shown(4))
    assert found.shape == (4, 20, 20, 1)
    parts = build_setup(config, dataset)
    logits = jax.eval_shape(
        parts.predict, *parts.state.evaluated, parts.images["val"], jnp.arange(5)
    )
    assert logits.shape == (5, 7)


def test_images_grow_in_three_stages_the_last_at_full_size():
    def sides(*items):
        config = tiny_config("data.image_size=48", *items)
        epochs = config.training.epochs
        return [side_at(config, epoch) for epoch in range(epochs)]

    assert sides("training.epochs=7", "training.start_size=32") == [
        *(32, 32, 32, 40, 40, None, None),
    ]
    assert sides("training.epochs=3") == [None] * 3
    assert sides("training.epochs=2", "training.start_size=32") == [32, None]
    assert sides("training.epochs=3", "training.start_size=48") == [48, 48, None]
    cropped = sides("training.epochs=3", "training.start_size=30", "data.crop_size=40")
    assert cropped == [30, 35, None]
    assert sides("training.epochs=1", "training.start_size=32") == [None]
