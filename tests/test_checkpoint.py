import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.checkpoint import Checkpoints


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


def test_keeps_the_last_two_and_the_earliest_best(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for step, score in enumerate([0.1, 0.5, 0.5, 0.3, 0.2], 1):
            save(checkpoints, step, score)
        assert kept(tmp_path / "c") == [2, 4, 5]
        # One saved in the middle of an epoch has no score and is never the best.
        checkpoints.save(6, tree(6), {"history": []})
        checkpoints.save(7, tree(7), {"history": []})
        assert kept(tmp_path / "c") == [2, 6, 7]


def test_comes_back_bit_for_bit_in_another_opening(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
        save(checkpoints, 1, 0.1)
        save(checkpoints, 2, 0.2)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest == 2
        for step in (1, 2):
            loaded, record = checkpoints.load(step, tree(0))
            assert record == {"history": [step]}
            jax.tree.map(np.testing.assert_array_equal, loaded, tree(step))
            same = jax.tree.map(lambda a, b: a.dtype == b.dtype, loaded, tree(step))
            assert all(jax.tree.leaves(same))


def test_a_step_saved_again_is_replaced(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(4, tree(1), {"history": []})
        save(checkpoints, 4, 0.5)
        loaded, record = checkpoints.load(4, tree(0))
        assert record == {"history": [4]}
        assert loaded["step"] == 4


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        save(checkpoints, 1, 0.1)
    left = tmp_path / "c" / "2.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "half").write_text("")
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest == 1
        save(checkpoints, 2, 0.1)
    assert kept(tmp_path / "c") == [1, 2]
