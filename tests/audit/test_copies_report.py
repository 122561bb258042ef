import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from conftest import LEAKED, tiny_config, write_tiny_csv
from PIL import Image
from rich.console import Console

from fer_jax import data
from fer_jax.audit import cli as audit_command
from fer_jax.audit.copies_report import stored_table, summarize, summarize_stored
from fer_jax.data.duplicates import search as duplicates
from fer_jax.data.duplicates.audit import Audit, audit
from fer_jax.data.duplicates.search import Copies
from fer_jax.errors import UserError
from fer_jax.system.cache import cache_root
from fer_jax.training.attempt import Options
from fer_jax.training.run import train

NAMES = ("train", "val", "test")


def make_audit(splits, labels, exact, near=()):
    """An audit of images with given copies."""
    pairs = np.array(near, np.int32).reshape(-1, 2)
    zeros = np.zeros(len(pairs))
    copies = Copies(
        exact=np.int32(exact),
        pairs=pairs,
        correlation=zeros + 0.95,
        mirrored=zeros.astype(bool),
        scale=zeros + 1,
        shift=np.zeros((len(pairs), 2), np.int8),
    )
    count = len(exact)
    return Audit(
        class_names=("a", "b"),
        splits=NAMES,
        split=np.int8([NAMES.index(name) for name in splits]),
        labels=np.int32(labels),
        rows=np.arange(count, dtype=np.int32),
        blank=np.zeros(count, bool),
        copies=copies,
    )


# Images 0 and 3 are identical, and so are 1 and 4; 2 is nearly 3, and 5 nearly 1.
SIX = make_audit(
    splits=("train", "train", "train", "val", "val", "test"),
    labels=(0, 0, 1, 0, 1, 0),
    exact=(0, 1, 2, 0, 1, 5),
    near=((0, 2), (1, 5)),
)


def test_copies_in_a_split_count_an_image_s_group_but_not_itself():
    def places(split, near):
        return np.flatnonzero(SIX.has_copy_in(split, near=near)).tolist()

    assert places("train", near=False) == [3, 4]
    assert places("train", near=True) == [0, 2, 3, 4, 5]  # 0 and 2 are of train
    assert places("val", near=False) == [0, 1]
    assert places("val", near=True) == [0, 1, 2, 5]
    assert places("test", near=False) == []
    assert places("test", near=True) == [1, 4]


def test_conflicts_are_groups_with_several_labels():
    assert SIX.conflicts(near=False).tolist() == [-1, 1, -1, -1, 1, -1]
    # By near copies 0, 2, 3 are one group with labels 0, 1, 0, and 1, 4, 5 another.
    assert SIX.conflicts(near=True).tolist() == [0, 1, 0, 0, 1, 1]


def test_the_summary_counts_each_image_once():
    facts = summarize(SIX)
    copies = {(row["split"], row["in"]): row for row in facts["copies"]}
    assert (facts["images"], facts["distinct"]) == (6, 4)
    assert copies["val", "train"] | {"exact": 2, "near": 0} == copies["val", "train"]
    assert copies["test", "train"] | {"exact": 0, "near": 1} == copies["test", "train"]
    assert copies["train", "val"] | {"exact": 2, "near": 1} == copies["train", "val"]
    assert facts["conflicts"]["exact"] == {"groups": 1, "images": 2}
    assert facts["conflicts"]["exact or near"] == {"groups": 2, "images": 6}


def test_an_audit_is_kept_and_a_damaged_one_made_again(tiny_csv, monkeypatch):
    dataset = data.load(str(tiny_csv), image_size=16)
    first = audit(dataset)
    leaked = first.has_copy_in("train", near=False) & first.of("val")
    assert leaked.sum() == LEAKED
    calls, find = [], duplicates.find

    def counting(images):
        calls.append(len(images))
        return find(images)

    monkeypatch.setattr(duplicates, "find", counting)
    again = audit(dataset)
    assert calls == []
    np.testing.assert_array_equal(again.copies.exact, first.copies.exact)
    np.testing.assert_array_equal(again.copies.pairs, first.copies.pairs)
    (path,) = (cache_root() / "audits").glob(f"*{dataset.fingerprint}*")
    path.write_bytes(path.read_bytes()[:100])
    assert audit(dataset).copies.exact.tolist() == first.copies.exact.tolist()
    assert calls == [384]


def run(capsys, *args):
    assert audit_command.main([*map(str, args)]) == 0
    return capsys.readouterr().out


def test_the_command_prints_and_writes(tiny_csv, tmp_path, capsys):
    options = ["--data_root", tiny_csv, "--image_size", 16]
    files = {kind: tmp_path / f"x.{kind}" for kind in ("json", "csv", "html")}
    text = run(
        capsys,
        *options,
        *("--json", files["json"], "--csv", files["csv"], "--report", files["html"]),
    )
    assert "384 images, 377 distinct" in text
    assert re.search(rf"val +train +{LEAKED} +0", text)
    facts = json.loads(files["json"].read_text())
    assert facts["splits"]["train"]["classes"]["disgust"] == 8
    assert facts["stored"]["usual"] == "16 x 16 grey"
    assert set(facts["stored"]["odd"].values()) == {0}
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    assert len(rows) == LEAKED
    assert {(row["split_a"], row["split_b"], row["kind"]) for row in rows} == {
        ("train", "val", "exact")
    }
    assert all(row["label_a"] == row["label_b"] for row in rows)
    page = files["html"].read_text()
    assert page.count("<img ") == 2 * LEAKED
    assert f"Copies across splits: {LEAKED}<" in page
    assert "http" not in page


