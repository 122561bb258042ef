"""Suspicious labels: margins and forgetting by hand, and planted mistakes found."""

import numpy as np
import pytest
from conftest import COUNTS, tiny_config, write_tiny_csv
from fake_runs import make_config, make_result, write
from sklearn.metrics import average_precision_score

from fer_jax import data
from fer_jax.audit.label_noise import overlap, rank_labels
from fer_jax.data.records import Split
from fer_jax.errors import UserError
from fer_jax.runs.dynamics import open_dynamics, write_epoch
from fer_jax.training import run

CLASSES = ("a", "b", "c")
ROWS = np.array([3, 5, 6, 9], np.int32)
LABELS = np.array([0, 1, 2, 0], np.int32)


def make_dataset(rows=ROWS, labels=LABELS, fingerprint="f" * 16):
    images = np.zeros((len(rows), 4, 4, 1), np.uint8)
    return data.Dataset(
        source="csv",
        description="some.csv",
        fingerprint=fingerprint,
        class_names=CLASSES,
        splits={"train": Split(images, labels, rows)},
        skipped={},
        notes=(),
    )


def write_run(
    runs_dir, name, margins, *, rivals=None, rows=ROWS, labels=LABELS, size=4, **told
):
    """A finished run with margins `[epochs, N]`, NaN where an image was not shown."""
    facts = {"fingerprint": "f" * 16} | told
    config = make_config(data__image_size=size, data__channels=1)
    folder = write(runs_dir, make_result(name, 1, data=facts, config=config))
    margins = np.array(margins, np.float32)
    open_dynamics(folder, rows, labels, len(margins))
    rivals = np.zeros(margins.shape) if rivals is None else np.array(rivals)
    for epoch, (margin, rival) in enumerate(zip(margins, rivals, strict=True), 1):
        shown = np.int32(~np.isnan(margin))
        write_epoch(folder, epoch, np.nan_to_num(margin), shown, np.int16(rival))
    return folder


GAP = np.nan
MARGINS = [
    [-1.0, 1.0, 2.0, -1.0],
    [1.0, -1.0, GAP, -2.0],
    [-3.0, 1.0, 2.0, -3.0],
    [GAP, -1.0, 4.0, GAP],
]


def test_one_run_by_hand(tmp_path):
    rivals = [[1, 0, 0, 2], [1, 2, 0, 1], [2, 0, 0, 1], [0, 2, 0, 0]]
    write_run(tmp_path, "one", MARGINS, rivals=rivals)
    found = rank_labels(tmp_path, make_dataset())
    np.testing.assert_allclose(found.margin, [-1.0, 0.0, 8 / 3, -2.0], rtol=1e-3)
    np.testing.assert_array_equal(found.forgotten, [1, 2, 0, 0])
    np.testing.assert_array_equal(found.never_right, [0, 0, 0, 1])
    np.testing.assert_allclose(found.suspicion, [2 / 3, 1 / 3, 0, 1])
    assert found.order().tolist() == [3, 0, 1, 2]
    # What was preferred while it was wrong; nothing where it never was.
    assert found.rival.tolist() == [1, 2, -1, 1]
    assert found.runs == ("one/seed_1",) and not found.left_out


def test_runs_count_alike_whatever_the_scale_of_their_margins(tmp_path):
    write_run(tmp_path, "small", [[1, 2, 3, 4]] * 2)
    write_run(tmp_path, "large", [[4000, 3000, 2000, 1000]] * 2)
    write_run(tmp_path, "third", [[40, 30, 20, 10]] * 2)
    found = rank_labels(tmp_path, make_dataset())
    assert found.order().tolist() == [3, 2, 1, 0]
    np.testing.assert_allclose(found.suspicion, [1 / 3, 4 / 9, 5 / 9, 2 / 3])


def test_what_a_run_left_out_or_hardly_saw_is_ranked_by_the_others(tmp_path):
    write_run(
        tmp_path, "part", [[9, -9, 9], [9, -9, GAP]], rows=ROWS[1:], labels=LABELS[1:]
    )
    found = rank_labels(tmp_path, make_dataset())
    assert np.isnan(found.suspicion).tolist() == [True, False, False, True]
    assert found.order().tolist() == [2, 1]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"fingerprint": "0" * 16}, "of other data"),
        (
            {"fingerprint": "0" * 16, "size": 48},
            "of other images; give --image_size 48",
        ),
        ({"labels": LABELS[::-1]}, "was trained on other labels"),
        ({"rows": ROWS + 1}, "has damaged training dynamics|other labels"),
    ],
)
def test_runs_that_do_not_tell_are_named(tmp_path, options, reason):
    write_run(tmp_path, "wrong", MARGINS, **options)
    with pytest.raises(UserError, match=f"no run in .*wrong/seed_1: ({reason})"):
        rank_labels(tmp_path, make_dataset())
    write_run(tmp_path, "right", MARGINS)
    write(tmp_path, make_result("old", 1, data={"fingerprint": "f" * 16}))
    found = rank_labels(tmp_path, make_dataset())
    assert found.runs == ("right/seed_1",)
    assert set(found.left_out) == {"old/seed_1", "wrong/seed_1"}
    assert "has no training dynamics" in found.left_out["old/seed_1"]


def test_damaged_files_and_folders_without_runs_are_told(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        rank_labels(tmp_path / "nowhere", make_dataset())
    with pytest.raises(UserError, match="it has none"):
        rank_labels(tmp_path, make_dataset())
    folder = write_run(tmp_path, "cut", MARGINS)
    path = folder / "dynamics" / "margins.npy"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="cut/seed_1: cannot be read"):
        rank_labels(tmp_path, make_dataset())


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores = rng.random(500)
    hits = rng.random(500) < 0.1 + 0.5 * scores
    order = np.argsort(-scores)
    expected = average_precision_score(hits, scores)
    found = overlap(order, hits)
    assert found["average_precision"] == pytest.approx(expected)
    assert found["chance"] == pytest.approx(hits.mean())
    assert found["first_100"] == hits[order[:100]].mean()
    assert overlap(order, np.zeros(500, bool))["average_precision"] == 0.0


def test_planted_mistakes_are_found(tmp_path):
    """In a real run, 10 of 128 labels are wrong; so few cannot be learnt in time."""
    csv = write_tiny_csv(tmp_path / "fer2013.csv")
    lines = csv.read_text().splitlines()
    wrong = np.random.default_rng(1).choice(sum(COUNTS), 10, replace=False)
    for row in wrong:
        label, rest = lines[1 + row].split(",", 1)
        lines[1 + row] = f"{(int(label) + 3) % 7},{rest}"
    csv.write_text("\n".join(lines) + "\n")
    config = tiny_config("training.epochs=8")
    run.train(config, data_root=str(csv), runs_dir=tmp_path / "runs")
    dataset = data.load(str(csv), image_size=16)
    found = rank_labels(tmp_path / "runs", dataset)
    planted = np.isin(dataset.splits["train"].rows, wrong)
    scores = overlap(found.order(), planted)
    assert scores["chance"] == pytest.approx(10 / 128)
    assert scores["average_precision"] > 0.6
    # And the class that training would have put there is the right one.
    train = dataset.splits["train"]
    right = (train.labels[planted] + 4) % 7
    assert (found.rival[planted] == right).mean() >= 0.6
