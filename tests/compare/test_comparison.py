import numpy as np
import pandas as pd
import pytest
from fake_runs import OTHER, make_result, write

from fer_jax import compare
from fer_jax.compare import load
from fer_jax.emotions import EMOTIONS
from fer_jax.errors import UserError
from fer_jax.metrics import CLASS_METRICS, METRICS

pytestmark = pytest.mark.usefixtures("few_draws")


def test_every_frame_is_tidy_and_agrees_with_the_others(many):
    found = load(many, filter=["baseline", "lr_"])
    assert repr(found) == "Comparison(val: 6 runs of 3 experiments)"
    names = ["baseline", "lr_high", "lr_low"]
    runs, experiments = found.runs, found.experiments.set_index("experiment")
    assert sorted(experiments.index) == names and len(runs) == 6
    means = runs.groupby("name")[[*METRICS]].mean()
    pd.testing.assert_frame_equal(
        experiments.loc[names, [*METRICS]], means, check_names=False
    )
    for metric in METRICS:
        low, high = (experiments[f"{metric}_{end}"] for end in ("low", "high"))
        assert (low < experiments[metric]).all() and (experiments[metric] < high).all()
    emotions = found.emotions
    assert len(emotions) == 3 * len(EMOTIONS) * len(CLASS_METRICS)
    f1 = emotions[emotions["metric"] == "f1"].groupby("experiment")["value"].mean()
    pd.testing.assert_series_equal(
        f1, experiments["macro_f1"][names], check_names=False
    )
    differences = found.differences
    assert set(differences["experiment"]) == {"lr_high", "lr_low"}
    overall = differences[differences["emotion"].isna()].set_index("experiment")
    macro = overall[overall["metric"] == "macro_f1"]["value"]
    base = experiments.loc["baseline", "macro_f1"]
    for name in ("lr_high", "lr_low"):
        assert macro[name] == pytest.approx(experiments.loc[name, "macro_f1"] - base)
    assert differences["significant"].dtype == bool
    confusion = found.confusion[found.confusion["experiment"] == "lr_low"]
    right = confusion[confusion["true"] == confusion["predicted"]]["images"].sum()
    accuracy = right / confusion["images"].sum()
    assert accuracy == pytest.approx(experiments.loc["lr_low", "accuracy"])
    rates = found.confusion.groupby(["experiment", "true"])["rate"].sum()
    assert np.allclose(rates, 1)
    sizes = found.reliability.groupby("experiment")["images"].sum()
    assert (sizes == 600).all()
    changed = found.changes.set_index("experiment")
    assert changed.loc["lr_low", ["key", "baseline", "value"]].tolist() == [
        "training.lr",
        "0.0003",
        "0.0001",
    ]
    history = found.history
    assert history.groupby(["experiment", "seed"])["epoch"].max()["lr_low", 2] == 22
    assert history["val_macro_f1"].between(0, 1).all()


def test_findings_are_text_and_other_splits_and_baselines_are_one_call_away(many):
    found = load(many, filter="lr_", split="test", baseline="lr_low")
    assert found.findings.startswith("lr_high against lr_low?\n  lr_high did ")
    assert len(found.answers) == 1
    other = found.replace(split="val")
    assert other.split == "val" and other.summary.baseline == "lr_low"
    assert (found.experiments["macro_f1"] != other.experiments["macro_f1"]).all()
    with pytest.raises(
        UserError, match="nope is no experiment with val results; there are lr_h"
    ):
        load(many, filter="lr_", baseline="nope")


def test_experiments_of_several_folders_are_told_apart(tmp_path):
    labels = np.arange(70) % 7
    for place, shift in (("theirs", 0), ("mine", 35)):
        chosen = np.where(np.arange(70) < shift, (labels + 1) % 7, labels)
        for name in ("baseline", f"only_{place}"):
            made = make_result(name, 1, labels=labels, chosen=chosen)
            write(tmp_path / place, made)
    found = load(tmp_path / "theirs", tmp_path / "mine", sort="name")
    scores = found.experiments.set_index("experiment")["accuracy"]
    assert scores.to_dict() == {
        "mine/baseline": 0.5,
        "only_mine": 0.5,
        "only_theirs": 1.0,
        "theirs/baseline": 1.0,
    }
    assert set(found.differences["baseline"]) == {"theirs/baseline"}
    with pytest.raises(UserError, match="is given twice"):
        load(tmp_path / "mine", tmp_path / "theirs" / ".." / "mine")
    write(tmp_path / "other", make_result("baseline", 1, data=OTHER))
    with pytest.raises(UserError, match="are of different data and do not compare"):
        load(tmp_path / "mine", tmp_path / "other")


def test_a_run_without_curves_or_baseline_has_empty_frames(tmp_path):
    write(tmp_path, make_result("a", 1)).joinpath("metrics.jsonl").unlink()
    found = load(tmp_path)
    assert len(found.history) == len(found.differences) == len(found.changes) == 0
    assert found.findings == ""
    assert list(found.history)[:4] == ["experiment", "seed", "epoch", "step"]


def test_the_command_takes_folders_or_runs_dir(tmp_path, capsys):
    write(tmp_path / "x", make_result("a", 1))
    write(tmp_path / "y", make_result("a", 1))
    assert compare.main([str(tmp_path / "x"), str(tmp_path / "y")]) == 0
    shown = capsys.readouterr().out
    assert "x/a" in shown and "y/a" in shown
    with pytest.raises(UserError, match="name the folders of the runs once"):
        compare.main([str(tmp_path / "x"), "--runs_dir", str(tmp_path / "y")])


def test_a_damaged_history_leaves_gaps_and_no_traceback(tmp_path):
    path = write(tmp_path, make_result("a", 1)) / "metrics.jsonl"
    rows = ['{"epoch": 1, "val_loss": "x"}', '{"epoch": 2, "val_loss": 1.0}', "[1]"]
    rows += ['{"epoch": 2, "val_loss": 2.0}', '{"epoch": "3"}', "{}"]
    path.write_text("\n".join(rows))
    found = load(tmp_path)
    assert found.history["epoch"].tolist() == [1, 2]
    assert found.history["val_loss"].tolist()[1] == 2.0
    assert np.isnan(found.history["val_loss"][0])
    for metric in ("val_loss", "val_macro_f1"):
        assert found.figures.curves(metric).layout.meta


def test_wrong_names_are_sentences(many):
    for options, told in (
        ({"split": "train"}, "split is 'train'; choose one of val, test"),
        ({"sort": "f1"}, "sort is 'f1'; choose one of macro_f1, accuracy"),
        ({"labels": "x"}, "labels is 'x'; choose one of fer2013, "),
    ):
        with pytest.raises(UserError, match=told):
            load(many, **options)
    draw = load(many).figures
    for call, told in (
        (lambda: draw.scores("ece"), "no metric 'ece'; there are macro_f1, accuracy"),
        (lambda: draw.differences("f1"), "no metric 'f1'; there are macro_f1"),
        (lambda: draw.differences("f1", "x"), "no emotion 'x'; there are angry"),
        (lambda: draw.emotions("macro_f1"), "no metric 'macro_f1'; there are "),
        (lambda: draw.confusion("x"), "no experiment 'x'; there are "),
        (lambda: draw.curves("lr"), "no curve 'lr'; there are val_macro_f1"),
        (lambda: draw.precision_recall("x"), "no emotion 'x'; there are angry"),
        (lambda: draw.cost("x"), "no metric 'x'; there are "),
    ):
        with pytest.raises(UserError, match=told):
            call()