def stored_folder(root):
    """Three splits: five usual images, and one of each anomaly."""
    rng = np.random.default_rng(0)

    def save(name, mode, side, kind):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path, kind)

    for split in ("train", "val"):
        for emotion in ("happy", "sad"):
            save(f"{split}/{emotion}/usual.jpg", "RGB", 20, "JPEG")
    save("test/sad/usual.JPEG", "RGB", 20, "JPEG")
    save("train/sad/grey.jpg", "L", 20, "JPEG")
    save("train/sad/large.jpg", "RGB", 24, "JPEG")
    save("val/sad/other.png", "RGB", 20, "PNG")
    save("val/sad/liar.jpg", "LA", 20, "PNG")
    return root


STORED = {
    "train": {
        "JPEG 20 x 20 colour": 2,
        "JPEG 20 x 20 grey": 1,
        "JPEG 24 x 24 colour": 1,
    },
    "val": {
        "JPEG 20 x 20 colour": 2,
        "PNG 20 x 20 colour": 1,
        "PNG 20 x 20 grey named .jpg": 1,
    },
    "test": {"JPEG 20 x 20 colour": 1},
}


def test_images_stored_unlike_most_are_counted(tmp_path, capsys):
    root, path = stored_folder(tmp_path / "faces"), tmp_path / "x.json"
    options = ["--data_root", root, "--image_size", 16, "--json", path]
    text, again = run(capsys, *options), run(capsys, *options)
    assert json.loads(path.read_text())["stored"] == {
        "kinds": STORED,
        "usual": "JPEG 20 x 20 colour",
        "odd": {"train": 2, "val": 2, "test": 0},
        "misnamed": {"train": 0, "val": 1, "test": 0},
    }
    for shown in (text, again):  # it is kept with what was prepared
        assert "as stored" in shown
        assert re.search(r"JPEG 20 x 20 colour +2 +2 +1", shown)
        assert re.search(r"PNG 20 x 20 grey named \.jpg +0 +1 +0", shown)
        assert re.search(r"odd +2 +2 +0", shown)
        assert re.search(r"misnamed +0 +1 +0", shown)
        assert "others" not in shown
        table = [line for line in shown.splitlines() if not line.startswith("written")]
        assert max(map(len, table)) <= 80


def test_rare_kinds_are_summed_in_the_table(capsys):
    stored = {
        "train": {f"JPEG {n} x {n} grey": 100 - n for n in range(10)},
        "val": {"PNG 5 x 5 grey named .jpeg": 1, "others": 30, "others, misnamed": 4},
    }
    facts = summarize_stored(stored)
    assert facts["usual"] is None  # no kind is that of most images, so none is odd
    assert facts["odd"] == {"train": 0, "val": 0}
    assert facts["misnamed"] == {"train": 0, "val": 5}
    Console(width=80, color_system=None).print(stored_table(facts))
    text = capsys.readouterr().out
    assert re.search(rf"others +{91 + 92 + 93 + 94} +35", text)
    assert "JPEG 5 x 5 grey" in text and "JPEG 6 x 6 grey" not in text


def test_the_page_shows_colour(tmp_path, capsys):
    red = np.zeros((16, 16, 3), np.uint8)
    red[2:9, 4:11] = (200, 30, 60)
    for split in ("train", "val"):
        for name in ("happy", "sad"):
            folder = tmp_path / "faces" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(red).save(folder / "0.png")
    page = tmp_path / "x.html"
    options = ["--data_root", tmp_path / "faces", "--image_size", 16, "--channels", 3]
    run(capsys, *options, "--report", page)
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', page.read_text())[1]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        np.testing.assert_array_equal(image, red)


def test_the_splits_that_training_sets_aside_are_named(tmp_path, capsys):
    csv = write_tiny_csv(tmp_path / "a.csv", usages=("Training",))
    text = csv.read_text().replace(",Usage", "").replace(",Training", "")
    (tmp_path / "b.csv").write_text(text)
    for name, lacking in (("a", "val"), ("b", "val and no test")):
        printed = run(
            capsys, "--data_root", tmp_path / f"{name}.csv", "--image_size", 16
        )
        assert f"There is no {lacking} split: training sets images" in printed


def test_the_command_refuses_before_reading(tmp_path):
    with pytest.raises(UserError, match=r"--csv writes \.csv"):
        audit_command.main(["--csv", str(tmp_path / "x.json")])
    with pytest.raises(UserError, match="does not exist; create it first"):
        audit_command.main(["--report", str(tmp_path / "no" / "x.html")])


def test_what_was_dropped_is_named_beside_the_run_and_in_the_audit(tmp_path, capsys):
    csv = write_tiny_csv(tmp_path / "a.csv")
    lines = csv.read_text().splitlines()
    lines[3] = lines[3].replace(" ", " x", 1)
    csv.write_text("\n".join(lines))
    command = ["--data_root", str(csv), "--skip_bad", "--image_size", "16"]
    page, facts = tmp_path / "a.html", tmp_path / "a.json"
    assert (
        audit_command.main([*command, "--report", str(page), "--json", str(facts)]) == 0
    )
    told = "a.csv:4 has the pixel 'x"
    note = "note: bad rows or images were dropped: train 1"
    assert f"{note}\ndropped:\n  {told}" in capsys.readouterr().out
    assert [line[: len(told)] for line in json.loads(facts.read_text())["dropped"]] == [
        told
    ]
    body = page.read_text().partition("<h1>")[2]
    assert body.index("<ul><li>") < body.index("<h2>")
    assert note in body and told.removesuffix("'x") in body
    train(
        tiny_config("training.epochs=1"),
        data_root=str(csv),
        runs_dir=tmp_path / "runs",
        options=Options(skip_bad=True),
    )
    text = (tmp_path / "runs/baseline/seed_42/dropped.txt").read_text()
    assert text.startswith(told) and text.count("\n") == 1
