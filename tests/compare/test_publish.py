"""Small copies of runs, which compare as the runs do."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from fake_runs import make_config, make_labels, make_result, write
from printed import command_text

from fer_jax.compare import main
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")


def publish(folder, target, *options):
    return main(["--runs_dir", str(folder), "--publish", str(target), *options])


def test_copies_compare_as_the_runs_do(tmp_path, capsys):
    for name, skill in {"baseline": 0.5, "b": 0.6}.items():
        for seed in (1, 2):
            write(tmp_path / "runs", make_result(name, seed, skill=skill))
    publish(tmp_path / "runs", tmp_path / "copies")
    assert "written: 4 runs below" in capsys.readouterr().out
    for split in ("val", "test"):
        texts = [
            command_text(capsys, tmp_path / folder, "--split", split)
            for folder in ("runs", "copies")
        ]
        assert texts[0] == texts[1]


def test_a_copy_names_no_folder_of_its_author(tmp_path):
    config = make_config()
    config["model"]["pretrained"] = "/home/ann/resnet18.pth"
    result = make_result("baseline", 1, config=config)
    result["config_path"] = "/home/ann/configs/baseline.yaml"
    result["overrides"] = ["model.pretrained=/home/ann/resnet18.pth", "data.labels=x"]
    folder = write(tmp_path / "runs", result)
    (folder / "heartbeat.json").write_text('{"host": "ann"}')
    publish(tmp_path / "runs", tmp_path / "copies")
    copy = tmp_path / "copies" / "baseline" / "seed_1"
    assert not any(b"ann" in path.read_bytes() for path in copy.iterdir())
    copied = json.loads((copy / "result.json").read_text())
    assert copied["overrides"] == ["model.pretrained=resnet18.pth", "data.labels=x"]
    assert copied["config_path"] == "baseline.yaml"


def test_rounding_changes_no_predicted_class(tmp_path):
    labels = make_labels()
    result = make_result("baseline", 1, labels=labels, chosen=labels)
    for arrays in result["arrays"].values():  # a lead that float16 cannot express
        lead = arrays["logits"] > 0
        arrays["logits"] = np.where(lead, 7.0001, 7).astype(np.float32)
    folder = write(tmp_path / "runs", result)
    publish(tmp_path / "runs", tmp_path / "copies")
    copy = tmp_path / "copies" / "baseline" / "seed_1"
    for split in ("val", "test"):
        name = f"predictions_{split}.npz"
        with np.load(folder / name) as old, np.load(copy / name) as new:
            assert new["logits"].dtype == np.float16
            np.testing.assert_array_equal(new["logits"].argmax(1), labels)
            np.testing.assert_allclose(new["logits"], old["logits"], atol=5e-3)
            for key in set(old) - {"logits"}:
                np.testing.assert_array_equal(new[key], old[key])


def test_another_run_is_not_replaced(tmp_path):
    write(tmp_path / "runs", make_result("baseline", 1))
    publish(tmp_path / "runs", tmp_path / "copies")
    publish(tmp_path / "runs", tmp_path / "copies")  # the same again
    write(tmp_path / "others", make_result("baseline", 1, skill=0.9))
    copy = tmp_path / "copies" / "baseline" / "seed_1" / "result.json"
    before = copy.read_bytes()
    with pytest.raises(UserError, match="holds another run"):
        publish(tmp_path / "others", tmp_path / "copies")
    with pytest.raises(UserError, match="the folder of the runs themselves"):
        publish(tmp_path / "copies", tmp_path / "copies")
    assert copy.read_bytes() == before


def test_the_published_runs_compare_and_name_no_folder(capsys):
    text = command_text(capsys, ROOT / "results/fer2013")
    assert "data: fer2013.csv.xz, fingerprint df55e55318e200a0" in text
    for path in (ROOT / "results").rglob("*.json"):
        strings = re.findall(r'"((?:[^"\\]|\\.)*)"', path.read_text())
        assert [each for each in strings if each.startswith(("/", "~"))] == []
