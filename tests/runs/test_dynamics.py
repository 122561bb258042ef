"""What each epoch said of each image: written in place, kept over a resume."""

import io

import numpy as np
from conftest import COUNTS

from fer_jax.runs.dynamics import open_dynamics, write_epoch


def load(folder, name):
    return np.load(folder / "dynamics" / f"{name}.npy")


def start(folder, epochs=3, images=4):
    rows = 10 + np.arange(images, dtype=np.int32)
    open_dynamics(folder, rows, rows % 2, epochs)
    return rows


def test_an_epoch_is_a_line_of_means_and_gaps_where_nothing_was_shown(tmp_path):
    rows = start(tmp_path)
    margin, shown = np.float32([1.0, -3.0, 0.0, 5.0]), np.int32([1, 2, 0, 4])
    write_epoch(tmp_path, 2, margin, shown, np.int16([3, 2, 1, 0]))
    np.testing.assert_array_equal(load(tmp_path, "rows"), rows)
    np.testing.assert_array_equal(load(tmp_path, "labels"), rows % 2)
    margins, rivals = load(tmp_path, "margins"), load(tmp_path, "rivals")
    assert margins.dtype == np.float16 and margins.shape == (3, 4)
    np.testing.assert_array_equal(margins[1], [1.0, -1.5, np.nan, 1.25])
    np.testing.assert_array_equal(rivals[1], [3, 2, -1, 0])
    assert np.isnan(margins[[0, 2]]).all() and (rivals[[0, 2]] == -1).all()


def test_the_files_are_as_numpy_would_save_them(tmp_path):
    start(tmp_path, epochs=3, images=5)
    for name, gap in (("margins", np.float16(np.nan)), ("rivals", np.int16(-1))):
        file = io.BytesIO()
        np.save(file, np.full((3, 5), gap))
        assert (tmp_path / "dynamics" / f"{name}.npy").read_bytes() == file.getvalue()


def test_a_resumed_run_keeps_its_lines_and_a_damaged_file_begins_anew(tmp_path):
    start(tmp_path)
    ones = np.ones(4, np.int32)
    write_epoch(tmp_path, 1, np.float32(ones), ones, np.int16(ones))
    start(tmp_path)
    np.testing.assert_array_equal(load(tmp_path, "margins")[0], ones)
    path = tmp_path / "dynamics" / "margins.npy"
    path.write_bytes(path.read_bytes()[:-3])
    start(tmp_path)
    assert np.isnan(load(tmp_path, "margins")).all()
    np.testing.assert_array_equal(load(tmp_path, "rivals")[0], ones)


def test_a_run_writes_a_line_for_each_of_its_epochs(finished_run):
    folder, result = finished_run
    margins, labels = load(folder, "margins"), load(folder, "labels")
    assert margins.shape == (result["config"]["training"]["epochs"], sum(COUNTS))
    np.testing.assert_array_equal(np.bincount(labels), COUNTS)
    seen = ~np.isnan(margins)
    # Drawn with replacement, an epoch of 128 images shows about 63 % of them.
    assert (seen.mean(axis=1) > 0.4).all() and (seen.mean(axis=1) < 0.9).all()
    # The images are easy, and what is learnt of them shows.
    means = np.nanmean(np.float32(margins), axis=1)
    assert means[-1] > max(means[0], 0)
    rivals = load(folder, "rivals")
    assert ((rivals >= 0) == seen).all()
    assert (rivals != labels)[seen].all()
