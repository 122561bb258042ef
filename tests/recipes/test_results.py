import shutil

import numpy as np
import pytest
from fake_runs import make_result, write
from scipy.special import softmax

from fer_jax import compare, runs
from fer_jax.errors import UserError
from fer_jax.recipes.results import (
    ablation_sheet,
    ensemble_accuracy,
    scores_sheet,
    time_to_target,
)
from fer_jax.system import files


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three experiments with three seeds each; what "sam" does is worse."""
    folder = tmp_path_factory.mktemp("recipe")
    for name, skill in (("baseline", 0.6), ("sam", 0.3), ("ema", 0.6)):
        for seed in range(3):
            write(folder, make_result(name, seed, skill=skill))
    return folder


def test_the_scores_are_means_with_deviations_and_the_ensembles(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    own = compare.load_runs(tmp_path, ["ema"])[0]
    rng = np.random.default_rng(0)
    sums = {"val": 0.0, "test": 0.0}
    labels = {}
    for run in own:
        for split in sums:
            run.scores[split]["accuracy_clean"] = 0.5
            with np.load(run.folder / f"predictions_{split}.npz") as file:
                arrays = dict(file)
            # Breaks the ensemble's ties, and changes no run's classes.
            noise = rng.uniform(-1, 1, size=arrays["logits"].shape)
            arrays["logits"] += np.float32(noise)
            runs.write_predictions(run.folder, split, runs.StoredPredictions(**arrays))
            sums[split] += softmax(np.float64(arrays["logits"]), axis=1)
            labels[split] = arrays["labels"]
    sheet = scores_sheet(own)
    assert "n = 3" in sheet.caption and "val chose the epoch" in sheet.note
    for split, row in zip(sums, sheet.rows, strict=False):
        scores = [100 * run.scores[split]["accuracy"] for run in own]
        mean_sd = f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}"
        assert row[:3] == [split, mean_sd, "50.0 ± 0.0"]
        expected = (sums[split].argmax(axis=1) == labels[split]).mean()
        assert ensemble_accuracy(own, split) == pytest.approx(expected)
        assert row[-1] == f"{100 * expected:.1f}"
    del own[0].scores["val"]["accuracy_clean"]
    assert scores_sheet(own).rows[0][2] == "-"
    (own[0].folder / "predictions_val.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="predictions_val.npz is damaged"):
        scores_sheet(own)


def test_the_speed_is_the_time_at_which_the_mean_reaches_the_target(tmp_path):
    curves = ([0.5, 0.66, 0.72, 0.71], [0.6, 0.73, 0.70, 0.72])
    for seed, curve in enumerate(curves):
        folder = write(tmp_path, make_result("speedrun", seed))
        rows = [
            {"epoch": n + 1, "val_accuracy": value, "wall_s": 10.0 * (n + 1) + seed}
            for n, value in enumerate(curve)
        ]
        files.write_jsonl(folder / "metrics.jsonl", rows)
    own = compare.load_runs(tmp_path, [])[0]
    text = time_to_target(own)
    # After two epochs the mean is 69.5 %, after three 71 %.
    assert "71.0 ± 1.4 % after 3 epochs and 30.5 ± 0.7 s" in text
    assert "2 seeds, on cpu" in text
    for run in own:
        files.write_jsonl(run.folder / "metrics.jsonl", rows[:1])
    assert "at most 60.0 %; the target is 70 %" in time_to_target(own)
    (own[0].folder / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match="metrics.jsonl cannot be read"):
        time_to_target(own)


def test_the_table_of_an_ablation_has_both_splits_and_the_test_on_the_fold(finished):
    sheet = ablation_sheet(compare.load_runs(finished, [])[0])
    assert all(len(row) == len(sheet.headers) == len(sheet.align) for row in sheet.rows)
    by_name = {row[0]: row for row in sheet.rows}
    assert set(by_name) == {"baseline", "sam", "ema"} and sheet.rows[-1][0] == "sam"
    assert by_name["baseline"][3] == by_name["baseline"][-1] == ""
    assert by_name["sam"][-1] == "worse" and by_name["ema"][-1] == "n.s."
    assert by_name["sam"][3].startswith("-") and by_name["sam"][5].startswith("-")
    assert by_name["ema"][6] == "1.00" and by_name["ema"][1] == "3"
