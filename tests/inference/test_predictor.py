"""The exported model: the run's own numbers, one sentence for what is wrong."""

import copy
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, environment
from PIL import Image
from reading import read
from scipy.special import softmax

import fer_jax
from fer_jax import data, models
from fer_jax.compare.calibration import fit_temperature
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.inference import from_run, predictor
from fer_jax.inference.export import export
from fer_jax.models import transfer
from fer_jax.pretrained import model_file
from fer_jax.training.augment_ops import normalise
from fer_jax.training.evaluate import tta_views

SIDE = 16
SIZES = ((16, 16), (31, 57), (90, 40), (7, 5), (200, 200), (1, 1), (3, 80))


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    told = export(finished_run[0], folder, seed_note="the only one")
    assert "written" in told and "0.01 MB" in told
    return folder


# The grey network is tiny; the colour one uses every option and sees crops.
SHAPES = {
    1: {"arch": "tiny", "width": 1.0, "blocks": None}
    | {"squeeze_excitation": False, "norm": "plain"},
    3: {"arch": "fernet", "width": 0.5, "blocks": [1, 1, 1]}
    | {"squeeze_excitation": True, "norm": "fixed_scale"},
}
SEEN = {
    1: {"crop_size": 0, "views": "none"},
    3: {"crop_size": 14, "views": "ten_crop"},
}


