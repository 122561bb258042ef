import builtins

import pytest
from fake_runs import make_result, write

from fer_jax.compare import load, main
from fer_jax.compare.tracking import EXPERIMENT, log
from fer_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("few_draws")


def test_without_mlflow_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path, make_result("a", 1))
    found, real = load(tmp_path), builtins.__import__

    def fail(name, *args, **options):
        if name.startswith("mlflow"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(UserError, match=r'pip install "fer_jax\[mlflow\]"'):
        log(found.finished, "http://127.0.0.1:1")


def test_runs_are_logged_once_with_settings_curves_and_files(
    tmp_path, monkeypatch, capsys
):
    mlflow = pytest.importorskip("mlflow")
    uri = (tmp_path / "mlruns").as_uri()
    folder = write(tmp_path / "runs", make_result("a", 1))
    command = [str(tmp_path / "runs"), "--mlflow", uri]
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(UserError, match="only if MLFLOW_ALLOW_FILE_STORE=true is set"):
        main(command)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert main(command) == 0
    assert f"logged: 1 run to {uri}\n" in capsys.readouterr().out
    write(tmp_path / "runs", make_result("a", 2))
    assert main(command) == 0
    assert f"logged: 1 run to {uri}, 1 were there" in capsys.readouterr().out
    client = mlflow.MlflowClient(uri)
    place = client.get_experiment_by_name(EXPERIMENT).experiment_id
    logged = {run.info.run_name: run for run in client.search_runs([place])}
    assert sorted(logged) == ["a/seed_1", "a/seed_2"]
    run = logged["a/seed_1"]
    assert run.info.status == "FINISHED"
    assert run.data.params["training.lr"] == "0.0003"
    own = load(tmp_path / "runs").runs.set_index("seed").loc[1]
    assert run.data.metrics["val.macro_f1"] == pytest.approx(own["macro_f1"])
    assert run.data.metrics["val.f1.fear"] == pytest.approx(own["f1_fear"])
    curve = client.get_metric_history(run.info.run_id, "epoch.val_loss")
    assert [point.step for point in curve] == [*range(1, 22)]
    files = {each.path for each in client.list_artifacts(run.info.run_id)}
    there = {path.name for path in folder.iterdir()}
    assert files == there & {"config.yaml", "result.json", "metrics.jsonl"}


def test_a_log_that_was_interrupted_is_made_again(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write(tmp_path / "runs", make_result("it's", 1))
    found, uri = load(tmp_path / "runs"), (tmp_path / "mlruns").as_uri()

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_artifact", stop)
        with pytest.raises(KeyboardInterrupt):
            log(found.finished, uri)
    assert log(found.finished, uri) == (1, 0)
    assert log(found.finished, uri) == (0, 1)
