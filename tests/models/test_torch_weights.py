"""Weights from PyTorch: the same outputs, and what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conftest import tiny_config
from oracles.weights import draw
from safetensors.numpy import save_file

from fer_jax import data, models
from fer_jax.errors import UserError
from fer_jax.models import torch_weights
from fer_jax.training.setup import build_setup

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "torch.json").read_text())
FEATURES = {case["layers"]: case["features"] for case in ORACLE["pretrained"]}
INIT = jax.random.key(0, impl="rbg")


def state_dict(layers, stem=8, channels=3):
    """A network as torchvision would save it, with the weights of the oracle."""
    shapes = {}

    def add(conv, norm, inputs, outputs, size):
        shapes[f"{conv}.weight"] = (outputs, inputs, size, size)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (outputs,)

    add("conv1", "bn1", channels, stem, 7)
    inputs, wider = stem, 4 if layers == 50 else 1
    for stage, depth in enumerate((2, 2, 2, 2) if layers == 18 else (3, 4, 6, 3)):
        width = stem * 2**stage
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            sizes = [(inputs, width, 3), (width, width, 3)]
            if layers == 50:
                sizes = [(inputs, width, 1), sizes[1], (width, 4 * width, 1)]
            for number, (i, o, size) in enumerate(sizes, 1):
                add(f"{at}.conv{number}", f"{at}.bn{number}", i, o, size)
            if block == 0 and inputs != wider * width:
                names = f"{at}.downsample.0", f"{at}.downsample.1"
                add(*names, inputs, wider * width, 1)
            inputs = wider * width
    shapes |= {"fc.weight": (1000, inputs), "fc.bias": (1000,)}
    tensors = {name: draw(name, shape) for name, shape in shapes.items()}
    return tensors | {"bn1.num_batches_tracked": np.array(7)}


def tiny(layers, channels=3, **options):
    options = {"num_classes": 7, "channels": channels, "width": 0.125} | options
    return models.create(f"resnet{layers}_imagenet", INIT, models.Options(**options))


def saved(path, tensors):
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def file18(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    return saved(path, state_dict(18))


def leaves(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


@pytest.mark.parametrize("layers", [18, 50])
def test_features_are_those_of_pytorch(layers, tmp_path):
    path = saved(tmp_path / "weights.safetensors", state_dict(layers))
    # So many classes that the head can hand on what it is given.
    wanted = len(FEATURES[layers][0])
    network, params, batch_stats = tiny(layers, num_classes=wanted)
    params, batch_stats = torch_weights.load(
        path, f"resnet{layers}_imagenet", params, batch_stats
    )
    linear = params["head"]["linear"]
    hand_on = jnp.eye(*linear["kernel"].shape)
    head = {"linear": {"kernel": hand_on, "bias": jnp.zeros(wanted)}}
    images = np.moveaxis(draw("images", (2, 3, 40, 40)) * 4.0, 1, -1)
    found = jax.jit(network.evaluate)(params | {"head": head}, batch_stats, images)
    np.testing.assert_allclose(found, FEATURES[layers], atol=1e-4, rtol=1e-4)


def test_every_array_but_the_head_comes_from_the_file(file18):
    _, *before = tiny(18)
    after = torch_weights.load(file18, "resnet18_imagenet", *before)
    assert jax.tree.map(jnp.shape, tuple(before)) == jax.tree.map(jnp.shape, after)
    before = leaves(tuple(before))
    for name, leaf in leaves(after).items():
        assert leaf.dtype == np.float32
        assert (leaf == before[name]).all() == ("head" in name)


def test_of_grey_the_first_kernel_is_the_sum_over_colour(file18):
    _, *grey = tiny(18, channels=1)
    params, _ = torch_weights.load(file18, "resnet18_imagenet", *grey)
    kernel = draw("conv1.weight", (8, 3, 7, 7)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        params["stem"]["kernel"], kernel.transpose(2, 3, 1, 0), rtol=1e-5, atol=1e-6
    )


def test_a_file_of_grey_weights_is_taken_as_it_is(tmp_path, file18):
    path = saved(tmp_path / "grey.safetensors", state_dict(18, channels=1))
    _, *grey = tiny(18, channels=1)
    params, _ = torch_weights.load(path, "resnet18_imagenet", *grey)
    kernel = draw("conv1.weight", (8, 1, 7, 7)).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["stem"]["kernel"], kernel)
    _, *colour = tiny(18)
    with pytest.raises(UserError, match="for the tensor conv1.weight, unlike"):
        torch_weights.load(path, "resnet18_imagenet", *colour)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_a_wrappers_prefix_is_taken_off(prefix, tmp_path, file18):
    tensors = {prefix + name: value for name, value in state_dict(18).items()}
    path = saved(tmp_path / "wrapped.safetensors", tensors)
    _, *start = tiny(18)
    both = [
        leaves(torch_weights.load(each, "resnet18_imagenet", *start))
        for each in (path, file18)
    ]
    for name, leaf in both[0].items():
        np.testing.assert_array_equal(leaf, both[1][name])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floating_types_become_float32(dtype, tmp_path, file18):
    tensors = {
        name: value.astype(dtype) if value.dtype == np.float32 else value
        for name, value in state_dict(18).items()
    }
    path = saved(tmp_path / "narrow.safetensors", tensors)
    _, *start = tiny(18)
    params, _ = torch_weights.load(path, "resnet18_imagenet", *start)
    kernel = params["blocks"][7]["conv2"]["kernel"]
    assert kernel.dtype == jnp.float32
    expected = tensors["layer4.1.conv2.weight"].astype(np.float32)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))


def changed(**changes):
    """A state dict with some tensors replaced, or left out where None."""
    tensors = state_dict(18) | changes
    return {name: value for name, value in tensors.items() if value is not None}


NEW = np.zeros(8, np.float32)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"layer3.0.bn2.running_var": None}, "lacks the tensor layer3.0.bn2.running_v"),
        ({"conv1.weight": NEW}, r"the shape \(8,\) for the tensor conv1.weight, un"),
        ({"bn1.weight": NEW[:4]}, r"the shape \(4,\) for the tensor bn1.weight, un"),
        ({"layer1.0.se.fc.weight": NEW}, "holds the tensor layer1.0.se.fc.weight"),
        ({"bn1.bias": np.zeros(8, np.int8)}, "bn1.bias is of type I8; expected"),
        ({"conv1.weight": None, "conv1.0.weight": NEW}, "lacks the tensor conv1.weig"),
    ],
)
def test_a_file_of_another_network_is_refused_by_its_tensor(tensors, told, tmp_path):
    path = saved(tmp_path / "other.safetensors", changed(**tensors))
    _, *start = tiny(18)
    with pytest.raises(UserError, match=told) as refusal:
        torch_weights.load(path, "resnet18_imagenet", *start)
    message = str(refusal.value)
    assert str(path) in message and "\n" not in message


@pytest.mark.parametrize("layers", [18, 50])
def test_the_weights_of_another_depth_are_refused(layers, tmp_path, file18):
    path = file18 if layers == 50 else saved(tmp_path / "34.s", state_dict(34))
    _, *start = tiny(layers)
    arch = f"resnet{layers}_imagenet"
    with pytest.raises(UserError, match=f"{arch}.*file of .*resnet{layers}$"):
        torch_weights.load(path, arch, *start)


def test_files_that_are_none_or_not_whole_are_refused(tmp_path, file18):
    whole = file18.read_bytes()
    files = {
        "junk": b"no weights at all, but words",
        "empty": b"",
        "truncated": whole[:-100],
        "header": whole[:50],
        "json": (2).to_bytes(8, "little") + b"[]",
    }
    _, *start = tiny(18)
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a whole") as refusal:
            torch_weights.load(path, "resnet18_imagenet", *start)
        assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match="which is not a file; name"):
            torch_weights.load(path, "resnet18_imagenet", *start)


@pytest.mark.parametrize(
    ("arch", "advice"),
    [
        ("resnet18", "set model.arch to resnet18_imagenet, or"),
        ("resnet34", "set model.arch to resnet34_imagenet, or"),
        ("vgg", "set model.arch to one of resnet18_imagenet, resnet34_imagenet"),
    ],
)
def test_a_network_that_has_no_published_weights_is_refused(arch, advice, file18):
    with pytest.raises(UserError, match=advice):
        torch_weights.load(file18, arch, {}, {})


@pytest.mark.parametrize(
    "setting",
    [
        "width=0.125",
        "squeeze_excitation=true",
        "norm=fixed_scale",
        "norm=zero_last",
        "whitened_stem=true",
    ],
)
def test_settings_that_change_the_network_are_refused(setting, tiny_csv, file18):
    dataset = data.load(str(tiny_csv), image_size=16)
    config = tiny_config(
        "model.arch=resnet18_imagenet",
        f"model.pretrained={file18}",
        f"model.{setting}",
    )
    key = setting.split("=")[0]
    with pytest.raises(UserError, match=f"model.{key} is .*; set model.{key}="):
        build_setup(config, dataset)


def test_an_experiment_starts_from_the_file(tiny_csv, tmp_path, monkeypatch):
    saved(tmp_path / "resnet18.safetensors", state_dict(18, stem=64))
    monkeypatch.chdir(tmp_path)
    dataset = data.load(str(tiny_csv), image_size=16)
    settings = "model.arch=resnet18_imagenet", "model.pretrained=resnet18.safetensors"
    state = build_setup(tiny_config(*settings), dataset).state
    np.testing.assert_array_equal(state.params["norm"]["bias"], draw("bn1.bias", (64,)))
    np.testing.assert_array_equal(
        state.batch_stats["norm"]["var"], draw("bn1.running_var", (64,))
    )