def invented(channels):
    """A network whose random weights tell images apart, and what it is described by."""
    shape = dict(SHAPES[channels])
    network, params, stats = models.create(
        shape.pop("arch"),
        jax.random.key(channels),
        models.Options(num_classes=7, channels=channels, **shape),
    )
    rng = np.random.default_rng(channels)

    def draw(leaf):
        width = np.prod(leaf.shape[:-1]) / 2 if leaf.ndim > 1 else 100
        noise = rng.normal(size=leaf.shape) / np.sqrt(width)
        return jnp.float32(noise if leaf.ndim > 1 else leaf + noise)

    params = jax.tree.map(draw, params)
    params["head"]["linear"]["kernel"] *= 8.0
    info = {
        "labels": EMOTIONS,
        "network": SHAPES[channels],
        "preprocessing": {
            "image_size": SIDE,
            "channels": channels,
            **SEEN[channels],
        },
    }
    return network, {"params": params, "batch_stats": stats}, info


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of an invented grey and an invented colour model."""
    made = {}
    for channels in (1, 3):
        _, tree, info = invented(channels)
        made[channels] = tmp_path_factory.mktemp("invented")
        weights = model_file.pack(transfer.leaves_by_name(tree))
        assert model_file.write(made[channels], weights, info)
    return made


@pytest.fixture(scope="module")
def loaded(folders):
    return {key: fer_jax.load_pretrained(folder) for key, folder in folders.items()}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def test_probabilities_are_those_of_the_run(exported, finished_run, tiny_csv):
    folder, result = finished_run
    model = fer_jax.load_pretrained(exported)
    images = data.load(str(tiny_csv), image_size=16).splits["val"].images
    with np.load(folder / "predictions_val.npz", allow_pickle=False) as file:
        logits, labels = file["logits"], file["labels"]
    told = model.info["calibration"]
    expected = softmax(logits / told["temperature"], axis=1)
    assert told["temperature"] == pytest.approx(fit_temperature(logits, labels))
    found = model.predict(images[..., 0])
    # Of a run this short the images differ by little: a wrong one would be seen.
    spread = expected.std(axis=0).max()
    error = np.abs(found - expected)
    assert error.max() < 5e-3 and error.mean() < spread / 20
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    assert model.labels == tuple(result["data"]["class_names"]) == EMOTIONS
    assert found.dtype == np.float32 and found.shape == (128, 7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_numbers_are_the_network_s(loaded, channels):
    network, tree, _ = invented(channels)
    shape = (4, SIDE, SIDE, channels)
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    evaluate = jax.jit(network.evaluate)
    views = tta_views(
        normalise(jnp.asarray(images)),
        tta=SEEN[channels]["views"],
        crop_size=SEEN[channels]["crop_size"],
    )
    logits = [evaluate(tree["params"], tree["batch_stats"], view) for view in views]
    expected = softmax(np.asarray(logits), axis=2).mean(axis=0)
    assert expected.std(axis=0).max() > 0.05
    found = loaded[channels].predict(images)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_are_read_as_training_reads_them(
    loaded, pictures, channels, tmp_path
):
    for name in ("happy", "sad"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for n, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / "train" / name / f"{n}.png")
    images = read(tmp_path, SIDE, channels=channels).splits["train"].images
    images = images[: len(pictures)]
    assert images.shape == (len(pictures), SIDE, SIDE, channels)
    model = loaded[channels]
    found = model.predict(pictures)
    np.testing.assert_array_equal(found, model.predict(images))
    assert len(np.unique(found.round(4), axis=0)) == len(pictures)


def test_all_kinds_of_input_give_the_same(loaded, pictures):
    model = loaded[1]
    batch = np.stack([pictures[0], pictures[0][::-1]])
    expected = model.predict(batch)
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    grey = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in batch])
    for images in (
        jnp.asarray(batch),
        list(batch),
        tuple(map(jnp.asarray, batch)),
        [Image.fromarray(each) for each in batch],
        grey,
        grey[..., None],
        list(grey),
    ):
        np.testing.assert_array_equal(model.predict(images), expected)
    assert model.predict([]).shape == model.predict(grey[:0]).shape == (0, 7)


def test_batches_of_any_size_share_a_few_programs(folders, monkeypatch):
    model, shapes = fer_jax.load_pretrained(folders[1]), []
    predict_batch = model._predict

    def watched(params, batch_stats, images):
        shapes.append(len(images))
        return predict_batch(params, batch_stats, images)

    monkeypatch.setattr(model, "_predict", watched)
    # Of two threads, either may be the first.
    monkeypatch.setattr(
        predictor, "ThreadPoolExecutor", lambda _: ThreadPoolExecutor(1)
    )
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (11, SIDE, SIDE), dtype=np.uint8)
    whole = model.predict(images)
    assert shapes == [4, 4, 4]
    for count in (1, 2, 3, 4, 5):
        found = model.predict(list(images[:count]))
        np.testing.assert_allclose(found, whole[:count], atol=1e-4)
    assert shapes[3:] == [1, 2, 4, 4, 4, 1]
    monkeypatch.setattr(predictor.jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(model.predict(images), whole, atol=1e-4)
    assert shapes[9:] == [16]
    assert predict_batch._cache_size() == len(set(shapes))


def test_importing_the_package_does_not_import_jax():
    code = (
        "import sys, fer_jax; fer_jax.load_pretrained; "
        "sys.exit(bool({'jax', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment())
    assert done.returncode == 0


def test_a_model_that_does_not_ship_is_refused_with_those_that_do():
    with pytest.raises(UserError, match=r"no model shiped; did you mean shipped\?"):
        fer_jax.load_pretrained("shiped")
    with pytest.raises(UserError, match="no model nowhere; name a folder.*: shipped$"):
        fer_jax.load_pretrained("nowhere")
    assert fer_jax.load_pretrained("shipped").info == fer_jax.load_pretrained().info


def edit(**changes):
    """Changes keys of model.json; a key may be dotted with __."""

    def harm(folder):
        path = folder / model_file.MODEL
        info = json.loads(path.read_text())
        for key, value in changes.items():
            *sections, last = key.split("__")
            place = info
            for section in sections:
                place = place[section]
            place[last] = value
        path.write_text(json.dumps(info))

    return harm


def weights(change):
    """Writes the model anew with other tensors."""

    def harm(folder):
        model = model_file.read(folder)
        tensors = dict(model.tensors)
        change(tensors)
        info = {k: v for k, v in model.info.items() if k not in ("format", "sha256")}
        model_file.write(folder, model_file.pack(tensors), info, force=True)

    return harm


def raw(name, content):
    """Replaces a file's content by what `content` makes of it."""

    def harm(folder):
        path = folder / name
        path.write_bytes(content(path.read_bytes()))

    return harm


