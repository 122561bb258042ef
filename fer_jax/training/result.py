"""What a run says of itself: its data at the start, and its result at the end."""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import data, metrics, runs
from fer_jax.config import Config
from fer_jax.data.duplicates.audit import Audit
from fer_jax.models import count_parameters
from fer_jax.system import files
from fer_jax.training import processes
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.loop import Progress, best_row, predict
from fer_jax.training.setup import Experiment
from fer_jax.training.step import TrainState


def describe(dataset: data.Dataset) -> dict[str, Any]:
    """The `data` block of `result.json`."""
    classes = len(dataset.class_names)
    return {
        "source": dataset.source,
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "source_fingerprint": dataset.source_fingerprint or dataset.fingerprint,
        "labels": dataset.labels,
        "chosen": dataset.subset,
        "class_names": list(dataset.class_names),
        "counts": {
            name: np.bincount(
                split.labels[split.labels >= 0], minlength=classes
            ).tolist()
            for name, split in dataset.splits.items()
        },
        "skipped": dataset.skipped,
        "left_out": dataset.left_out,
        "notes": list(dataset.notes),
        "streamed": dataset.streamed,
    }


def predict_all(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    checkpoints: Checkpoints,
    now: Progress,
) -> dict[str, np.ndarray]:
    """Logits of val, and of test for the only time, by the selected checkpoint."""
    started = time.monotonic()
    best = best_row(now.history)["step"]
    state = Progress.restore(checkpoints, best, parts).state
    logits = {
        split: _predict(config, dataset, parts, folder, state, split)
        for split in ("val", "test")
        if split in dataset.splits
    }
    now.wall_s += time.monotonic() - started
    return logits


def _predict(
    config: Config,
    dataset: data.Dataset,
    parts: Experiment,
    folder: Path,
    state: TrainState,
    split: str,
) -> np.ndarray:
    """Logits of a split; test is read once for a checkpoint, and that is noted."""
    if split == "test":
        count, step = len(dataset.splits[split].labels), int(state.step)

        def is_stored_or_noted() -> bool:
            logits = runs.stored_test_logits(folder, step)
            if logits is not None and len(logits) == count:
                return True
            runs.note_test_read(folder, step)
            return False

        if processes.of_first(is_stored_or_noted):
            return runs.stored_test_logits(folder, step)
    return predict(config, parts, state, split)


def write_result(
    config: Config,
    dataset: data.Dataset,
    audited: Audit,
    parts: Experiment,
    folder: Path,
    now: Progress,
    logits: dict[str, np.ndarray],
    asked: dict[str, Any],
) -> None:
    """Scores and writes what the selected checkpoint predicts.

    `result.json` comes last: a run without it is not finished.
    """
    started, best = time.monotonic(), best_row(now.history)
    scores: dict[str, Any] = {}
    is_clean = ~audited.has_copy_in("train", near=True)
    for split, predicted in logits.items():
        part, clean = dataset.splits[split], is_clean[audited.of(split)]
        score_by = functools.partial(
            metrics.score_with_clean,
            predicted,
            clean=clean,
            class_names=dataset.class_names,
        )
        scores[split] = score_by(part.labels)
        if part.label_sets:
            scores[split]["label_sets"] = {
                name: score_by(labels) for name, labels in part.label_sets.items()
            }
        runs.write_predictions(
            folder,
            split,
            rows=part.rows,
            image_ids=audited.identical(split),
            clean=clean,
            labels=part.labels,
            logits=predicted,
            label_sets=part.label_sets,
        )
    images = int(now.state.step) * config.training.batch_size
    result = {
        "format": runs.RESULT_FORMAT,
        "name": config.name,
        "description": config.description,
        "seed": config.training.seed,
        "config": config.model_dump(),
        **asked,
        "data": describe(dataset),
        "selection": {
            "split": "val",
            "metric": "macro_f1",
            "epoch": best["epoch"],
            "value": best["val_macro_f1"],
        },
        "epochs_run": len(now.history),
        "stopped_early": len(now.history) < config.training.epochs,
        **scores,
        "model": {
            "arch": config.model.arch,
            "parameters": count_parameters(now.state.params),
            "flops": parts.flops,  # of one image's forward pass
        },
        "environment": now.environments[-1],
        "earlier_environments": now.environments[:-1],
        "timing": {
            "wall_s": round(now.wall_s + time.monotonic() - started, 1),
            "train_s": round(now.train_s, 1),
            "images_per_s": round(images / now.train_s, 1),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    files.write_json(folder / runs.RESULT, result)
