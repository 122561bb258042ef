"""The header and the notes."""

import re

import pytest
from fake_runs import make_result, write
from printed import row, section, text_of

from fer_jax import runs
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")


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


def test_what_was_set_in_all_runs_is_noted(tmp_path):
    for name in ("baseline", "b"):
        result = make_result(name, 1)
        result["overrides"] = ["training.epochs=5", f"name={name}", f"loss.type={name}"]
        write(tmp_path, result)
    assert "set in all runs: training.epochs=5\n" in text_of(tmp_path)