def gone(name):
    return lambda folder: (folder / name).unlink()


def pipe(name):
    def harm(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return harm


WEIGHTS, MODEL, BIAS = model_file.WEIGHTS, model_file.MODEL, "params/head/linear/bias"
TOO_LONG = struct.pack("<Q", 2**40)


@pytest.mark.parametrize(
    "harm, words",
    [
        (shutil.rmtree, "there is no model"),
        (gone(MODEL), f"{MODEL} is missing"),
        (gone(WEIGHTS), f"{WEIGHTS} is missing"),
        (pipe(MODEL), f"{MODEL} is missing or is no file"),
        (pipe(WEIGHTS), f"{WEIGHTS} is missing or is no file"),
        (raw(MODEL, lambda b: b[:100]), "cut off or is not JSON"),
        (raw(MODEL, lambda b: b"\xff\xfe\x00"), "cut off or is not JSON"),
        (raw(MODEL, lambda b: b"[" * 100_000), "cut off or is not JSON"),
        (raw(MODEL, lambda b: b"[1]"), "format None"),
        (raw(MODEL, lambda b: b + b" " * 1_000_000), "larger than 1 MB"),
        (raw(WEIGHTS, lambda b: b[:-1]), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: b[:4]), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: b""), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: TOO_LONG + b), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: b"PK" + b), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: b + bytes(1000)), "SHA-256 differs"),
        (raw(WEIGHTS, lambda b: b[:-2] + b"\0\1"), "SHA-256 differs"),
        (edit(format=2), "format 2, and this version reads format 1"),
        (edit(format="1"), "format '1'"),
        (edit(format=True), "format True"),
        (edit(labels=["happy"]), "labels: List should have at least 2"),
        (edit(labels=["sad"] * 7 + ["x"]), f"{BIAS} is float16 [7], expected"),
        (edit(network={}), "network.arch: Field required"),
        (edit(network__arch="vgg16"), "model.arch is 'vgg16'"),
        (edit(network__norm="none"), "model.norm is 'none'"),
        (edit(network__arch="resnet18"), "lacks the tensor batch_stats/blocks/0"),
        (edit(network__width=2.0), f"{WEIGHTS}: batch_stats/norm/mean is float16"),
        (edit(preprocessing__image_size=1), "preprocessing.image_size: "),
        (edit(preprocessing__channels=2), "preprocessing.channels: "),
        (edit(preprocessing__channels=3), "params/stem/kernel is float16"),
        (edit(preprocessing__views="many"), "preprocessing.views: "),
        (edit(preprocessing__crop_size=20), "crop_size is larger than image_size"),
        (weights(lambda t: t.pop(BIAS)), f"lacks the tensor {BIAS}"),
        (weights(lambda t: t.update(more=t[BIAS])), "holds the tensor more"),
        (
            weights(lambda t: t.update({BIAS: t[BIAS][:5]})),
            f"{BIAS} is float16 [5], expected float16 [7]",
        ),
    ],
)
def test_a_damaged_model_is_told_in_one_sentence(folders, tmp_path, harm, words):
    folder = tmp_path / "model"
    shutil.copytree(folders[1], folder)
    harm(folder)
    with pytest.raises(UserError) as caught:
        fer_jax.load_pretrained(folder)
    message = str(caught.value)
    assert words in message and str(folder) in message
    assert len(message) < 400


