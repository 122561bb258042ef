"""Networks against PyTorch's, and what training and evaluation promise."""

import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.weights import draw

from fer_jax import models
from fer_jax.errors import UserError

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "torch.json").read_text())
NETWORKS = {case["arch"]: case for case in ORACLE["networks"]}
KEY = jax.random.key(0)
# XLA compiles this generator in a fraction of the time.
INIT = jax.random.key(0, impl="rbg")


@functools.cache
def compiled(dtype=jnp.float32, dropout=0.0):
    """A narrow FerNet, compiled: train, evaluate, params, batch_stats."""
    network, params, batch_stats = tiny("fernet", dropout=dropout, dtype=dtype)
    return jax.jit(network.train), jax.jit(network.evaluate), params, batch_stats


def create(arch, **options):
    """Network, params and batch_stats."""
    return models.create(arch, INIT, models.Options(**{"num_classes": 7} | options))


def tiny(arch, **options):
    """The same, an eighth as wide."""
    return create(arch, width=0.125, **options)


def pictures(batch=4, side=16):
    """Normalised images in [B, H, W, 1]; those that the oracle has seen."""
    return np.moveaxis(draw("images", (batch, 1, side, side)) * 4.0, 1, -1)


def from_torch(tree):
    """The oracle's weights in the structure of `tree`."""

    def leaf(path, like):
        *layer, name = [str(part.key) for part in path]
        names = {"kernel": "weight", "scale": "weight", "bias": "bias"}
        names |= {"layer_scale": "layer_scale"}
        names |= {"mean": "running_mean", "var": "running_var"}
        shape = like.shape
        if len(shape) == 4:  # HWIO here, OIHW there
            values = draw(
                ".".join([*layer, "weight"]), (shape[3], shape[2], *shape[:2])
            )
            return jnp.asarray(values.transpose(2, 3, 1, 0))
        values = draw(".".join([*layer, names[name]]), shape[::-1])
        return jnp.asarray(values.T)

    return jax.tree_util.tree_map_with_path(leaf, tree)


@pytest.mark.parametrize("arch", models.MODELS)
@pytest.mark.parametrize(("side", "channels"), [(16, 1), (45, 3)])
def test_every_network_takes_images_of_any_side_and_of_colour(arch, side, channels):
    # Tracing alone: compiling the large ones would take a minute.
    network, params, batch_stats = tiny(arch, channels=channels)
    images = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    logits, new_stats = jax.eval_shape(network.train, params, batch_stats, images, KEY)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, new_stats) == jax.tree.map(jnp.shape, batch_stats)
    logits = jax.eval_shape(network.evaluate, params, batch_stats, images)
    assert logits.shape == (2, 7) and logits.dtype == jnp.float32
    first, second = models.STEM
    assert params[first][second].shape[2] == channels


@pytest.mark.parametrize("arch", models.MODELS)
def test_every_network_computes_narrowly_in_bfloat16(arch):
    network, params, batch_stats = tiny(arch, dtype=jnp.bfloat16)
    # Of a size at which no mean is over unequal cells, a product in float32.
    images = jax.ShapeDtypeStruct((2, 96, 96, 1), jnp.float32)
    program = str(jax.make_jaxpr(network.evaluate)(params, batch_stats, images))
    products = re.findall(r":(\w+)\[[^]]*\] = (?:dot_general|conv_general)", program)
    # All but the last, the head's, which is in float32.
    assert set(products[:-1]) == {"bf16"} and products[-1] == "f32"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "case", ORACLE["narrow"], ids=lambda case: case["options"]["arch"]
)
def test_logits_of_a_narrow_network_are_those_of_pytorch(case):
    network, params, batch_stats = create(**case["options"])
    assert models.count_parameters(params) == case["parameters"]
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    images = pictures(4, case["side"])
    logits = jax.jit(network.evaluate)(params, batch_stats, images)
    np.testing.assert_allclose(logits, case["evaluated"], atol=2e-4)
    logits, _ = jax.jit(network.train)(params, batch_stats, images, KEY)
    np.testing.assert_allclose(logits, case["trained"], atol=2e-4)


