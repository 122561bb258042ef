"""The tables: figures, several data sets, and the width of the terminal."""

import os

import numpy as np
import pytest
from fake_runs import OTHER, make_config, make_labels, make_many, make_result, write
from printed import correct, row, rows, section, text_of
from rich.console import Console

from fer_jax.compare import load_runs, show, summarise
from fer_jax.compare.layout import Sheet, to_rich
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")


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


@pytest.mark.parametrize(("split", "mixed"), [("val", True), ("test", False)])
def test_no_line_is_longer_than_80(tmp_path, split, mixed):
    make_many(tmp_path, seeds=(1, 2))
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
