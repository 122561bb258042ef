"""Models for other programs: the same probabilities, for any number of images."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import FER2013, ROOT, environment
from PIL import Image

import fer_jax
from fer_jax import models
from fer_jax.errors import UserError
from fer_jax.inference import export as export_lib
from fer_jax.inference.export import export
from fer_jax.inference.model_card import model_card, wilson
from fer_jax.inference.portable import as_function, symbolic_input
from fer_jax.inference.predictor import Predictor
from fer_jax.models.transfer import leaves_by_name
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import Description, ModelFile

onnx = pytest.importorskip("onnx", reason="needs the extra 'onnx'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")


def invented(arch, channels=1, crop_size=0, views="flip", **shape):
    """A model with random weights, none of which is at its start."""
    shape = {
        "width": 0.125,
        "blocks": None,
        "squeeze_excitation": False,
        "norm": "plain",
    } | shape
    options = models.Options(num_classes=7, channels=channels, **shape)
    _, params, stats = models.create(arch, jax.random.key(0), options)
    rng = np.random.default_rng(0)
    tensors = {
        name: (np.asarray(leaf) + rng.uniform(0.01, 0.1, leaf.shape)).astype(np.float16)
        for name, leaf in leaves_by_name(
            {"params": params, "batch_stats": stats}
        ).items()
    }
    info = {
        "labels": [*"abcdefg"],
        "network": {"arch": arch, **shape},
        "preprocessing": {
            "image_size": 32,
            "channels": channels,
            "crop_size": crop_size,
            "views": views,
        },
        "calibration": {"temperature": 0.7},
        "sha256": "",
    }
    return ModelFile(Path(), info, Description.model_validate(info), tensors)


def pixels(model, count):
    shape = model.description.preprocessing
    size = (count, 32, 32) + ((3,) if shape.channels == 3 else ())
    return np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)


CASES = {
    "fernet": {"squeeze_excitation": True, "width": 0.25},
    "resnet18": {"norm": "fixed_scale", "views": "none"},
    "resnet18_imagenet": {"channels": 3},
    "wide_resnet": {"crop_size": 28, "views": "ten_crop"},
    "vgg": {"views": "none"},
    "convnext": {"channels": 3, "views": "none"},
}


@pytest.mark.parametrize("arch", CASES)
def test_onnx_gives_the_same_for_any_batch(arch):
    from fer_jax.inference.onnx_graph import to_onnx
    from fer_jax.inference.portable import input_shape

    model = invented(arch, **CASES[arch])
    made = to_onnx(as_function(model), input_shape(model), np.uint8)
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString())
    for count in (1, 3):
        images = pixels(model, count)
        expected = np.asarray(Predictor(model).predict(list(images)))
        (found,) = session.run(None, {"images": images})
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("arch", ["fernet", "vgg", "convnext"])
def test_stablehlo_lowers_for_any_batch_on_cpu_and_cuda(arch):
    model = invented(arch, **CASES[arch])
    made = jax.export.export(jax.jit(as_function(model)), platforms=("cpu", "cuda"))(
        symbolic_input(model)
    )
    images = pixels(model, 3)
    expected = np.asarray(Predictor(model).predict(list(images)))
    np.testing.assert_allclose(made.call(images), expected, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The shipped model in all forms."""
    root = tmp_path_factory.mktemp("exported")
    for form in export_lib.FORMATS:
        assert "written" in export("shipped", root / form, form=form)
    return root


def run(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_the_python_in_the_card_runs_as_printed(form, exported):
    folder = exported / form
    picture = Image.open(ROOT / "docs/images/astronaut.jpg").crop((170, 60, 280, 170))
    picture.save(folder / "face.jpg")
    card = (folder / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    out = run(code + "\nprint(int(np.asarray(p)[0].argmax()))", folder)
    assert out.split()[-1] == str(fer_jax.load_pretrained().labels.index("happy"))
    assert ("happy" in out) == (form == "onnx")  # StableHLO has no place for labels
    told = (
        "69.7 [68.1, 71.1]",
        "research and teaching",
        "fer2013.csv.xz",
        "laptop/seed_43",
    )
    for words in told:
        assert words in " ".join(card.split())


def test_onnx_describes_itself(exported):
    made = onnx.load(exported / "onnx" / "model.onnx")
    facts = {each.key: each.value for each in made.metadata_props}
    assert facts["labels"].split(",") == list(fer_jax.load_pretrained().labels)
    assert facts["image_size"] == "48" and "Apache" in facts["licence"]
    assert (exported / "onnx" / "model.onnx").stat().st_size < 6_500_000


def test_a_copy_of_a_model_is_the_model(exported):
    found = model_file.read(exported / "safetensors")
    assert found.info == model_file.read().info
    assert len(found.train_hashes) == 28_709
    assert "load_pretrained" in (exported / "safetensors" / "README.md").read_text()


def test_another_file_is_replaced_only_by_force(exported, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    with pytest.raises(UserError, match="is another model; .*--force"):
        export("shipped", tmp_path, form="onnx")
    assert path.read_text() == "mine"
    export("shipped", tmp_path, form="onnx", force=True)
    assert path.read_bytes() == (exported / "onnx" / "model.onnx").read_bytes()
    assert "already there" in export("shipped", tmp_path, form="onnx")


def test_what_cannot_be_exported_so_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--data_root is of a run, and shipped is a"):
        export("shipped", tmp_path / "m", data_root="x.csv")
    with pytest.raises(UserError, match="no finished run .* and no model"):
        export("nowhere", tmp_path / "m", form="onnx")
    monkeypatch.setattr(export_lib, "ONNX_TOLERANCE", -1.0)
    with pytest.raises(UserError, match="onnxruntime's probabilities differ"):
        export("shipped", tmp_path / "m", form="onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'fer_jax\[onnx\]'"):
        export("shipped", tmp_path / "m", form="onnx")
    assert not (tmp_path / "m").exists()


def test_an_operation_without_translation_is_named():
    from fer_jax.inference.onnx_graph import to_onnx

    with pytest.raises(NotImplementedError, match="cumsum has no translation"):
        to_onnx(lambda x: x.astype(np.float32).cumsum(axis=1), (4,), np.uint8)


def test_a_card_has_no_score_of_no_image():
    val = {"n": 40, "accuracy": 0.5, "macro_f1": 0.4}
    clean = {"n_clean": 0, "accuracy_clean": None, "macro_f1_clean": None}
    model = invented("fernet")
    card = model_card(
        {"scores": {"val": val | clean}}, model.description, "safetensors"
    )
    assert "| val | 40 | 50.0 [35.2, 64.8] | 40.0 |" in card
    assert "val, clean" not in card


def test_wilsons_interval_is_statsmodels():
    from statsmodels.stats.proportion import proportion_confint

    for hits, n in ((1, 10), (60, 100), (2409, 3589)):
        expected = proportion_confint(hits, n, method="wilson")
        assert wilson(hits / n, n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not FER2013.exists(), reason="needs FER2013: name it FER2013_CSV")
def test_all_of_publictest_is_the_same_in_onnx(exported, publictest):
    images, _, expected = publictest
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx")
    found = np.concatenate(
        [session.run(None, {"images": part})[0] for part in np.array_split(images, 30)]
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
