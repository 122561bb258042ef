"""bin/audit --runs: the ranking of suspicious labels on the terminal and in files."""

import csv
import io
import json

import numpy as np
import pytest
from conftest import COUNTS, write_tiny_csv
from fake_runs import make_result, write
from PIL import Image
from votes import line, tiny_lines, write_votes

from fer_jax import data
from fer_jax.audit.cli import main
from fer_jax.data import ferplus
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.runs.dynamics import open_dynamics, write_epoch

SUSPECTS = {5: 3, 60: 0, 100: 6}  # row, and the class that training would put there


@pytest.fixture
def learnt(tmp_path):
    """A csv, and a run on it that fought three of its labels."""
    csv_path = write_tiny_csv(tmp_path / "fer2013.csv")
    dataset = data.load(str(csv_path), image_size=16)
    train = dataset.splits["train"]
    told = {"fingerprint": dataset.fingerprint}
    folder = write(tmp_path / "runs", make_result("baseline", 1, data=told))
    open_dynamics(folder, train.rows, train.labels, 4)
    count = sum(COUNTS)
    for epoch in range(1, 5):
        margin = 1 + np.arange(count, dtype=np.float32) / count
        rival = np.zeros(count, np.int16)
        for n, (row, other) in enumerate(SUSPECTS.items()):
            margin[row], rival[row] = -5 - n, other
        write_epoch(folder, epoch, margin, np.ones(count, np.int32), rival)
    return csv_path, tmp_path / "runs"


def arguments(learnt, *more):
    csv_path, runs_dir = learnt
    return [
        *("--data_root", str(csv_path), "--runs", str(runs_dir)),
        *("--image_size", "16", "--no-color", *more),
    ]


def test_the_most_suspicious_come_first_in_table_csv_and_sheet(
    learnt, tmp_path, capsys
):
    files = {kind: tmp_path / f"labels.{kind}" for kind in ("csv", "json", "html")}
    more = ["--csv", str(files["csv"]), "--json", str(files["json"])]
    assert main(arguments(learnt, *more, "--report", str(files["html"]))) == 0
    shown = capsys.readouterr().out
    assert "128 of 128 train images, ranked by 1 run" in shown
    table = [line for line in shown.splitlines() if not line.startswith("written")]
    assert max(map(len, table)) <= 80
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    labels = np.repeat(np.arange(7), COUNTS)
    assert [int(row["row"]) for row in rows[:3]] == [*SUSPECTS][::-1]
    for row, (place, other) in zip(rows, [*SUSPECTS.items()][::-1], strict=False):
        assert row["label"] == EMOTIONS[labels[place]]
        assert row["suggested"] == EMOTIONS[other] and row["never_right"] == "1.00"
    assert len(rows) == 128 and rows[-1]["suggested"] == ""
    assert float(rows[0]["suspicion"]) == 1 and float(rows[-1]["suspicion"]) == 0
    assert json.loads(files["json"].read_text())["ranked"] == 128
    page = files["html"].read_text()
    assert page.count("<figure>") == 128 and "→ happy" in page
    # Nobody asked for copies, whose search takes its time.
    assert "copy" not in shown


def test_the_votes_say_how_good_the_ranking_is(learnt, tmp_path, capsys):
    lines = tiny_lines()
    for row, answer in {5: "happiness", 60: "anger", 20: "neutral"}.items():
        lines[row] = line(**{answer: 10})
    lines[100] = line(unknown=10)
    lines[101] = line(contempt=10)
    write_votes(tmp_path / ferplus.NAME, lines)
    path = tmp_path / "labels.json"
    main(arguments(learnt, "--json", str(path), "--csv", str(tmp_path / "labels.csv")))
    told = json.loads(path.read_text())["ferplus"]
    assert told["images"] == 127 and told["chance"] == pytest.approx(4 / 127)
    # In front two of the four; 20 and 101 stand among those that rise with the row.
    order = sorted(
        np.delete(np.arange(128), 100), key=lambda row: (-(row in SUSPECTS), row)
    )
    places = sorted(1 + order.index(row) for row in (5, 60, 20, 101))
    expected = np.mean([n / place for n, place in enumerate(places, 1)])
    assert told["average_precision"] == pytest.approx(expected)
    shown = capsys.readouterr().out
    assert "FER+'s majority has another label for 3.1 % of the 127 images" in shown
    rows = list(csv.DictReader((tmp_path / "labels.csv").open()))
    votes = {int(row["row"]): row["ferplus_majority"] for row in rows}
    assert (votes[5], votes[100], votes[101]) == ("happy", "", "contempt")


def test_votes_of_other_images_are_not_used(learnt, tmp_path, capsys):
    write_votes(tmp_path / ferplus.NAME, tiny_lines()[:-1])
    main(arguments(learnt))
    assert "the FER+ votes are not used" in " ".join(capsys.readouterr().out.split())


def test_no_run_of_these_images_is_an_error(learnt, tmp_path, capsys):
    usages = ("Training", "PublicTest")
    other = write_tiny_csv(tmp_path / "other.csv", usages)
    with pytest.raises(UserError, match="no run in .* was trained on the train images"):
        main(arguments((other, learnt[1])))
    assert "suspicious" not in capsys.readouterr().out


def test_files_are_named_where_images_have_some(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("happy", "sad"):
            folder = tmp_path / "faces" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = rng.integers(0, 256, (16, 16), np.uint8)
                Image.fromarray(pixels).save(folder / f"{n}.png")
    root = str(tmp_path / "faces")
    dataset = data.load(root, image_size=16)
    train = dataset.splits["train"]
    told = {"fingerprint": dataset.fingerprint}
    folder = write(tmp_path / "runs", make_result("baseline", 1, data=told))
    open_dynamics(folder, train.rows, train.labels, 2)
    for epoch in (1, 2):
        margin = -np.arange(12, dtype=np.float32)
        write_epoch(folder, epoch, margin, np.ones(12, np.int32), np.ones(12, np.int16))
    path = tmp_path / "labels.csv"
    options = ["--runs", str(tmp_path / "runs"), "--image_size", "16"]
    main(["--data_root", root, *options, "--csv", str(path)])
    first = next(csv.DictReader(path.open()))
    assert first["file"] == "train/sad/5.png" and first["row"] == "11"
