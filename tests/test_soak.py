"""The soaks of tests/soak in a short form."""

import re

import pytest
from conftest import TINY
from run_soak import soak

pytestmark = pytest.mark.slow


def test_killed_runs_and_batches_end_like_undisturbed_ones():
    done = soak("kills.py", "--kills", 3, "--seed", 2, "--only", "balance_sampler",
                "--tiny", optimised=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kills in " in done.stdout
    same = r"(\d+) runs ended like their undisturbed twins, bit for bit"
    assert int(re.search(same, done.stdout)[1]) >= 2


def test_long_runs_do_not_grow(tiny_csv):
    tiny = [part for item in TINY if item.startswith(("augmentation.", "model."))
            for part in ("--set", item)]  # fmt: skip
    done = soak("growth.py", "--epochs", 40, "--from", 15, "--image_size", 16,
                "--data_root", tiny_csv, *tiny)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_streaming_needs_little_memory():
    # Without its training steps, whose numbers test_streaming.py compares.
    done = soak("stream.py", "--images", 600, "--image_size", 64, "--steps", 0,
                "--most_mb", 100)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("read: ") == 2


def test_memory_is_bounded_whatever_the_size_of_the_set():
    # All images held at once would take 200 MB more.
    done = soak("million.py", "--images", 20_000, "--tenth", "--read_s", 0.5,
                "--only", "prepare", "--only", "read", "--only", "audit",
                "--at_once", 1000, "--grow_mb", 130)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "near_percent" in done.stdout
