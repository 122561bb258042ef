import pytest
from conftest import tiny_config

from fer_jax import runs
from fer_jax.batch.estimate import Estimator, paces
from fer_jax.batch.plan import PlannedRun
from fer_jax.system import files


@pytest.fixture
def finish(tmp_path):
    """A function that writes a finished run on 100 images, by its epochs' ends."""

    def write(config, *ends):
        folder = runs.run_dir(tmp_path, config.name, config.training.seed)
        folder.mkdir(parents=True)
        files.write_jsonl(folder / runs.METRICS, [{"wall_s": end} for end in ends])
        result = {
            "format": runs.RESULT_FORMAT,
            "config": config.model_dump(mode="json"),
            "data": {"counts": {"train": [60, 40]}},
            "epochs_run": len(ends),
        }
        files.write_json(folder / runs.RESULT, result)

    return write


def estimate(tmp_path, config):
    planned = PlannedRun(tmp_path / "baseline.yaml", config, tmp_path / "new")
    return Estimator(tmp_path, {config.data: 1000}).seconds([planned])


def test_the_start_counts_once_and_the_epochs_by_their_images(finish, tmp_path):
    finish(tiny_config("name=one"), 65.0, 70.0, 75.0)  # an epoch takes 5 s
    longer = tiny_config("training.epochs=4")
    assert estimate(tmp_path, longer) == pytest.approx(60 + 4 * 50)


def test_runs_of_the_same_network_are_believed_before_others(finish, tmp_path):
    finish(tiny_config("name=one", "model.width=0.125"), 65.0, 70.0)
    wide = tiny_config("training.epochs=1", "model.width=2.0")
    assert estimate(tmp_path, wide) == pytest.approx(60 + 50)  # better than none
    finish(tiny_config("name=two", "model.width=2.0"), 90.0, 170.0)
    assert estimate(tmp_path, wide) == pytest.approx(10 + 800)


def test_a_run_of_one_epoch_does_not_tell_its_start_from_the_rest(finish, tmp_path):
    finish(tiny_config("name=one"), 65.0)
    assert not paces(tmp_path)
    planned = PlannedRun(tmp_path / "baseline.yaml", tiny_config(), tmp_path / "new")
    assert Estimator(tmp_path, {}).phrase([planned]).startswith("; no estimate")
