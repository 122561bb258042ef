"""The files of a run folder: names, readers, writers, and what may be resumed.

runs/<name>/seed_<n>/config.yaml      the resolved config
                     data.json        which images: fingerprint, classes, counts
                     dropped.txt      the bad rows or images that --skip_bad dropped
                     metrics.jsonl    one object per epoch
                     checkpoints/     the last two and the best two
                     dynamics/        margins of each train image by epoch
                     tensorboard/     event files, with --tensorboard
                     predictions_<split>.npz   rows, image_ids, clean, labels, logits
                     test_reads.jsonl one object per evaluation of test; never removed
                     result.json      written last: its presence means finished
                     failed.json      why the newest attempt failed
                     heartbeat.json   host, process and step of a running attempt
                     job.json         the SLURM job that has the run
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fer_jax.config import (
    compared_settings,
    differing_keys,
    parse,
    with_current_names,
)
from fer_jax.errors import Lost, UserError
from fer_jax.system import files
from fer_jax.system.signals import Interrupted

DROPPED = "dropped.txt"
SEEN = "seen_hashes.npy"  # of the images that the pretrained model was trained on
CONFIG, DATA, METRICS = "config.yaml", "data.json", "metrics.jsonl"
TEST_READS = "test_reads.jsonl"
CHECKPOINTS, RESULT, FAILED = "checkpoints", "result.json", "failed.json"
JOB = "job.json"
TENSORBOARD, DYNAMICS = "tensorboard", "dynamics"
RESULT_FORMAT = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy")


def run_dir(runs_dir: str | Path, name: str, seed: int) -> Path:
    """Returns the folder of a run."""
    return Path(runs_dir) / name / f"seed_{seed}"


def read_result(folder: Path) -> dict[str, Any]:
    """Returns the content of `result.json`, with current key names in its config.

    Raises:
      UserError: if it cannot be read, is not JSON, or has another format.
    """
    path = folder / RESULT
    try:
        result = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); repeat that run with --force"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    found = result.get("format") if isinstance(result, dict) else None
    if found != RESULT_FORMAT:
        raise UserError(
            f"{path} has format {found!r}, and this version reads format "
            f"{RESULT_FORMAT}; repeat that run with --force, or use the version that "
            "wrote it"
        )
    if isinstance(result.get("config"), dict):
        result["config"] = with_current_names(result["config"], str(path))
    return result


class StoredPredictions(NamedTuple):
    """The arrays of `predictions_<split>.npz`.

    Attributes:
      rows: int32 `[N]`, the row of each image in its source.
      image_ids: int32 `[N]`, equal for identical images.
      clean: bool `[N]`, whether an image has no copy in train.
      labels: int32 `[N]`, the true classes; -1 without a label.
      logits: float32 `[N, C]`.
      label_sets: other labels by name, int32 `[N]`; stored as `labels_<name>`.
    """

    rows: np.ndarray
    image_ids: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    label_sets: Mapping[str, np.ndarray] = MappingProxyType({})


def write_predictions(folder: Path, split: str, predictions: StoredPredictions) -> None:
    """Writes `predictions_<split>.npz` atomically; `split` is "val" or "test"."""
    arrays: dict[str, Any] = predictions._asdict()
    for name, labels in arrays.pop("label_sets").items():
        arrays[f"labels_{name}"] = labels
    with (
        files.replacing(folder / f"predictions_{split}.npz") as partial,
        partial.open("wb") as file,
    ):
        np.savez(file, **arrays)


def note_test_read(folder: Path, step: int) -> None:
    """Records that the checkpoint of a step is evaluated on test.

    `clear` keeps the record: a repeated run has seen test before.
    """
    row = {"time": files.utc_time(), "step": step}
    with (folder / TEST_READS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def test_reads(folder: Path) -> int:
    """Returns how many evaluations of test are recorded."""
    try:
        return (folder / TEST_READS).read_bytes().count(b"\n")
    except OSError:
        return 0


def stored_test_logits(folder: Path, step: int) -> np.ndarray | None:
    """Returns the stored test logits, if they are of the checkpoint of that step.

    An attempt that ended before its result was written does not read test again.
    """
    try:
        last = (folder / TEST_READS).read_text("utf-8").splitlines()[-1]
        with np.load(folder / "predictions_test.npz", allow_pickle=False) as file:
            return file["logits"] if json.loads(last)["step"] == step else None
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile):
        return None


@contextlib.contextmanager
def noting_failure(folder: Path) -> Iterator[None]:
    """Writes `failed.json` if the attempt fails, and removes that of an earlier one.

    A signal or the loss of another process is no failure: the run can be resumed.
    """
    (folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except (Interrupted, Lost):
        raise
    except UserError as error:
        note_failure(folder, str(error))
        raise
    except Exception as error:
        note_failure(folder, f"{type(error).__name__}: {error}")
        raise


def note_failure(folder: Path, error: str) -> None:
    """Writes `failed.json` if possible; an error here must not hide the first one."""
    now = files.utc_time()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(
            folder / FAILED, {"time": now, "error": " ".join(error.split())}
        )


def failure(folder: Path) -> str | None:
    """Returns why the newest attempt at an unfinished run failed, or None."""
    if is_finished(folder) or not os.path.isfile(folder / FAILED):
        return None
    try:
        return str(json.loads((folder / FAILED).read_text("utf-8"))["error"])
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return f"unknown: {FAILED} cannot be read"


def read_job(folder: Path) -> dict[str, Any] | None:
    """Returns the content of `job.json`, or None if no SLURM job ever had the run.

    Its keys are executor ("slurm"), id ("123_0"), time (of submission, seconds since
    1970), attempt (from 1), log (a path) and state ("submitted" or "ended: ...").

    Raises:
      UserError: if it is damaged.
    """
    path = folder / JOB
    if not os.path.isfile(path):
        return None
    try:
        job = json.loads(path.read_text("utf-8"))
        kinds = {"id": str, "state": str, "log": str, "time": float, "attempt": int}
        return job | {key: kind(job[key]) for key, kind in kinds.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        raise UserError(
            f"{path} cannot be read, so it is unknown whether a job has the run; see "
            "squeue, and remove the file if no job has it"
        ) from None


def is_finished(folder: Path) -> bool:
    """Returns whether the run has a result."""
    return os.path.isfile(folder / RESULT)


def is_started(folder: Path) -> bool:
    """Returns whether the run was started, finished or not."""
    return os.path.isfile(folder / CONFIG)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of `metrics.jsonl`, one per epoch.

    Raises:
      UserError: if it cannot be read.
    """
    path = folder / METRICS
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def epochs_done(folder: Path) -> int:
    """Returns how many epochs are recorded."""
    try:
        return (folder / METRICS).read_bytes().count(b"\n")
    except OSError:
        return 0


