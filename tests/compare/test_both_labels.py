"""Runs that chose their labels and images, scored by both label sets and compared."""

import io

import numpy as np
import pytest
from conftest import ROOT, tiny_config, write_tiny_csv
from rich.console import Console
from sklearn.metrics import accuracy_score, f1_score
from votes import line, tiny_lines, write_votes

from fer_jax.compare import load_runs, main
from fer_jax.data import ferplus
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.system.console import print_scores
from fer_jax.training import run

CHOICES = {
    "plain": (),
    "soft": ("data.labels=ferplus_soft", "data.deduplicate=near"),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The results of a run on FER2013's labels and of one on FER+'s, in one folder."""
    folder = tmp_path_factory.mktemp("both")
    csv = write_tiny_csv(folder / "fer2013.csv")
    lines = tiny_lines()
    lines[0] = line(name="", NF=10)
    lines[3] = line(anger=6, sadness=4)
    for place in (140, 268):  # a row of val and one of test that FER+ calls happy
        lines[place] = line(lines[place].split(",")[0], happiness=9, anger=1)
    lines[141] = line("PublicTest", unknown=10)
    write_votes(folder / ferplus.NAME, lines)
    results = {}
    for name, settings in CHOICES.items():
        config = tiny_config(f"name={name}", "training.epochs=1", *settings)
        results[name] = run.train(config, data_root=str(csv), runs_dir=folder / "runs")
    return folder / "runs", results


def predictions(both, name, split):
    return np.load(both[0] / name / "seed_42" / f"predictions_{split}.npz")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_every_run_is_scored_by_both_label_sets(both, name, split):
    sets = both[1][name][split]["label_sets"]
    file = predictions(both, name, split)
    assert list(sets) == ["fer2013", "ferplus_majority", "agreed"]
    for kind, scores in sets.items():
        labels, guesses = file[f"labels_{kind}"], file["logits"].argmax(axis=1)
        for suffix, kept in (
            ("", labels >= 0),
            ("_clean", (labels >= 0) & file["clean"]),
        ):
            true, guessed = labels[kept], guesses[kept]
            assert scores[f"n{suffix}"] == kept.sum()
            assert scores[f"accuracy{suffix}"] == accuracy_score(true, guessed)
            f1 = f1_score(
                true,
                guessed,
                labels=np.unique(true),
                average="macro",
                zero_division=0,
            )
            assert scores[f"macro_f1{suffix}"] == pytest.approx(f1)
    unlabelled = split == "val"
    assert sets["fer2013"]["n"] == 128
    assert sets["ferplus_majority"]["n"] == 128 - unlabelled
    assert sets["agreed"]["n"] == 128 - unlabelled - 1


def test_the_chosen_labels_are_those_of_the_main_scores(both):
    _, results = both
    for name, kind in (("plain", "fer2013"), ("soft", "ferplus_majority")):
        for key in ("n", "accuracy", "macro_f1", "confusion_matrix", "n_clean"):
            scores = results[name]["val"]
            assert scores[key] == scores["label_sets"][kind][key]


def test_a_run_says_what_it_took(both):
    plain, soft = (both[1][name]["data"] for name in CHOICES)
    assert plain["chosen"] == "" and plain["left_out"] == {}
    assert soft["chosen"] and soft["labels"].startswith("ferplus_soft")
    assert soft["source_fingerprint"] == plain["fingerprint"] != soft["fingerprint"]
    # Seven copies of val, one of them without a face.
    assert soft["left_out"]["train"] == {"near copy": 6, "no face": 1}
    assert sum(soft["counts"]["train"]) == 121 and sum(plain["counts"]["train"]) == 128
    assert any("6 train images are left out" in note for note in soft["notes"])


def test_runs_of_other_labels_compare_by_a_common_one_only(both, capsys):
    runs_dir, results = both
    with pytest.raises(UserError, match="of different data and do not compare"):
        load_runs(runs_dir)
    for kind in ("fer2013", "ferplus_majority", "agreed"):
        runs, _ = load_runs(runs_dir, labels=kind)
        assert {run.name: run.scores["test"]["accuracy"] for run in runs} == {
            name: results[name]["test"]["label_sets"][kind]["accuracy"]
            for name in CHOICES
        }
        arguments = ["--runs_dir", str(runs_dir), "--labels", kind, "--split", "test"]
        assert main([*arguments, "--no-color", "--baseline", "plain"]) == 0
        shown = capsys.readouterr().out
        assert f"labels {kind}" in shown
        # The note of one run is none on the data.
        assert "train images are left out" not in shown


def test_the_terminal_has_a_row_for_each_label_set(both):
    console = Console(record=True, width=80, file=io.StringIO())
    print_scores(console, both[1]["soft"])
    shown = console.export_text()
    for name, kind in (
        ("by FER2013", "fer2013"),
        ("by FER+", "ferplus_majority"),
        ("both agree", "agreed"),
    ):
        row = next(line for line in shown.splitlines() if line.strip().startswith(name))
        sets = (both[1]["soft"][split]["label_sets"][kind] for split in ("val", "test"))
        expected = [
            t for s in sets for t in (f"{100 * s['accuracy']:.1f}", f"{s['n']}")
        ]
        assert row.removeprefix(f" {name}").split()[-4:] == expected


def test_a_run_without_votes_has_no_other_scores(finished_run):
    with pytest.raises(
        UserError, match="has no scores by agreed: it was trained without"
    ):
        load_runs(finished_run[0].parents[1], labels="agreed")


def test_a_run_that_chose_otherwise_is_another(both):
    runs_dir, _ = both
    csv = runs_dir.parent / "fer2013.csv"
    config = tiny_config("name=plain", "training.epochs=1", "data.deduplicate=exact")
    with pytest.raises(UserError, match="data.deduplicate is none there and exact"):
        run.train(config, data_root=str(csv), runs_dir=runs_dir)


def test_the_votes_are_part_of_what_a_run_is(both, tmp_path):
    runs_dir, _ = both
    csv = write_tiny_csv(tmp_path / "fer2013.csv")
    write_votes(tmp_path / ferplus.NAME, tiny_lines())
    config = tiny_config("name=soft", "training.epochs=1", *CHOICES["soft"])
    with pytest.raises(UserError, match="data set is fer2013.csv .*, of which"):
        run.train(config, data_root=str(csv), runs_dir=runs_dir)


def test_all_configs_take_the_datas_own_labels_by_default():
    assert tiny_config().data.labels == "fer2013"
    text = (ROOT / "configs/baseline.yaml").read_text()
    assert "deduplicate: none" in text and len(EMOTIONS) == 7
