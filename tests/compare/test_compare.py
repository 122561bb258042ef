import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_runs import OTHER, make_config, make_labels, make_many, make_result, write
from rich.console import Console

from fer_jax import runs
from fer_jax.compare import load_runs, main, show, statistics, summarise
from fer_jax.compare.layout import Sheet, to_rich
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(statistics, "DRAWS", 300)
    monkeypatch.setattr(statistics, "MIN_DRAWS", 300)
    monkeypatch.setattr(statistics, "MAX_DRAWS", 300)


def correct(share, labels):
    """Predictions that are right for the first `share` of the images, else wrong."""
    right = np.arange(len(labels)) < round(share * len(labels))
    return np.where(right, labels, (labels + 1) % len(EMOTIONS))


def text_of(runs_dir, width=200, split="val", sort="macro_f1", mixed=False, filters=()):
    runs, unfinished = load_runs(runs_dir, filters, mixed=mixed)
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(console, runs, unfinished, split=split, sort=sort)
    return console.export_text()


def section(text, heading):
    """The lines below the heading that begins so, up to the next empty line."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(heading))
    block = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        block.append(line)
    return "\n".join(block)


def rows(block):
    """The lines below the rule, without the note under the table."""
    lines = block.splitlines()
    rule = next(n for n, line in enumerate(lines) if set(line.strip()) == {"─"})
    notes = ("detectable:", "not tested")
    return [line for line in lines[rule + 1 :] if not line.startswith(notes)]


def row(block, name):
    """The cells of the row of `name`."""
    line = next(line for line in block.splitlines() if line.split()[0] == name)
    return re.sub(r" \[.*?\]", "", line).split()  # without the intervals


# --- reading ------------------------------------------------------------------------


def test_runs_come_by_name_and_number_of_seed(tmp_path):
    for name, seed in [("b", 10), ("b", 9), ("a", 1)]:
        write(tmp_path, make_result(name, seed))
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "a" / "plots").mkdir()
    runs, unfinished = load_runs(tmp_path)
    assert [run.label for run in runs] == ["a/seed_1", "b/seed_9", "b/seed_10"]
    assert unfinished == []
    assert runs[0].config["training.lr"] == 3e-4


def test_filters_are_prefixes_and_add_up(tmp_path):
    for name in ["lr_low", "lr_high", "loss_focal", "alr"]:
        write(tmp_path, make_result(name, 1))

    def names(*filters):
        return [run.name for run in load_runs(tmp_path, filters)[0]]

    assert names("lr_") == ["lr_high", "lr_low"]
    assert names("loss", "al") == ["alr", "loss_focal"]


def test_a_filter_also_leaves_out_broken_and_unfinished_runs(tmp_path):
    write(tmp_path, make_result("a", 1))
    (write(tmp_path, make_result("b", 1)) / "result.json").write_text("{")
    (tmp_path / "c" / "seed_1").mkdir(parents=True)
    runs, unfinished = load_runs(tmp_path, ["a"])
    assert [run.name for run in runs] == ["a"]
    assert unfinished == []


def test_unfinished_runs_are_counted_and_named(tmp_path):
    write(tmp_path, make_result("a", 1))
    for n in range(9):
        (tmp_path / "lr_low" / f"seed_{n}").mkdir(parents=True)
    assert len(load_runs(tmp_path)[1]) == 9
    assert (
        "9 runs not finished: lr_low/seed_0, lr_low/seed_1, lr_low/seed_2, "
        "lr_low/seed_3, lr_low/seed_4, lr_low/seed_5 and 3 more" in text_of(tmp_path)
    )


def test_no_runs_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere: train first"):
        load_runs(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no run .*train first"):
        load_runs(tmp_path)
    (tmp_path / "a" / "seed_1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no finished run \(not finished: a/seed_1\)"):
        load_runs(tmp_path)
    with pytest.raises(UserError, match="begins with zz or yy: there are a"):
        load_runs(tmp_path, ["zz", "yy"])


@pytest.mark.parametrize("content", ['{"format": 1, "na', "", "\xff\xfe", "[1, 2"])
def test_a_cut_off_result_is_named(tmp_path, content):
    path = write(tmp_path, make_result("a", 1)) / "result.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"a/seed_1/result.json is cut off"):
        load_runs(tmp_path)


@pytest.mark.parametrize("content", ['{"format": 2}', "{}", "[]", "null", "3"])
def test_another_format_is_named(tmp_path, content):
    path = write(tmp_path, make_result("a", 1)) / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"a/seed_1/result.json has format"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "name",
        "seed",
        "config",
        "data.fingerprint",
        "selection.epoch",
        "epochs_run",
        "val",
        "val.confusion_matrix",
        "test.loss",
        "model.parameters",
        "environment.device",
        "timing",
        "timing.train_s",
    ],
)
@pytest.mark.parametrize("value", [None, "absent"])
def test_lacking_fields_are_named(tmp_path, path, value):
    result = make_result("a", 1)
    del result["arrays"]
    *parents, leaf = path.split(".")
    inner = result
    for key in parents:
        inner = inner[key]
    inner[leaf] = value
    if value == "absent":
        del inner[leaf]
    folder = tmp_path / "a" / "seed_1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError) as caught:
        load_runs(tmp_path)
    assert f"a/seed_1/result.json lacks {path}" in str(caught.value)


def test_a_copied_folder_is_not_counted_twice(tmp_path):
    folder = write(tmp_path, make_result("a", 1))
    folder.rename(tmp_path / "a" / "seed_2")
    with pytest.raises(UserError, match="seed_2/result.json is the result of a/seed_1"):
        load_runs(tmp_path)


def test_configs_of_one_experiment_may_differ_in_the_seed_only(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("a", 2))
    assert len(load_runs(tmp_path)[0]) == 2
    changed = make_config(training__lr=1e-3, loss__focal_gamma=2.0)
    write(tmp_path, make_result("a", 3, config=changed))
    with pytest.raises(UserError) as caught:
        load_runs(tmp_path)
    message = str(caught.value)
    assert "a/seed_1 and a/seed_3" in message
    assert "training.lr is 0.0003 and 0.001" in message
    assert "loss.focal_gamma is None and 2.0" in message


def test_what_a_resumed_run_may_change_is_no_other_experiment(tmp_path):
    change = {"device": 2, "asks": {"metrics": ["accuracy"], "emotions": ["fear"]}}
    config = make_config(data__stream="always") | change
    write(tmp_path, make_result("a", 1, description="old words"))
    new = make_result("a", 2, description="new words", config=config)
    write(tmp_path, new)
    assert len(load_runs(tmp_path)[0]) == 2


# --- statistics ---------------------------------------------------------------------


def test_mean_and_sd_of_a_case_worked_by_hand(tmp_path):
    # 0.50, 0.60, 0.70: mean 0.60; sample variance (0.01 + 0 + 0.01) / 2, so sd 0.1.
    labels = np.arange(70) % 7
    for seed, accuracy in enumerate([0.5, 0.6, 0.7]):
        chosen = correct(accuracy, labels)
        write(tmp_path, make_result("a", seed, labels=labels, chosen=chosen))
    text = text_of(tmp_path)
    assert row(section(text, "val: overall"), "a")[1:4] == ["3", "60.0", "60.0"]
    # macro F1: each class of ten has 5, 6, 7 hits, and as many wrong as missed.
    # epochs 10, 11, 12 of 20, 21, 22; 60, 61 and 62 s are 1.0 min
    cells = row(section(text, "val: seeds, epochs"), "a")
    assert cells[:6] == ["a", "3", "10.0", "11/21", "1.0", "350"]
    # as sure as e^2.5 / (e^2.5 + 6) = 67.0 % in each case: |67 - 60| on average
    assert cells[6] == "9.0"  # (17.0 + 7.0 + 3.0) / 3


def test_one_seed_has_no_sd(tmp_path):
    write(tmp_path, make_result("a", 1))
    text = text_of(tmp_path)
    assert row(section(text, "val: overall"), "a")[1] == "1"
    assert row(section(text, "val: seeds, epochs"), "a")[1:3] == ["1", "-"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_summary_is_what_numpy_says(tmp_path, split):
    results = [make_result(n, s) for n in ("a", "b") for s in (1, 2, 5, 8)]
    for result in results:
        write(tmp_path, result)
    summary = summarise(load_runs(tmp_path)[0], split, "name")
    for experiment in summary.experiments:
        own = [each for each in results if each["name"] == experiment.name]
        scores = [result[split] for result in own]
        assert len(experiment.runs) == len(scores) == 4
        for metric, values in {
            "macro_f1": [s["macro_f1"] for s in scores],
            "recall_fear": [s["per_class"]["fear"]["recall"] for s in scores],
            "f1_neutral": [s["per_class"]["neutral"]["f1"] for s in scores],
        }.items():
            found = experiment.scores[metric]
            assert found.value == pytest.approx(np.mean(values), abs=1e-9)
            assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
            assert found.low < found.value < found.high
        matrices = [s["confusion_matrix"] for s in scores]
        np.testing.assert_array_equal(experiment.confusion, np.sum(matrices, axis=0))


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("accuracy", "bca"),
        ("macro_f1", "cab"),
        ("balanced_accuracy", "acb"),
        ("name", "abc"),
        ("time", "cba"),
    ],
)
def test_sort(tmp_path, sort, order):
    labels = np.repeat(np.arange(7), (40, 5, 5, 5, 5, 5, 5))
    others = np.where(labels == 0, 1, labels)
    chosen = {  # accuracy .43, .57, .53; macro F1 .74, .10, .77; balanced .86, .14, .76
        "a": others,
        "b": np.zeros(70, int),
        "c": np.where(np.arange(70) < 12, 0, np.where(labels == 1, 0, others)),
    }
    for seconds, name in zip((90, 60, 30), "abc", strict=True):
        result = make_result(name, 1, labels=labels, chosen=chosen[name])
        result["timing"]["train_s"] = seconds
        write(tmp_path, result)
    lines = rows(section(text_of(tmp_path, sort=sort), "val: overall"))
    assert "".join(line[0] for line in lines) == order


def test_best_by_emotion_and_its_margin(tmp_path):
    labels = make_labels()
    for name, share in {"a": 0.9, "b": 0.5, "c": 0.4}.items():
        chosen = correct(share, labels)
        write(tmp_path, make_result(name, 1, labels=labels, chosen=chosen))
    text = text_of(tmp_path)
    block = section(text, "val: F1 by emotion")
    f1 = {name: row(block, name)[1 + EMOTIONS.index("fear")] for name in "abc"}
    assert f1["a"].endswith("*") and "*" not in f1["b"] + f1["c"]
    cells = row(section(text, "val: best experiment"), "fear")
    margin = float(f1["a"].rstrip("*")) - float(f1["b"])
    assert cells[:3] == ["fear", "a", f1["a"].rstrip("*")]
    assert float(cells[3]) == pytest.approx(margin, abs=0.11)
    assert cells[5] == "b"
    assert float(cells[4]) < 0.05  # of 40 images 36 and 20


def test_a_lone_experiment_is_the_best_of_nothing(tmp_path):
    write(tmp_path, make_result("a", 1))
    text = text_of(tmp_path)
    assert "best experiment" not in text
    assert "*" not in text
    assert "What this says" not in text


def test_an_emotion_without_images_has_no_score(tmp_path):
    for name in "ab":
        write(tmp_path, make_result(name, 1, without=("disgust",)))
    text = text_of(tmp_path)
    assert row(section(text, "val: recall"), "a")[2] == "-"
    assert "disgust" not in section(text, "val: best experiment")


# --- what the tables say of configs -------------------------------------------------


def test_changes_relative_to_the_baseline(tmp_path):
    write(tmp_path, make_result("baseline", 1))
    write(tmp_path, make_result("same", 1))
    changed = make_config(training__lr=0.1, loss__focal_gamma=3)
    write(tmp_path, make_result("zeal", 1, config=changed, description="is more more?"))
    text = text_of(tmp_path)
    block = section(text, "What each experiment changes in baseline")
    assert row(block, "same") == ["same", "(nothing)"]
    assert row(block, "zeal") == ["zeal", "training.lr", "0.0003", "0.1"]
    assert row(block, "loss.focal_gamma") == ["loss.focal_gamma", "-", "3"]
    assert "baseline" not in block.split("\n", 1)[1]
    asks = section(text, "What each experiment asks")
    assert row(asks, "zeal")[1:] == ["is", "more", "more?"]


def test_without_a_baseline_all_values_are_listed(tmp_path):
    for name, lr in {"a": 0.1, "b": 0.2, "c": 0.1}.items():
        write(tmp_path, make_result(name, 1, config=make_config(training__lr=lr)))
    text = text_of(tmp_path, sort="name")
    assert "not tested: a, b, c, for want of val results of baseline" in text
    block = section(text, "Where the experiments differ")
    assert row(block, "a") == ["a", "training.lr", "0.1"]
    assert row(block, "b") == ["b", "training.lr", "0.2"]
    assert "seed" not in block


# --- the other views ----------------------------------------------------------------


def command_text(capsys, folder, *args):
    assert main(["--runs_dir", str(folder), *args]) == 0
    return capsys.readouterr().out


def test_another_baseline(tmp_path, capsys):
    for name in "abc":
        write(tmp_path, make_result(name, 1))
    text = command_text(capsys, tmp_path, "--baseline", "b")
    block = section(text, "val: macro F1 against b")
    assert sorted(line.split()[0] for line in rows(block)) == ["a", "c"]
    with pytest.raises(UserError, match="--baseline d: .* there are "):
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
    assert "a: macro F1 +" in text.replace("What this says", "")


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


# --- header and notes ---------------------------------------------------------------


def test_header_on_val_warns(tmp_path):
    data = {"notes": ["val carved from train: 10 %"]}
    write(tmp_path, make_result("a", 1, data=data))
    text = text_of(tmp_path)
    assert text.startswith("Comparison on val: 1 run of 1 experiment\n")
    assert "embedded set (drawn faces), fingerprint 0123456789abcdef" in text
    assert "drawn faces, not photographs" in text
    assert "val selected each run's checkpoint: its scores are optimistic" in text
    assert "note: val carved from train: 10 %" in text
    assert "test" not in text


def test_header_on_test_does_not_warn(tmp_path):
    data = {"source": "csv", "description": "fer2013.csv"}
    write(tmp_path, make_result("a", 1, data=data))
    text = text_of(tmp_path, split="test")
    assert "Comparison on test" in text
    assert "optimistic" not in text
    assert "drawn" not in text
    assert "val" not in re.sub("value|interval", "", text)


def test_no_test_results_at_all(tmp_path):
    write(tmp_path, make_result("a", 1, test=False))
    with pytest.raises(UserError, match=r"no run has test results.*use --split val"):
        text_of(tmp_path, split="test")


def test_some_runs_without_test_results_are_left_out_and_named(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("a", 2, test=False))
    write(tmp_path, make_result("b", 1, test=False))
    text = text_of(tmp_path, split="test")
    assert "2 runs without test results, left out: a/seed_2, b/seed_1" in text
    assert row(section(text, "test: overall"), "a")[1] == "1"
    assert "b" not in [
        line.split()[0] for line in section(text, "test: F1").splitlines()
    ]


def test_test_that_was_read_again_is_noted(tmp_path):
    folder = write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("b", 1))
    for reads in (1, 2):
        runs.note_test_read(folder, 30)
        told = "test was read more than once by a/seed_1 (2 times)"
        assert (told in text_of(tmp_path, split="test")) == (reads == 2)
    assert "was read" not in text_of(tmp_path)


def test_several_devices_are_noted(tmp_path):
    write(tmp_path, make_result("a", 1))
    assert "devices" not in text_of(tmp_path)
    write(tmp_path, make_result("b", 1, device="gpu"))
    assert "minutes do not compare across devices: cpu (1), gpu (1)" in text_of(
        tmp_path
    )


# --- several data sets --------------------------------------------------------------


@pytest.fixture
def two_sets(tmp_path):
    labels = np.arange(70) % 7
    for seed, (data, accuracy) in enumerate(
        [({}, 0.2), ({}, 0.4), (OTHER, 0.7), (OTHER, 0.9)]
    ):
        chosen = correct(accuracy, labels)
        write(tmp_path, make_result("a", seed, data=data, labels=labels, chosen=chosen))
    return tmp_path


def test_mixed_data_is_refused(two_sets):
    with pytest.raises(UserError) as caught:
        load_runs(two_sets)
    message = str(caught.value)
    assert "0123456789abcdef 'embedded set (drawn faces)': a/seed_0, a/s" in message
    assert "fedcba9876543210 'fer2013.csv': a/seed_2, a/seed_3" in message
    assert "--mixed" in message


def test_mixed_data_is_never_averaged(two_sets):
    text = text_of(two_sets, mixed=True)
    lines = rows(section(text, "val: overall"))
    cells = sorted(line.split()[:4] for line in lines)
    assert cells == [["a", "[A]", "2", "30.0"], ["a", "[B]", "2", "80.0"]]
    assert "data [A]: embedded set" in text
    assert "data [B]: fer2013.csv" in text
    # Each is alone on its data: no best, and no runner-up from the other set.
    assert "*" not in section(text, "val: F1")
    best = rows(section(text, "val: best experiment"))
    assert len(best) == 2 * len(EMOTIONS)
    assert all(line.split()[-1] == "-" for line in best)
    assert "a [A,B]     what does a do?" in section(text, "What each experiment asks")


def test_mixed_data_has_a_best_for_each_set(tmp_path):
    for seed, data in enumerate([{}, OTHER]):
        for n, name in enumerate("abc"):
            skill = 0.9 - 0.4 * seed - 0.1 * n
            write(tmp_path, make_result(name, seed, skill=skill, data=data))
    text = text_of(tmp_path, mixed=True, sort="name")
    block = section(text, "val: F1")
    assert block.count("*") == 2 * len(EMOTIONS)
    # The sets stand below each other, not in between each other.
    assert [line.split()[1] for line in rows(block)] == ["[A]"] * 3 + ["[B]"] * 3


def test_mixed_data_of_other_classes(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("b", 1, classes=("angry", "bored"), data=OTHER))
    block = section(text_of(tmp_path, mixed=True), "val: F1")
    assert row(block, "a")[-1] == "-"
    assert row(block, "b")[3] == "-"


def test_mixed_data_does_not_excuse_other_configs(tmp_path):
    write(tmp_path, make_result("a", 1))
    config = make_config(training__lr=1.0)
    write(tmp_path, make_result("a", 2, data=OTHER, config=config))
    with pytest.raises(UserError, match=r"training\.lr"):
        load_runs(tmp_path, mixed=True)


# --- layout -------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("split", ["val", "test"])
def test_no_line_is_longer_than_80(tmp_path, split, mixed):
    make_many(tmp_path)
    if mixed:
        write(tmp_path, make_result("other", 1, data=OTHER))
    text = text_of(tmp_path, width=80, split=split, mixed=mixed)
    assert max(map(len, text.splitlines())) <= 80
    assert "surprise" in text
    # No number is folded or cut; the one name that is folded ends at a word.
    for line in rows(section(text, f"{split}: overall")):
        assert line.count(", ") == (0 if line.startswith("  ") else 3)
    assert "loss_focal_weighted_" in text
    assert "…" not in text


def test_numbers_that_do_not_fit_continue_in_further_tables():
    headers = [f"expression_{n}" for n in range(12)]
    cells = [[f"name_{n}" + "_of_many_words" * n, *["1.0"] * 12] for n in range(3)]
    tables = to_rich(Sheet("", ["experiment", *headers], "l" + "r" * 12, cells), 80)
    found = [[str(column.header) for column in table.columns] for table in tables]
    assert [each[0] for each in found] == ["experiment"] * len(tables)
    assert [header for each in found for header in each[1:]] == headers
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "name_2_of_many_" in lines[4] and lines[5].startswith("  ")


def test_brackets_in_names_are_no_markup(tmp_path):
    write(
        tmp_path, make_result("a", 1, description="does [bold]x[/bold] [0, 1] :smile:")
    )
    assert "does [bold]x[/bold] [0, 1] :smile:" in text_of(tmp_path)


def test_the_best_is_bold_on_a_terminal(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("b", 1))
    runs, _ = load_runs(tmp_path)
    console = Console(force_terminal=True, width=100, no_color=True)
    with console.capture() as capture:
        show(console, runs, [])
    assert "\x1b[1m" in capture.get()
    assert "\x1b[1;32m" not in capture.get()  # bold is no colour
    assert "*" not in capture.get()


# --- export -------------------------------------------------------------------------


def save(runs_dir, path, *options):
    args = ["--runs_dir", str(runs_dir), "--export", str(path), *options]
    assert main(args) == 0
    return path.read_text("utf-8")


def test_csv_round_trip(tmp_path):
    results = [make_result(name, seed) for name in ("a", "b") for seed in (1, 2)]
    for result in results:
        write(tmp_path / "runs", result)
    path = tmp_path / "results.csv"
    path.write_text("old")
    save(tmp_path / "runs", path, "--split", "test")
    frame = pd.read_csv(path)
    assert list(frame["name"]) == ["a", "a", "b", "b"]
    for (_, cells), result in zip(frame.iterrows(), results, strict=True):
        test = result["test"]
        assert cells["split"] == "test"
        assert cells["seed"] == cells["training.seed"] == result["seed"]
        assert cells["training.lr"] == 3e-4
        assert cells["augmentation.horizontal_flip"]
        assert cells["loss"] == test["loss"]  # the metric; the config's are loss.*
        assert cells["loss.type"] == "ce"
        assert cells["macro_f1"] == test["macro_f1"]
        for emotion in EMOTIONS:
            for metric, value in test["per_class"][emotion].items():
                assert cells[f"{metric}_{emotion}"] == value
        assert cells["selection_split"] == "val"
        assert cells["selection_epoch"] == result["selection"]["epoch"]
        assert cells["data_fingerprint"] == "0123456789abcdef"
        assert cells["parameters"] == 700_000
        assert cells["device"] == "cpu"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["results.csv"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044  # others may read it as usual


def test_csv_keeps_config_keys_that_are_named_like_a_metric(tmp_path):
    config = make_config() | {"accuracy": "high"}
    write(tmp_path, make_result("a", 1, config=config))
    save(tmp_path, tmp_path / "x.csv")
    frame = pd.read_csv(tmp_path / "x.csv")
    assert frame.at[0, "config.accuracy"] == "high"
    assert frame.at[0, "accuracy"] < 1


def test_csv_leaves_out_runs_without_the_split(tmp_path):
    write(tmp_path, make_result("a", 1))
    write(tmp_path, make_result("a", 2, test=False))
    save(tmp_path, tmp_path / "x.csv", "--split", "test")
    assert list(pd.read_csv(tmp_path / "x.csv")["seed"]) == [1]


def test_export_refuses_other_suffixes_and_missing_folders(tmp_path):
    write(tmp_path, make_result("a", 1))
    args = ["--runs_dir", str(tmp_path), "--export"]
    with pytest.raises(UserError, match=r"writes \.csv, .* and .*x\.xlsx does not end"):
        main([*args, str(tmp_path / "x.xlsx")])
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        main([*args, str(tmp_path / "nowhere" / "x.csv")])


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "runs", make_result("a", 1))
    path = tmp_path / "x.csv"
    path.write_text("old")
    write_text = Path.write_text

    def fail(self, text, **options):
        write_text(self, text[:100], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(UserError, match=r"x\.csv cannot be written: No space left"):
        save(tmp_path / "runs", path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "x.csv"]


# --- the command --------------------------------------------------------------------


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


def test_command_ends_with_status_2_and_one_line(tmp_path):
    write(tmp_path, make_result("a", 1, test=False))
    done = compare("--runs_dir", tmp_path, "--split", "test")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: no run has test results: the data set has no test split; "
        "use --split val\n"
    )


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    make_many(tmp_path, seeds=(1,))
    command = f"{sys.executable} -m fer_jax.compare --runs_dir {tmp_path} | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("Comparison on val: 12 runs of 12 experiments")
    assert done.stderr == ""


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


def test_jax_is_not_imported():
    code = (
        "import sys, fer_jax.compare; "
        "heavy = {'jax', 'flax', 'optax', 'orbax', 'grain', 'tensorflow'}; "
        "print(heavy & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
