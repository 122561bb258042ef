"""A run that starts from a trained model: the same network, and no leak unseen."""

import numpy as np
import pytest
from conftest import tiny_config

from fer_jax import data
from fer_jax.data.duplicates import hashes
from fer_jax.errors import UserError
from fer_jax.inference.export import export
from fer_jax.models import transfer
from fer_jax.pretrained import model_file
from fer_jax.training import run
from fer_jax.training.setup import build_setup


def test_a_run_starts_from_the_shipped_model(tiny_csv):
    """At 16 x 16 too, with the network that its recipe names."""
    dataset = data.load(str(tiny_csv), image_size=16)
    own = "model.arch=fernet", "model.blocks=[0,2,2]", "model.width=1.0"
    setup = build_setup(tiny_config(*own, "model.pretrained=shipped"), dataset)
    assert setup.pretrained.record["sha256"] == model_file.read().description.sha256
    assert "its head is kept; copies of its 28,709" in setup.pretrained.note
    stored = model_file.read().tensors
    for name, leaf in transfer.leaves_by_name(
        {"params": setup.state.params, "batch_stats": setup.state.batch_stats}
    ).items():
        np.testing.assert_array_equal(leaf, stored[name].astype(np.float32), name)


@pytest.mark.parametrize(
    "change, words",
    [
        ("model.width=0.5", "model.width is 0.5, .*set model.width=1.0, or"),
        ("model.blocks=null", r"set model.blocks=\[0,2,2\], or"),
        ("model.whitened_stem=true", "set model.whitened_stem=false, or"),
        ("model.arch=resnet18", "set model.arch=fernet model.blocks=.0,2,2., or"),
        ("model.pretrained=shiped", "no model shiped; did you mean shipped"),
    ],
)
def test_another_network_than_the_pretrained_is_refused(change, words, tiny_csv):
    dataset = data.load(str(tiny_csv), image_size=16)
    own = ["model.arch=fernet", "model.width=1.0", "model.pretrained=shipped"]
    if "arch" not in change:
        own.append("model.blocks=[0,2,2]")
    with pytest.raises(UserError, match=words):
        build_setup(tiny_config(*own, change), dataset)


def test_val_images_that_the_pretrained_model_saw_are_not_clean(
    tiny_csv, finished_run, tmp_path
):
    """A val image becomes a train image of the model that the run starts from."""
    export(finished_run[0], tmp_path / "m", data_root=str(tiny_csv))
    model = model_file.read(tmp_path / "m")
    dataset = data.load(str(tiny_csv), image_size=16)
    seen = hashes.of_images(dataset.splits["val"].images[:3])
    facts = {k: v for k, v in model.info.items() if k not in ("format", "sha256")}
    weights = model_file.pack(model.tensors)
    model_file.write(tmp_path / "m", weights, facts, hashes=seen, force=True)
    before = finished_run[1]["val"]["n_clean"]
    config = tiny_config(
        "training.epochs=1", "name=onwards", f"model.pretrained={tmp_path / 'm'}"
    )
    result = run.train(config, data_root=str(tiny_csv), runs_dir=tmp_path)
    assert before - 3 <= result["val"]["n_clean"] < before
    assert result["model"]["pretrained"]["name"] == str(tmp_path / "m")
