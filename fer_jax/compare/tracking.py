"""Hands finished runs over to an MLflow server or folder: settings, curves, scores."""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_jax.compare.results import FinishedRun
from fer_jax.errors import UserError
from fer_jax.metrics import CLASS_METRICS, METRICS
from fer_jax.runs.folder import CONFIG, RESULT, read_metrics
from fer_jax.runs.folder import METRICS as METRICS_FILE

EXPERIMENT = "fer_jax"
_KEY = "fer_jax.run"  # the tag that says which run it is
_ONCE = 1000, 100  # metrics and params that a request may hold


def log(runs: Sequence[FinishedRun], uri: str) -> tuple[int, int]:
    """Logs runs to MLflow's experiment `fer_jax`, those that it does not have yet.

    A run's settings become params, its epochs and its scores metrics, and its config,
    result and metrics files artefacts.

    Args:
      runs: finished ones.
      uri: MLflow's tracking URI, as http://127.0.0.1:5000.

    Returns:
      how many were logged, and how many were there already.

    Raises:
      UserError: MLflow is missing or refuses.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UserError(
            "--mlflow needs MLflow, which is not installed: "
            'pip install "fer_jax[mlflow]"'
        ) from None
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # not two minutes
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        place = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        new = [run for run in runs if not _is_there(client, place, run)]
        for run in new:
            _log_run(client, place, run)
    except MlflowException as error:
        if (switch := "MLFLOW_ALLOW_FILE_STORE") in error.message:
            told = f"MLflow writes to a folder only if {switch}=true is set"
        else:
            told = error.message.split(" (Caused by")[0]
        raise UserError(f"--mlflow {uri}: {told}") from None
    except OSError as error:
        raise UserError(f"--mlflow {uri}: {error.strerror or error}") from None
    return len(new), len(runs) - len(new)


def _is_there(client: Any, place: str, run: FinishedRun) -> bool:
    query = f"tags.`{_KEY}` = '{_identity(run)}' and attributes.status = 'FINISHED'"
    return bool(client.search_runs([place], filter_string=query, max_results=1))


def _identity(run: FinishedRun) -> str:
    """A digest, in which a run that was trained again is another one."""
    text = f"{run.label} {run.fingerprint} {run.timing['wall_s']}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _log_run(client: Any, place: str, run: FinishedRun) -> None:
    from mlflow.entities import Metric, Param

    tags = {
        _KEY: _identity(run),
        "experiment": run.name,
        "question": run.description,
        "data": run.data["description"],
        "data_fingerprint": run.fingerprint,
        "device": run.device,
    }
    made = client.create_run(place, run_name=run.label, tags=tags)
    now = int(1000 * time.time())
    params = [
        Param(key, str(value)) for key, value in run.config.items() if value != ""
    ]
    metrics = [Metric(key, value, now, step) for key, value, step in _metrics(run)]
    for start in range(0, len(params), _ONCE[1]):
        client.log_batch(made.info.run_id, params=params[start : start + _ONCE[1]])
    for start in range(0, len(metrics), _ONCE[0]):
        client.log_batch(made.info.run_id, metrics=metrics[start : start + _ONCE[0]])
    for name in (CONFIG, RESULT, METRICS_FILE):
        if (path := Path(run.folder) / name).exists():
            client.log_artifact(made.info.run_id, str(path))
    client.set_terminated(made.info.run_id)


def _metrics(run: FinishedRun) -> list[tuple[str, float, int]]:
    """(name, value, epoch) of all epochs, then of the kept checkpoint."""
    try:
        epochs = read_metrics(run.folder)
    except UserError:
        epochs = []
    found = [
        (f"epoch.{key}", float(value), int(row["epoch"]))
        for row in epochs
        for key, value in row.items()
        if key != "epoch" and isinstance(value, int | float)
    ]
    last = int(run.selection["epoch"])
    for split, scores in run.scores.items():
        found += [(f"{split}.{metric}", scores[metric], last) for metric in METRICS]
        for emotion, own in scores["per_class"].items():
            found += [
                (f"{split}.{metric}.{emotion}", own[metric], last)
                for metric in CLASS_METRICS
                if own[metric] is not None
            ]
    return [row for row in found if row[1] == row[1]]