@pytest.mark.parametrize(("arch", "flops"), ORACLE["flops"].items())
def test_flops_are_those_of_pytorch(arch, flops):
    network, *arrays = create(arch)
    # At this size the cells of the mean are equal in every network.
    side = 40 if arch == "vgg" else 48
    assert models.count_flops(network, *arrays, side, 1) == flops


def test_flops_are_counted_from_shapes_and_whatever_the_precision():
    network, params, batch_stats = create("fernet", dtype=jnp.bfloat16)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (params, batch_stats)
    )
    assert models.count_flops(network, *shapes, 48, 1) == ORACLE["flops"]["fernet"]


def test_flops_of_a_layer_norm_network_count_the_padding_and_the_groups():
    # By hand: a 7 x 7 within each of 8 channels at 8 x 8 is 2 * 49 * 8 * 64.
    network, *arrays = tiny("convnext")
    stem, halves = 4 * 8 * 64, [4 * 8 * 16 * 16, 4 * 16 * 24 * 4, 4 * 24 * 48]
    blocks = [
        depth * places * (49 * width + 8 * width * width)
        for width, depth, places in [(8, 2, 64), (16, 2, 16), (24, 6, 4), (48, 2, 1)]
    ]
    expected = 2 * (stem + sum(halves) + sum(blocks) + 48 * 7)
    assert models.count_flops(network, *arrays, 16, 1) == expected


@pytest.mark.parametrize(
    ("arch", "width", "stem", "last"),
    [
        ("fernet", 2.0, 64, 9 * 384),
        ("fernet", 0.3, 8, 9 * 56),  # of 9.6 and 57.6
        ("resnet18", 0.3, 16, 152),  # of 19.2 and 153.6
        ("resnet50_imagenet", 0.25, 16, 4 * 128),
        ("wide_resnet", 0.125, 8, 64),  # of 2 and 64
        ("vgg", 0.125, 8, 512),
        ("convnext", 0.125, 8, 48),  # of 6 and 48
    ],
)
def test_width_multiplies_the_hidden_channels_in_eights(arch, width, stem, last):
    _, params, _ = create(arch, width=width)
    assert params["stem"]["kernel"].shape[3] == stem
    assert params["head"]["linear"]["kernel"].shape == (last, 7)


def test_blocks_are_counted_at_each_resolution():
    _, params, _ = create("fernet", blocks=(1, 1, 2))
    kernels = [block["conv1"]["kernel"].shape for block in params["blocks"].values()]
    widths = [(32, 32), (32, 96), (96, 192), (192, 192)]
    assert kernels == [(3, 3, *each) for each in widths]
    halving = ["project" in block for block in params["blocks"].values()]
    assert halving == [False, True, True, False]


@pytest.mark.parametrize(("features", "hidden"), [(192, 12), (96, 8), (32, 8)])
def test_squeeze_excitation_has_a_sixteenth_and_at_least_eight(features, hidden):
    _, params, _ = create("fernet", squeeze_excitation=True, blocks=(1, 1, 1))
    found = {
        block["excite"]["squeeze"]["kernel"].shape
        for block in params["blocks"].values()
    }
    assert (features, hidden) in found


@pytest.mark.parametrize("arch", ["fernet", "resnet50_imagenet"])
def test_zero_last_makes_each_block_its_shortcut_at_first(arch):
    plain, zero = (tiny(arch, norm=norm)[1] for norm in ("plain", "zero_last"))
    last = "norm3" if arch == "resnet50_imagenet" else "norm2"
    for block in zero["blocks"].values():
        assert (block[last]["scale"] == 0).all()
        assert (block["norm1"]["scale"] == 1).all()
        block[last] = block[last] | {"scale": jnp.ones_like(block[last]["scale"])}
    # Nothing else differs.
    jax.tree.map(np.testing.assert_array_equal, zero, plain)


def test_zero_last_leaves_a_gradient_to_the_branches():
    network, params, batch_stats = tiny("fernet", norm="zero_last")

    def loss(params):
        logits, _ = network.train(params, batch_stats, pictures(4), KEY)
        return (logits**2).sum()

    grads = jax.jit(jax.grad(loss))(params)
    for block in grads["blocks"].values():
        assert (block["norm2"]["scale"] != 0).any()
        assert not block["conv1"]["kernel"].any()  # not before the scale has moved


