"""Copies of finished runs with what a comparison needs, small enough to publish.

A run of FER2013 takes 90 KB: its config, data, metrics, result and predictions. Logits
become float16, and paths become file names. `bin/compare --runs_dir` reads the copies
as it reads the runs.
"""

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fer_jax import runs
from fer_jax.compare.predictions import read_file
from fer_jax.compare.results import SPLITS
from fer_jax.errors import UserError
from fer_jax.system.files import replacing


def publish(finished: Sequence[Path], target: Path) -> list[Path]:
    """Writes finished runs as `target/<name>/seed_<n>/`; returns these folders.

    A run that is already there is replaced by the same.

    Raises:
      UserError: if another run is there under that name, or a file cannot be read or
        written.
    """
    copies = {}
    for run_dir in finished:
        folder = target / run_dir.parent.name / run_dir.name
        if folder.resolve() == run_dir.resolve():
            raise UserError(
                f"--publish {target} is the folder of the runs themselves; name another"
            )
        copies[folder] = _copy(run_dir)
    for folder, contents in copies.items():
        _check_free(folder, contents)
    for folder, contents in copies.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in contents.items():  # the result is the last
                with replacing(folder / name) as partial:
                    partial.write_bytes(content)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written: {error.strerror}; name another folder "
                "with --publish"
            ) from None
    return list(copies)


def _check_free(folder: Path, contents: dict[str, bytes]) -> None:
    if runs.is_finished(folder) and runs.read_result(folder) != json.loads(
        contents[runs.RESULT]
    ):
        raise UserError(
            f"{folder} holds another run; name another folder with --publish, or "
            "remove that one first"
        )


def _copy(run_dir: Path) -> dict[str, bytes]:
    """The content of each file of the copy, by name."""
    result = _without_paths(runs.read_result(run_dir))
    rows = runs.read_metrics(run_dir)
    config = yaml.safe_dump(result["config"], sort_keys=False, allow_unicode=True)
    return {
        runs.CONFIG: config.encode(),
        runs.DATA: _json(result["data"]),
        runs.METRICS: "".join(json.dumps(row) + "\n" for row in rows).encode(),
        **{
            f"predictions_{split}.npz": _predictions(run_dir, split)
            for split in SPLITS
            if split in result
        },
        runs.RESULT: _json(result),
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _without_paths(value: Any) -> Any:
    """Replaces absolute paths by the names of their files, also behind `key=`."""
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    if isinstance(value, str):
        key, equals, path = value.rpartition("=")
        if os.path.isabs(path) or path.startswith("~"):
            return key + equals + Path(path).name
    return value


def _predictions(run_dir: Path, split: str) -> bytes:
    arrays: dict[str, Any] = read_file(run_dir / f"predictions_{split}.npz")
    arrays["logits"] = _as_float16(arrays["logits"])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _as_float16(logits: np.ndarray) -> np.ndarray:
    """Rounds logits `[N, C]`; each image keeps its predicted class."""
    rounded = logits.astype(np.float16)
    images, classes = np.arange(len(logits)), logits.argmax(axis=1)
    above = np.nextafter(rounded.max(axis=1), np.float16(np.inf))
    changed = rounded.argmax(axis=1) != classes
    rounded[images[changed], classes[changed]] = above[changed]
    if not np.isfinite(rounded).all():
        raise UserError(
            f"logits of up to {np.abs(logits).max():.3g} do not fit in float16; leave "
            "that run out with --filter"
        )
    return rounded
