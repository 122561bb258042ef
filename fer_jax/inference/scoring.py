"""How good trained models are on labelled images, by the statistics of compare.

A model is an experiment with one run; several see the same images and are compared
with the first.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy
from rich.console import Console

from fer_jax.compare import content, export
from fer_jax.compare.analysis import summarise
from fer_jax.compare.predictions import Predictions
from fer_jax.compare.results import FinishedRun
from fer_jax.compare.summary import Summary
from fer_jax.config import Asks
from fer_jax.data import Dataset
from fer_jax.data.lazy_images import chunks
from fer_jax.emotions import canonical
from fer_jax.errors import UserError
from fer_jax.inference.labelled import Labelled, have_copies, is_of, load_labelled
from fer_jax.inference.predictor import Predictor
from fer_jax.metrics import score, score_with_clean
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import progress


class Judged(NamedTuple):
    """What a model predicts on the images."""

    run: FinishedRun  # the model as `compare` takes it
    logits: np.ndarray  # float32 [N, C]
    copies: np.ndarray | None  # bool [N]: of its train images; None: not known
    trained_here: bool  # on these data
    labels: Sequence[str]  # all that the model knows


class Evaluation(NamedTuple):
    """Models on labelled images."""

    images: Labelled
    judged: list[Judged]
    predictions: Predictions  # of all models
    summary: Summary  # a model is an experiment with one run, the first the baseline


def evaluate(
    data_root: str | None,
    models: Sequence[str],
    *,
    split: str | None = None,
    skip_bad: bool = False,
    console: Console | None = None,
) -> Evaluation:
    """Scores models on labelled images.

    Args:
      data_root: as `data.load` takes it.
      models: folders that `bin/export` wrote, or names of models that ship. The first
        is what the others are compared with, on the classes that all of them know.
      split: "train", "val", "test" or "all"; None: test, or else val, or all of data
        without splits.
      skip_bad: drop bad rows and images instead of refusing them.
      console: shows progress; None shows nothing.

    Raises:
      UserError: for bad data or models.
    """
    names = list(dict.fromkeys(models))
    stored = [model_file.read(name) for name in names]
    known = _shared_labels(names, stored)
    keep_compiled()
    console = console or Console(quiet=True)
    judged: list[Judged] = []
    seen: Labelled | None = None  # by the first model
    for name, model in zip(names, stored, strict=True):
        images = load_labelled(
            data_root,
            model,
            known,
            split=seen.split if seen else split,
            skip_bad=skip_bad,
            console=console,
        )
        seen = seen or images
        if images.places != seen.places:
            raise UserError(
                f"{name} and {names[0]} do not see the same images of "
                f"{images.dataset.description}; name another --split"
            )
        judged.append(_judge(name, model, images, seen.dataset, console))
    assert seen
    logits = np.stack([each.logits for each in judged]).astype(np.float64)
    predictions = Predictions(
        labels=seen.labels,
        image_ids=seen.image_ids,
        probabilities=scipy.special.softmax(logits, axis=2),
    )
    summary = summarise(
        [each.run for each in judged],
        seen.split,
        sort="name",
        baseline=judged[0].run.name,
        load=lambda *_: predictions,
    )
    return Evaluation(seen, judged, predictions, summary)


def to_json(found: Evaluation, command: str) -> str:
    """All scores, as `bin/compare --export FILE.json` writes them."""
    split = found.images.split
    runs = [each.run for each in found.judged]
    whole = content.build(
        {split: found.summary}, runs, [], split=split, command=command
    )
    return export.to_json(whole)


def to_csv(found: Evaluation) -> str:
    """A row for each image and model.

    Columns: model, split, row, file, label, prediction, correct, the probability of
    each label as `p_<label>`, and whether the image is a copy of what the model was
    trained on (empty: not known).
    """
    images, parts = found.images, []
    labels = np.array(found.judged[0].run.class_names)
    places = pd.DataFrame(images.places, columns=["split", "row", "file"])
    for judged, probabilities in zip(
        found.judged, found.predictions.probabilities, strict=True
    ):
        table = places.assign(
            label=labels[images.labels], prediction=labels[probabilities.argmax(axis=1)]
        )
        table.insert(0, "model", judged.run.name)
        table["correct"] = table["label"] == table["prediction"]
        table[[f"p_{label}" for label in labels]] = probabilities.round(6)
        table["copy_in_train"] = "" if judged.copies is None else judged.copies
        parts.append(table)
    return pd.concat(parts).to_csv(index=False)


def _judge(
    name: str, model: ModelFile, images: Labelled, data: Dataset, console: Console
) -> Judged:
    """A model's predictions and scores on images, which go by the name of `data`."""
    predictor, rows = Predictor(model), []
    with progress(console) as bar:
        task = bar.add_task(f"{name}: predicting", total=len(images.labels))
        for chunk in chunks(images.images):
            rows.append(predictor.logits(chunk))
            bar.update(task, advance=len(chunk))
    own = canonical(predictor.labels)
    logits = np.concatenate(rows)[:, [own.index(label) for label in images.known]]
    copies = have_copies(images, model, console)
    if copies is None:
        scores = score(logits, images.labels, images.known)
    else:
        scores = score_with_clean(logits, images.labels, ~copies, images.known)
    run = _as_run(name, model, images, data, scores)
    trained_here = is_of(images.dataset, model)
    return Judged(run, logits, copies, trained_here, predictor.labels)


def _as_run(
    name: str,
    model: ModelFile,
    images: Labelled,
    dataset: Dataset,
    scores: dict[str, Any],
) -> FinishedRun:
    """A model as the comparison takes runs; what is not known is NaN."""
    info = model.info
    minutes = info.get("train_s", math.nan)
    return FinishedRun(
        folder=model.folder,
        name=name,
        description="",  # that of its run asks about other runs
        seed=info.get("seed", 0),
        config={},
        asks=Asks(),
        data={
            "source": dataset.source,
            "description": dataset.description,
            "fingerprint": dataset.fingerprint,
            "class_names": [*images.known],
            "notes": list(dataset.notes),
        },
        selection=info.get("selection", {}) | {"split": ""},
        scores={images.split: scores},
        epochs_run=0,
        stopped_early=False,
        parameters=info.get("network", {}).get("parameters", 0),
        device=info.get("hardware", ""),
        timing={"train_s": minutes, "wall_s": minutes, "images_per_s": math.nan},
    )


def _shared_labels(names: Sequence[str], models: Sequence[ModelFile]) -> list[str]:
    """The labels that all models know, in the order of the first.

    Raises:
      UserError: if they are fewer than two.
    """
    first, *others = (canonical(model.description.labels) for model in models)
    shared = [name for name in first if all(name in other for other in others)]
    if len(shared) < 2:
        raise UserError(
            f"the models {', '.join(names)} have {', '.join(shared) or 'no label'} in "
            "common, expected at least two; evaluate them one at a time"
        )
    return shared