@pytest.mark.parametrize("arch", ["fernet", "wide_resnet", "vgg"])
def test_fixed_scale_is_the_plain_network_with_scales_that_are_not_trained(arch):
    plain, fixed = (tiny(arch, norm=norm) for norm in ("plain", "fixed_scale"))

    def names(params):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path) for path, _ in leaves}

    missing = names(plain[1]) - names(fixed[1])
    assert missing and all(name.endswith("['scale']") for name in missing)
    assert not any(name.endswith("['scale']") for name in names(fixed[1]))
    assert names(fixed[1]) < names(plain[1])
    assert names(fixed[2]) == names(plain[2])


def test_fixed_scales_are_one():
    network, params, batch_stats = tiny("fernet", norm="fixed_scale")
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    plain_network, plain, _ = tiny("fernet")

    def fill(ones, fixed):
        if not isinstance(ones, dict):
            return jnp.ones_like(ones) if fixed is None else fixed
        return {key: fill(ones[key], (fixed or {}).get(key)) for key in ones}

    found = jax.jit(network.evaluate)(params, batch_stats, pictures(2))
    expected = jax.jit(plain_network.evaluate)(
        fill(plain, params), batch_stats, pictures(2)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "options", "key", "choices"),
    [
        ("vgg", {"squeeze_excitation": True}, "squeeze_excitation", "wide_resnet"),
        ("resnet18", {"blocks": (2, 2, 2)}, "blocks", "fernet"),
        ("fernet", {"blocks": (1, 1)}, "blocks", "3 numbers"),
        ("fernet", {"blocks": (1, 0, 1)}, "blocks", "3 numbers"),
        ("convnext", {"squeeze_excitation": True}, "squeeze_excitation", "fernet"),
        ("vgg", {"norm": "zero_last"}, "norm", "plain, fixed_scale"),
        ("wide_resnet", {"norm": "zero_last"}, "norm", "plain, fixed_scale"),
        ("convnext", {"norm": "fixed_scale"}, "norm", "plain, or model.arch to fernet"),
        ("fernet", {"norm": "zero_first"}, "norm", "plain, zero_last, fixed_scale"),
    ],
)
def test_an_option_that_a_network_lacks_is_refused(arch, options, key, choices):
    with pytest.raises(UserError) as refusal:
        create(arch, **options)
    message = str(refusal.value)
    assert message.startswith(f"model.{key} is ") and "\n" not in message
    assert arch in message and choices in message


