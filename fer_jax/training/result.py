"""What a run records: its data at the start, its predictions and result at the end."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import metrics, runs
from fer_jax.config import Config, dump
from fer_jax.data import Dataset
from fer_jax.data.duplicates import hashes
from fer_jax.data.duplicates.audit import Audit
from fer_jax.errors import UserError
from fer_jax.models import count_parameters
from fer_jax.system import files
from fer_jax.training import processes
from fer_jax.training.loop import TrainingRun, predict
from fer_jax.training.progress import Progress, best_row
from fer_jax.training.step import TrainState


def describe(dataset: Dataset) -> dict[str, Any]:
    """The `data` block of `result.json`."""
    classes = len(dataset.class_names)
    return {
        "source": dataset.source,
        "description": dataset.description,
        "fingerprint": dataset.fingerprint,
        "source_fingerprint": dataset.source_fingerprint or dataset.fingerprint,
        "labels": dataset.labels,
        "chosen": dataset.subset,
        "targets": dataset.targets,
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


def begin(config: Config, dataset: Dataset, run_dir: Path, *, force: bool) -> bool:
    """Begins a run in a locked folder; returns whether it has finished before.

    Raises:
      UserError: if the folder holds another run, and `force` does not clear it.
    """
    if force:
        runs.clear(run_dir)
    described = describe(dataset)
    if changed := runs.differences(run_dir, config.model_dump(), described):
        raise UserError(
            f"{run_dir} holds another run: {'; '.join(changed)}; give this one another "
            "name with --set name=..., or replace the old one with --force"
        )
    finished = runs.is_finished(run_dir)
    if not finished and not runs.is_started(run_dir):
        files.write_json(run_dir / runs.DATA, described)
        if dataset.dropped:
            lines = "".join(f"{line}\n" for line in dataset.dropped)
            files.write_text(run_dir / runs.DROPPED, lines)
        files.write_text(run_dir / runs.CONFIG, dump(config))
    return finished


def predict_best(run: TrainingRun, progress: Progress) -> dict[str, np.ndarray]:
    """Logits of val and test by the best checkpoint; test is read here alone."""
    step = best_row(progress.history)["step"]
    best = Progress.restore(run.setup, run.checkpoints, step, run.started)
    logits = {"val": predict(run, best.state, "val")}
    if "test" in run.dataset.splits:
        logits["test"] = _predict_test(run, best.state)
    return logits


def _predict_test(run: TrainingRun, state: TrainState) -> np.ndarray:
    """Logits of test, which is read once for a checkpoint, and that is recorded."""
    count, step = len(run.dataset.splits["test"].labels), int(state.step)

    def is_stored() -> bool:
        logits = runs.stored_test_logits(run.run_dir, step)
        if logits is not None and len(logits) == count:
            return True
        runs.note_test_read(run.run_dir, step)
        return False

    if processes.of_first(is_stored):
        stored = runs.stored_test_logits(run.run_dir, step)
        assert stored is not None
        return stored
    return predict(run, state, "test")


def write_result(
    run: TrainingRun,
    progress: Progress,
    logits: Mapping[str, np.ndarray],
    audit: Audit,
    command: Mapping[str, Any],
) -> None:
    """Writes the predictions, and then `result.json`: with it the run is finished.

    `logits` are those of `predict_best`, `audit` is of the data set in the run's
    splits, and `command` is added to the record.
    """
    config, best = run.config, best_row(progress.history)
    pretrained = run.setup.pretrained
    images = int(progress.state.step) * config.training.batch_size
    result = {
        "format": runs.RESULT_FORMAT,
        "name": config.name,
        "description": config.description,
        "seed": config.training.seed,
        "config": config.model_dump(),
        **command,
        "data": describe(run.dataset),
        "selection": {
            "split": "val",
            "metric": "macro_f1",
            "epoch": best["epoch"],
            "value": best["val_macro_f1"],
        },
        "epochs_run": len(progress.history),
        "stopped_early": len(progress.history) < config.training.epochs,
        **{
            split: _write_split(run, split, predicted, audit)
            for split, predicted in logits.items()
        },
        "model": {
            "arch": config.model.arch,
            "parameters": count_parameters(progress.state.params),
            "flops": run.setup.flops,  # of one image's forward pass
            **({"pretrained": pretrained.record} if pretrained else {}),
        },
        "environment": progress.environments[-1],
        "earlier_environments": progress.environments[:-1],
        "timing": {
            "wall_s": round(progress.wall_s, 1),
            "train_s": round(progress.train_s, 1),
            "images_per_s": round(images / progress.train_s, 1),
            "finished": files.utc_time(),
        },
    }
    if pretrained and pretrained.train_hashes is not None:
        with (
            files.replacing(run.run_dir / runs.SEEN) as partial,
            partial.open("wb") as f,
        ):
            np.save(f, pretrained.train_hashes, allow_pickle=False)
    files.write_json(run.run_dir / runs.RESULT, result)


def _write_split(
    run: TrainingRun, name: str, logits: np.ndarray, audit: Audit
) -> dict[str, Any]:
    """Writes a split's predictions; returns its scores."""
    split = run.dataset.splits[name]
    clean = ~audit.has_copy_in("train", near=True)[audit.of(name)]
    pretrained = run.setup.pretrained
    if pretrained and pretrained.train_hashes is not None:
        clean &= ~hashes.are_known(split.images, pretrained.train_hashes)
    score = functools.partial(
        metrics.score_with_clean,
        logits,
        clean=clean,
        class_names=run.dataset.class_names,
    )
    scores = score(split.labels)
    if split.label_sets:
        sets = {key: score(labels) for key, labels in split.label_sets.items()}
        scores["label_sets"] = sets
    predictions = runs.StoredPredictions(
        rows=split.rows,
        image_ids=audit.identical(name),
        clean=clean,
        labels=split.labels,
        logits=logits,
        label_sets=split.label_sets,
    )
    runs.write_predictions(run.run_dir, name, predictions)
    return scores