def test_the_record_tells_where_the_model_is_from(exported, finished_run):
    _, result = finished_run
    info = fer_jax.load_pretrained(exported).info
    assert info == json.loads((exported / MODEL).read_text())
    for key in ("seed", "config", "selection"):
        assert info[key] == result[key]
    assert info["scores"]["val"]["accuracy"] == result["val"]["accuracy"]
    assert "val chose the epoch" in info["scores"]["note"]
    assert info["seed_note"] == "the only one" and info["hardware"] == "cpu"
    assert info["git_commit"] == result["environment"]["git_commit"]
    assert info["data"]["fingerprint"] == result["data"]["fingerprint"]
    assert info["packages"]["jax"] == jax.__version__
    assert info["command"].startswith("python -m fer_jax.train configs/baseline.yaml")
    tensors = model_file.read(exported).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_another_model_is_replaced_only_by_force(exported, finished_run, tmp_path):
    target = tmp_path / "model"
    shutil.copytree(exported, target)
    (target / "README.md").write_text("kept")
    before = content(target)
    note = {"seed_note": "the only one"}
    assert "already there" in export(finished_run[0], target, **note)
    with pytest.raises(UserError, match="holds another model.*--force"):
        export(finished_run[0], target, seed_note="another")
    assert content(target) == before
    assert "written" in export(finished_run[0], target, seed_note="b", force=True)
    after = content(target)
    assert after.keys() == before.keys() and after["README.md"] == b"kept"
    assert after[WEIGHTS] == before[WEIGHTS] and after[MODEL] != before[MODEL]


def test_what_cannot_be_exported_is_refused(finished_run, tmp_path, monkeypatch):
    target = tmp_path / "model"

    def refused(run_dir, words):
        with pytest.raises(UserError, match=words):
            export(run_dir, target)
        assert not target.exists()

    refused(tmp_path / "nowhere", "no finished run")
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    monkeypatch.setattr(model_file, "MAX_BYTES", 1_000)
    refused(run, "weights take 0.0 MB as float16, expected at most 0 MB")
    monkeypatch.undo()
    monkeypatch.setattr(from_run, "TOLERANCE", -1.0)
    refused(run, "in float16 the model's probabilities differ")
    monkeypatch.undo()
    result = json.loads((run / "result.json").read_text())
    changed = {**result, "selection": {**result["selection"], "epoch": 77}}
    (run / "result.json").write_text(json.dumps(changed))
    refused(run, "does not hold the checkpoint of epoch 77")
    del result["environment"]
    (run / "result.json").write_text(json.dumps(result))
    refused(run, "lacks what a model's record needs")
    shutil.copy(finished_run[0] / "result.json", run / "result.json")
    for part in (run / "checkpoints").glob("*/state/d/*"):
        part.write_bytes(b"no")
    refused(run, "no undamaged checkpoint")
    shutil.rmtree(run / "checkpoints")
    refused(run, "checkpoints is missing")
    assert not (run / "checkpoints").exists()


def test_weights_that_float16_lacks_are_refused():
    with pytest.raises(UserError, match=r"a holds values up to 1e\+05"):
        model_file.pack({"a": np.float32([1.0, 1e5])})


def test_a_target_that_is_a_file_is_refused(tmp_path, folders):
    (tmp_path / "file").write_text("kept")
    model = model_file.read(folders[1])
    with pytest.raises(UserError, match="cannot be written"):
        model_file.write(tmp_path / "file", model_file.pack(model.tensors), {})
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "name, words", [("predict", "Find the faces"), ("export", "--to")]
)
def test_the_launchers_start(name, words):
    done = subprocess.run(
        [ROOT / "bin" / name, "--help"],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0 and words in " ".join(done.stdout.split())


def test_a_predictor_is_copied_pickled_and_used_in_threads(drawn):
    model = fer_jax.load_pretrained()
    faces = np.asarray(drawn["val"].images)[:4, :, :, 0]
    expected = model.predict(faces)
    copies = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda each: each.predict(faces), copies * 3):
            np.testing.assert_array_equal(found, expected)
    start = "Predictor(fernet, 1,474,471 parameters, 48 x 48 grey"
    assert repr(model).startswith(start)