@pytest.mark.parametrize(
    "arch", ["fernet", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_logits_and_running_statistics_are_those_of_pytorch(arch):
    network, params, batch_stats = create(arch)
    train, evaluate = jax.jit(network.train), jax.jit(network.evaluate)
    case = NETWORKS[arch]
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    images = pictures(4)
    logits, new_stats = train(params, batch_stats, images, KEY)
    np.testing.assert_allclose(logits, case["trained"], atol=2e-4)
    np.testing.assert_allclose(
        evaluate(params, batch_stats, images), case["evaluated"], atol=2e-4
    )
    np.testing.assert_allclose(
        new_stats["norm"]["mean"], case["stem_mean"], rtol=1e-4, atol=1e-5
    )
    # PyTorch divides the variance by n - 1, Flax by n.
    old, n = batch_stats["norm"]["var"], case["stem_count"]
    expected = 0.9 * old + (np.array(case["stem_var"]) - 0.9 * old) * (n - 1) / n
    np.testing.assert_allclose(new_stats["norm"]["var"], expected, rtol=1e-4)


@pytest.mark.parametrize(("arch", "depths"), [("resnet18", 8), ("resnet34", 16)])
def test_parameter_counts_are_those_of_torchvision(arch, depths):
    # torchvision's with 1,000 classes and a 7 x 7 stem for three channels.
    published = {"resnet18": 11_689_512, "resnet34": 21_797_672}[arch]
    stem, last = 3 * 7 * 7 * 64, 512 * 1000 + 1000
    expected = published - stem - last + 3 * 3 * 64 + 512 * 7 + 7
    _, params, _ = create(arch)
    assert models.count_parameters(params) == expected
    assert len(params["blocks"]) == depths


def test_fernet_has_the_parameters_of_its_description():
    stem = 5 * 5 * 32 + 2 * 32
    blocks = sum(
        9 * i * o + 9 * o * o + 4 * o + (i * o if i != o else 0)
        for i, o in [(32, 96), (96, 96), (96, 192)]
    )
    _, params, _ = create("fernet")
    assert models.count_parameters(params) == stem + blocks + 9 * 192 * 7 + 7


def test_evaluation_of_an_image_does_not_depend_on_its_batch():
    _, evaluate, params, batch_stats = compiled()
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    images = pictures(4)
    company = np.concatenate([images[:1], 5 * images[1:][::-1] + 3])
    first = evaluate(params, batch_stats, images)[0]
    np.testing.assert_allclose(
        evaluate(params, batch_stats, company)[0], first, atol=1e-5
    )


def test_training_of_an_image_does_depend_on_its_batch():
    # Batch norm uses the batch, or the test above would say nothing.
    train, _, params, batch_stats = compiled()
    params = from_torch(params)
    images = pictures(4)
    company = np.concatenate([images[:1], 5 * images[1:][::-1] + 3])
    first = train(params, batch_stats, images, KEY)[0][0]
    assert np.abs(train(params, batch_stats, company, KEY)[0][0] - first).max() > 0.01


def test_dropout_follows_its_key_and_is_off_in_evaluation():
    train, evaluate, params, batch_stats = compiled(dropout=0.5)
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    images = pictures(4)

    def logits(seed):
        return np.array(train(params, batch_stats, images, jax.random.key(seed))[0])

    np.testing.assert_array_equal(logits(1), logits(1))
    assert np.abs(logits(1) - logits(2)).max() > 0.01
    # In evaluation it is the program of a network without dropout.
    programs = {
        each.lower(params, batch_stats, images).as_text()
        for each in (evaluate, compiled()[1])
    }
    assert len(programs) == 1


def test_dropout_keeps_the_mean():
    train, _, params, batch_stats = compiled(dropout=0.5)
    params, batch_stats = from_torch(params), from_torch(batch_stats)
    images = pictures(4)
    draws = np.stack(
        [
            train(params, batch_stats, images, jax.random.key(seed))[0]
            for seed in range(300)
        ]
    )
    whole = compiled()[0](params, batch_stats, images, KEY)[0]
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - whole) < 4.5 * error).all()


def test_initial_logits_are_small_and_kernels_depend_on_the_key():
    _, evaluate, params, batch_stats = compiled()
    assert np.abs(evaluate(params, batch_stats, pictures())).max() < 5
    key = jax.random.key(1, impl="rbg")
    _, other, _ = models.create("fernet", key, models.Options(7, width=0.125))
    kernels = [
        (one, two)
        for one, two in zip(
            jax.tree.leaves(params), jax.tree.leaves(other), strict=True
        )
        if one.ndim > 1
    ]
    assert len(kernels) == 10  # stem, two a block, two projections, linear
    for one, two in kernels:
        assert one.std() > 0 and (one != two).mean() > 0.99


def test_batch_stats_start_neutral_and_training_changes_all_of_them():
    train, _, params, batch_stats = compiled()
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch_stats):
        assert (leaf == (1.0 if path[-1].key == "var" else 0.0)).all()
    new_stats = train(from_torch(params), batch_stats, pictures(4), KEY)[1]
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), batch_stats, new_stats)
    assert all(jax.tree.leaves(changed))


def test_bfloat16_computes_narrowly_and_keeps_float32_parameters():
    train, evaluate, params, batch_stats = compiled(jnp.bfloat16)
    reference = from_torch(params), from_torch(batch_stats)
    outputs = jax.eval_shape(train, *reference, pictures(4), KEY)
    trees = (params, batch_stats, outputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(trees)} == {jnp.dtype("float32")}
    wide = compiled()[1](*reference, pictures(4))
    narrow = evaluate(*reference, pictures(4))
    difference = np.abs(wide - narrow).max()
    assert 1e-5 < difference < 0.1  # not float32 in disguise, and not nonsense


@pytest.mark.parametrize("arch", ["resnet19", "", "FerNet"])
def test_an_unknown_network_is_refused_with_the_choices(arch):
    with pytest.raises(UserError) as refusal:
        create(arch)
    message = str(refusal.value)
    assert message.startswith(f"model.arch is {arch!r}") and "\n" not in message
    assert all(name in message for name in ("fernet", "resnet18", "resnet34"))