def differences(
    folder: Path, config: Mapping[str, Any], data: Mapping[str, Any] | None = None
) -> list[str]:
    """Returns how the run in a folder differs from this config and these images.

    `config.compared_settings` defines which settings matter. Without `data`, only the
    configs are compared.

    Returns:
      phrases such as "training.lr is 0.001 there and 0.0003 here"; empty if the run
      may be resumed or was not started.

    Raises:
      UserError: if the files of the folder cannot be read.
    """
    if not is_started(folder):
        return []
    try:
        if not os.path.isfile(folder / DATA):  # opening a pipe would block
            raise FileNotFoundError
        path = folder / CONFIG
        saved = parse(path.read_text("utf-8"), str(path))
        old = compared_settings(with_current_names(saved, str(path)), seed=True)
        old_data = json.loads((folder / DATA).read_text("utf-8"))
        old["data set"] = _data_set(old_data)
    except (
        *(OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError),
        UserError,
    ):
        raise UserError(
            f"{folder} contains a run whose {CONFIG} or {DATA} is missing or damaged; "
            "start again with --force"
        ) from None
    new = compared_settings(config, seed=True)
    keys = ("fingerprint", "chosen", "targets")
    if not data or all(old_data.get(key, "") == data.get(key, "") for key in keys):
        new["data set"] = old["data set"]
    else:
        new["data set"] = _data_set(data)
    return [
        f"{key} is {old.get(key, 'absent')} there and {new.get(key, 'absent')} here"
        for key in differing_keys([new, old])
    ]


def _data_set(data: Mapping[str, Any]) -> str:
    parts = [data["fingerprint"]]
    if chosen := data.get("chosen"):
        parts.append(f"of which {chosen}")
    if targets := data.get("targets"):
        parts.append(f"with the targets {targets}")
    return f"{data['description']} [{', '.join(parts)}]"


def clear(folder: Path) -> None:
    """Removes the files of a run, and nothing else.

    Checkpoints go before the config: a run that was cleared in part must not resume
    from them.
    """
    (folder / RESULT).unlink(missing_ok=True)  # first: now it is not finished
    for name in (CHECKPOINTS, TENSORBOARD, DYNAMICS):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for pattern in ("predictions_*.npz", ".*.partial", FAILED):
        for path in folder.glob(pattern):
            path.unlink()
    for name in (METRICS, DROPPED, SEEN, DATA, CONFIG):
        (folder / name).unlink(missing_ok=True)


def environment(device: str, compute_dtype: str) -> dict[str, Any]:
    """Returns what a run is computed with: packages, code, device."""
    root = files.IMPORT_ROOT
    git = [
        "git",
        "-C",
        str(root),
        f"--git-dir={root / '.git'}",
    ]  # not a parent folder's
    try:
        commit = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        commit = None  # no checkout, or no git
    return {
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "git_commit": commit,
        "device": device,
        "compute_dtype": compute_dtype,
    }
