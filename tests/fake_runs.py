"""Finished runs that nobody trained: predictions drawn at will, and their scores."""

import json
from pathlib import Path

import numpy as np

from fer_jax import runs
from fer_jax.emotions import EMOTIONS
from fer_jax.metrics import score_with_clean
from fer_jax.system import files

SPLITS = ("val", "test")
FINGERPRINT = "0123456789abcdef"
OTHER = {
    "source": "csv",
    "description": "fer2013.csv",
    "fingerprint": "fedcba9876543210",
}


def make_config(**changes):
    """A nested config; `changes` are dotted keys with `__` for the dot."""
    config = {
        "name": "",
        "description": "",
        "model": {"arch": "fernet", "dropout": 0.3},
        "training": {"epochs": 30, "lr": 3e-4, "seed": 0, "precision": "auto"},
        "loss": {"type": "cross_entropy", "label_smoothing": 0.1},
        "augmentation": {"mixup_alpha": 0.2, "horizontal_flip": True},
        "data": {"image_size": 48},
    }
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        config[section][leaf] = value
    return config


def make_labels(classes=EMOTIONS, n=300, without=()):
    """The labels of a split, the same every time; `without` classes have no image."""
    labels = np.random.default_rng(0).integers(len(classes), size=n)
    absent = [classes.index(name) for name in without]
    return labels[~np.isin(labels, absent)].astype(np.int32)


def make_arrays(rng, labels, skill, num_classes):
    """Predictions that are right with probability `skill`, as a run stores them."""
    guesses = rng.integers(num_classes, size=len(labels))
    chosen = np.where(rng.random(len(labels)) < skill, labels, guesses)
    return as_arrays(labels, chosen, num_classes)


def as_arrays(labels, chosen, num_classes):
    """The arrays of a run that predicts the classes `chosen`, mostly with 0.67."""
    rows = np.arange(len(labels), dtype=np.int32)
    logits = 2.5 * np.eye(num_classes, dtype=np.float32)[chosen]
    return {
        "rows": rows,
        "image_ids": rows,
        "clean": np.ones(len(labels), bool),
        "labels": np.asarray(labels, np.int32),
        "logits": logits,
    }


def score(arrays, classes=EMOTIONS):
    """The scores of arrays, as training writes them."""
    kept = {key: arrays[key] for key in ("logits", "labels", "clean")}
    return score_with_clean(**kept, class_names=classes)


def make_result(name, seed, *, skill=0.6, test=True, classes=EMOTIONS, **options):
    """A whole `result.json`, and under "arrays" the predictions of each split.

    Options: config, data, without, device, description, labels, chosen (the predicted
    classes), clean (a mask of the images without a copy in train).
    """
    rng = np.random.default_rng([seed, *name.encode()])
    description = options.get("description", f"what does {name} do?")
    config = options.get("config") or make_config()
    config |= {"name": name, "description": description}
    config = json.loads(json.dumps(config))
    config["training"]["seed"] = seed
    data = {
        "source": "embedded",
        "description": "embedded set (drawn faces)",
        "fingerprint": FINGERPRINT,
        "class_names": list(classes),
        "counts": {"train": [10] * len(classes), "val": [], "test": []},
        "skipped": {"train": 0, "val": 0, "test": 0},
        "notes": [],
    } | options.get("data", {})
    labels = options.get("labels")
    if labels is None:
        labels = make_labels(classes, without=options.get("without", ()))
    arrays = {}
    for split in SPLITS if test else SPLITS[:1]:
        if (chosen := options.get("chosen")) is not None:
            arrays[split] = as_arrays(labels, chosen, len(classes))
        else:
            arrays[split] = make_arrays(rng, labels, skill, len(classes))
        if (clean := options.get("clean", {}).get(split)) is not None:
            arrays[split]["clean"] = clean
    scores = {split: score(each, classes) for split, each in arrays.items()}
    return {
        "format": 1,
        "name": name,
        "description": description,
        "seed": seed,
        "config": config,
        "overrides": [],
        "data": data,
        "selection": {
            "split": "val",
            "metric": "macro_f1",
            "epoch": 10 + seed % 7,
            "value": scores["val"]["macro_f1"],
        },
        "epochs_run": 20 + seed % 7,
        "stopped_early": True,
        **scores,
        "model": {"arch": "fernet", "parameters": 700_000},
        "environment": {"packages": {}, "device": options.get("device", "cpu")},
        "timing": {"wall_s": 240.0, "train_s": 60.0 + seed, "images_per_s": 350.0},
        "arrays": arrays,
    }


def write(runs_dir, result):
    """Puts a result and its predictions where training would; returns the folder."""
    folder = Path(runs_dir) / result["name"] / f"seed_{result['seed']}"
    folder.mkdir(parents=True)
    for split, arrays in result["arrays"].items():
        runs.write_predictions(folder, split, runs.StoredPredictions(**arrays))
    kept = {key: value for key, value in result.items() if key != "arrays"}
    files.write_json(folder / "result.json", kept)
    epochs = range(1, result["epochs_run"] + 1)
    files.write_jsonl(folder / "metrics.jsonl", [make_row(epoch) for epoch in epochs])
    return folder


def make_row(epoch):
    """A line of `metrics.jsonl`."""
    rise = 1 - 0.9**epoch
    return {
        "epoch": epoch,
        "step": 15 * epoch,
        "train_loss": 2 - rise,
        "val_loss": 1.9 - rise,
        "val_accuracy": 0.6 * rise,
        "val_macro_f1": 0.5 * rise,
    }


EXPERIMENTS = {
    "baseline": {},
    "lr_low": {"training__lr": 1e-4},
    "lr_high": {"training__lr": 1e-3},
    "loss_focal": {"loss__type": "focal", "loss__focal_gamma": 2.0},
    "loss_no_smoothing": {"loss__label_smoothing": 0.0},
    "loss_focal_weighted_sampler": {"loss__type": "focal"},
    "aug_none": {
        "augmentation__mixup_alpha": 0.0,
        "augmentation__horizontal_flip": False,
    },
    "aug_mixup_strong": {"augmentation__mixup_alpha": 0.8},
    "model_resnet18": {"model__arch": "resnet18"},
    "model_vit_tiny": {"model__arch": "vit_tiny", "training__lr": 1e-3},
    "dropout_05": {"model__dropout": 0.5},
    "same_again": {},
}


def make_many(runs_dir, seeds=(1, 2, 3)):
    """Twelve experiments with names and differences such as people have."""
    for n, (name, changes) in enumerate(EXPERIMENTS.items()):
        for seed in seeds:
            config = make_config(**changes)
            skill = 0.55 + 0.02 * n
            write(runs_dir, make_result(name, seed, skill=skill, config=config))
