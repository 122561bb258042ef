import resource
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax.errors import UserError
from fer_jax.inference.from_run import evaluated_weights
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.step import TrainState


def tree(value):
    return {
        "weights": {0: jnp.full((3, 4), value, jnp.float32)},
        "narrow": jnp.asarray([value / 3], jnp.bfloat16),
        "step": jnp.int32(value),
    }


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir())


def save(checkpoints, step, score):
    metrics = {"macro_f1": score, "epoch": step}
    checkpoints.save(step, tree(step), {"history": [step]}, metrics)


def test_keeps_the_last_two_and_the_earliest_best_two(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, score in enumerate([0.1, 0.5, 0.4, 0.5, 0.5, 0.3, 0.2], 1):
            save(checkpoints, step, score)
        assert kept(tmp_path / "c") == [2, 4, 6, 7]
        # One saved in the middle of an epoch has no score and is never the best.
        checkpoints.save(8, tree(8), {"history": []})
        checkpoints.save(9, tree(9), {"history": []})
        assert kept(tmp_path / "c") == [2, 4, 8, 9]


def test_comes_back_bit_for_bit_in_another_opening(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == []
        save(checkpoints, 1, 0.1)
        save(checkpoints, 2, 0.2)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == [2, 1]
        for step in (1, 2):
            loaded = checkpoints.load(step, tree(0))
            assert checkpoints.record(step) == {"history": [step]}
            jax.tree.map(np.testing.assert_array_equal, loaded, tree(step))
            same = jax.tree.map(lambda a, b: a.dtype == b.dtype, loaded, tree(step))
            assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("averaged", [None, (tree(5), {"mean": jnp.zeros(2)})])
def test_comes_back_without_a_tree_to_compare_with(tmp_path, averaged):
    rest = {"mean": jnp.ones(2)}, (None, tree(2)), averaged
    state = TrainState(jnp.int32(3), tree(1), *rest)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, {"state": state}, {})
        found = checkpoints.load_as_saved(3)["state"]
    assert found["step"] == 3 and found["params"]["narrow"].dtype == jnp.bfloat16
    weights = found["params"]["weights"]["0"]
    np.testing.assert_array_equal(weights, np.full((3, 4), 1, np.float32))
    np.testing.assert_array_equal(found["batch_stats"]["mean"], np.ones(2))
    params, batch_stats = evaluated_weights({"state": found})
    value, mean = (5, np.zeros(2)) if averaged else (1, np.ones(2))
    np.testing.assert_array_equal(params["weights"]["0"], np.full((3, 4), value))
    np.testing.assert_array_equal(batch_stats["mean"], mean)


def test_a_step_saved_again_is_replaced(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, tree(1), {"history": []})
        save(checkpoints, 4, 0.5)
        loaded = checkpoints.load(4, tree(0))
        assert checkpoints.record(4) == {"history": [4]}
        assert loaded["step"] == 4


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        save(checkpoints, 1, 0.1)
    left = tmp_path / "c" / "2.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "half").write_text("")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == [1]
        save(checkpoints, 2, 0.1)
    assert kept(tmp_path / "c") == [1, 2]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with checkpoints 1, 2 and 3, to be copied."""
    folder = tmp_path_factory.mktemp("three") / "c"
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, step, -step)
    return folder


def harmed(path, harm):
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        place = int(harm * len(content))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
        )


@pytest.mark.parametrize("harm", ["missing", "cut", 0.0, 0.3, 0.6, 0.99])
def test_damage_to_any_file_of_the_newest_is_noticed(three, tmp_path, harm):
    paths = [path for path in (three / "3").rglob("*") if path.is_file()]
    assert len(paths) > 5
    for number, path in enumerate(paths):
        folder = tmp_path / str(number)
        shutil.copytree(three, folder)
        harmed(folder / path.relative_to(three), harm)
        with Checkpoints(folder) as checkpoints:
            assert len(checkpoints.left_out) == 1
            assert checkpoints.left_out[0].startswith("step 3: ")
            assert checkpoints.steps == [2, 1]
            loaded = checkpoints.load(2, tree(0))
            jax.tree.map(np.testing.assert_array_equal, loaded, tree(2))
        # What was damaged is gone, and said once.
        with Checkpoints(folder) as checkpoints:
            assert checkpoints.left_out == []


def test_with_none_left_the_opening_says_so_and_removes_nothing(three, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(three, folder)
    for step in (1, 2, 3):
        harmed(folder / str(step) / "_CHECKPOINT_METADATA", 0.5)
    with pytest.raises(UserError, match=r"step 3: _CHECKPOINT_METADATA is not .*force"):
        Checkpoints(folder).__enter__()
    assert kept(folder) == [1, 2, 3]


def test_damage_after_the_opening_is_noticed_on_loading(three, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(three, folder)
    with Checkpoints(folder) as checkpoints:
        (data,) = (folder / "2" / "state").glob("ocdbt.process_0/d/*")
        harmed(data, 0.5)
        with pytest.raises(UserError, match="step 2: .* is not what was written"):
            checkpoints.load(2, tree(0))


def test_the_sums_are_those_of_sha256sum(three):
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(check, cwd=three / "3", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK\n") > 5


def test_a_file_size_limit_is_an_oserror_and_spares_the_earlier(tmp_path):
    # Compiled before files are limited; it does not compress.
    large = {"weights": jax.random.normal(jax.random.key(0), (50_000,))}
    with Checkpoints(tmp_path / "c") as checkpoints:
        save(checkpoints, 1, 0.1)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                checkpoints.save(2, large, {"history": []})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps == [1]
        assert checkpoints.left_out == []
        checkpoints.save(2, large, {"history": []})
        assert checkpoints.steps == [2, 1]
