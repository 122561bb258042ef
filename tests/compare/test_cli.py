"""The command: its views, and how it ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import OTHER, make_labels, make_many, make_result, write
from printed import command_text, correct, row, rows, section, text_of

from fer_jax.compare import main
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError, run_command

REPO = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("few_draws")


def test_another_baseline(tmp_path, capsys):
    for name in "abc":
        write(tmp_path, make_result(name, 1))
    text = command_text(capsys, tmp_path, "--baseline", "b")
    block = section(text, "val: macro F1 against b")
    assert sorted(line.split()[0] for line in rows(block)) == ["a", "c"]
    with pytest.raises(UserError, match="baseline d is no experiment .* there are "):
        main(["--runs_dir", str(tmp_path), "--baseline", "d"])


def test_two_experiments_in_depth(tmp_path, capsys):
    for name, skill in {"a": 0.9, "b": 0.4, "c": 0.1}.items():
        for seed in (1, 2):
            write(tmp_path, make_result(name, seed, skill=skill))
    text = command_text(capsys, tmp_path, "--experiment", "a", "b")
    assert "Comparison on val: 4 runs of 2 experiments" in text
    block = section(text, "val: a less b")
    assert row(block, "accuracy")[3].startswith("+")
    assert float(row(block, "accuracy")[4]) < 0.05
    assert len(rows(section(text, "a: taken for"))) == 7
    assert "a improved macro F1 (+" in text.replace("What this says", "")


def test_two_runs_in_depth_go_by_their_labels(tmp_path, capsys):
    for seed in (1, 2):
        write(tmp_path, make_result("a", seed))
    args = ("--experiment", "a/seed_1", "a/seed_2")
    text = command_text(capsys, tmp_path, *args)
    assert "val: a/seed_1 less a/seed_2" in text
    assert "these networks, not the settings" in text
    wrongs = (("a", "zz"), ("a/seed_1", "a/seed_3"), ("a", "a"), ("a", "a/seed_1"))
    for wrong in wrongs:
        with pytest.raises(UserError, match="--experiment"):
            main(["--runs_dir", str(tmp_path), "--experiment", *wrong])


def test_one_emotion(tmp_path, capsys):
    labels = make_labels()
    fear, sad = EMOTIONS.index("fear"), EMOTIONS.index("sad")
    always = np.where(labels == fear, sad, labels)
    write(tmp_path, make_result("baseline", 1, labels=labels, chosen=labels))
    write(tmp_path, make_result("b", 1, labels=labels, chosen=always))
    text = command_text(capsys, tmp_path, "--emotion", "fear")
    block = section(text, f"val: fear, {(labels == fear).sum()} images")
    assert row(block, "b")[:6] == ["b", "0.0", "0.0", "0.0", "sad", "100.0"]
    assert row(block, "b")[6:] == ["-100.0", "worse"]
    assert row(block, "baseline")[:4] == ["baseline", "100.0", "100.0", "100.0"]
    with pytest.raises(
        UserError, match="no val image is of joy; there are images of angry"
    ):
        main(["--runs_dir", str(tmp_path), "--emotion", "joy"])
    assert "Comparison" not in capsys.readouterr().out


def test_an_emotion_without_images_is_a_sentence(tmp_path, capsys):
    write(tmp_path, make_result("baseline", 1, without=("disgust",)))
    write(tmp_path, make_result("b", 1, without=("disgust",)))
    with pytest.raises(UserError, match="no val image is of disgust; there are images"):
        main(["--runs_dir", str(tmp_path), "--emotion", "disgust"])
    assert capsys.readouterr().out == ""
    write(tmp_path, make_result("c", 1, data=OTHER))  # another set, which has some
    text = command_text(capsys, tmp_path, "--emotion", "disgust", "--mixed")
    names = {line.split()[0] for line in rows(section(text, "val: disgust"))}
    assert "c" in names and not {"baseline", "b"} & names


def test_scores_are_shown_clean_of_images_that_train_has(tmp_path):
    labels, kept = np.arange(70) % 7, np.arange(70) >= 28
    for name, share in {"a": 1.0, "b": 0.5}.items():
        options = {"chosen": correct(share, labels), "clean": {"val": kept}}
        write(tmp_path, make_result(name, 1, labels=labels, **options))
    text = text_of(tmp_path)
    block = section(text, "val: as usual, and clean of the 28 of 70 images with a copy")
    assert row(block, "a")[1:3] == ["100.0", "100.0"]
    assert row(block, "b")[1:3] == ["50.0", "16.7"]  # 35 of 70, and 7 of 42
    assert "as usual, and clean" not in text_of(tmp_path, split="test")


def test_clean_takes_all_tables_and_tests_to_the_images_without_a_copy(
    tmp_path, capsys
):
    labels = np.arange(70) % 7
    kept = np.arange(70) >= 28
    wrong = np.where(np.arange(70) % 2, labels, (labels + 1) % 7)
    for name, chosen in {"baseline": labels, "b": wrong}.items():
        for seed in (1, 2):
            options = {"chosen": chosen, "clean": {"val": kept, "test": kept}}
            write(tmp_path, make_result(name, seed, labels=labels, **options))
    path = tmp_path / "all.csv"
    text = command_text(capsys, tmp_path, "--clean", "--export", str(path))
    assert "only images without a copy in train" in text
    assert "as usual, and clean" not in text
    rows = pd.read_csv(path).set_index("name")
    assert (rows["n"] == 42).all()
    assert rows.loc["b", "accuracy"].tolist() == [0.5, 0.5]
    assert rows.loc["baseline", "recall_fear"].tolist() == [1.0, 1.0]
    write(tmp_path, make_result("none", 1, clean={"val": np.zeros(300, bool)}))
    with pytest.raises(UserError, match="every val image of none/seed_1 has a copy"):
        main(["--runs_dir", str(tmp_path), "--clean", "--filter", "none"])


def compare(*args, **options):
    return subprocess.run(
        [sys.executable, str(REPO / "bin" / "compare"), *map(str, args)],
        capture_output=True,
        text=True,
        **options,
    )


def test_command_exports_and_is_plain_in_a_pipe(tmp_path):
    write(tmp_path / "runs", make_result("a", 1))
    done = compare("--split", "test", "--export", "x.csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.endswith("\nwritten: x.csv\n")
    assert (tmp_path / "x.csv").exists()


def test_command_ends_with_status_2_and_one_line(tmp_path, capsys):
    write(tmp_path, make_result("a", 1, test=False))
    command = ["--runs_dir", str(tmp_path), "--split", "test"]
    assert run_command(lambda: main(command)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "error: no run has test results: the data set has no test split; "
        "use --split val\n"
    )


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    make_many(tmp_path, seeds=(1,))
    command = f"{sys.executable} -m fer_jax.compare --runs_dir {tmp_path} | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("Comparison on val: 12 runs of 12 experiments")
    assert done.stderr == ""


@pytest.mark.slow
def test_a_closed_or_full_output_is_no_crash(tmp_path):
    write(tmp_path, make_result("a", 1))
    command = f"{sys.executable} -m fer_jax.compare --runs_dir {tmp_path} --export "
    for name, end, status in (("a.csv", ">&-", 0), ("b.csv", ">/dev/full", 2)):
        done = subprocess.run(
            f"{command}{tmp_path / name} {end}",
            shell=True, cwd=REPO, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / name).exists()  # what is to be kept comes first
