"""One change at a time: the configs of an ablation, and what each change did."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax import config as config_lib
from fer_jax.compare import FinishedRun, summarise
from fer_jax.compare.summary import Experiment
from fer_jax.compare.wording import verdict, with_interval
from fer_jax.config import Config, compared_settings, flatten
from fer_jax.models import MODELS

# For a CPU: a narrow network, smaller images, and a part of train.
SMALL = {
    "model.width": 0.5,
    "data.image_size": 32,
    "data.crop_size": 0,
    "data.train_subset": 8000,
    "training.epochs": 12,
    "training.start_size": 0,
    "training.ema_decay": 0.99,
}
# By name the question that a change answers, and how it is when it is on and when it is
# off: the ablation takes whichever the config is not.
CHANGES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "flip_views": (
        "Do mirrored views in evaluation help?",
        {"evaluation.tta": "flip"},
        {"evaluation.tta": "none"},
    ),
    "ten_crop": (
        "Do ten views in evaluation, moved and mirrored, help?",
        {"evaluation.tta": "ten_crop"},
        {"evaluation.tta": "flip"},
    ),
    "crops": (
        "Do random crops of 5/6 help?",
        {"data.crop_size": 0.8333},
        {"data.crop_size": 0},
    ),
    "ema": (
        "Do averaged weights help?",
        {"training.ema_decay": 0.998},
        {"training.ema_decay": 0.0},
    ),
    "sam": (
        "Does sharpness-aware minimisation help?",
        {"training.sam_rho": 0.05},
        {"training.sam_rho": 0.0},
    ),
    "sgd": (
        "Does SGD with Nesterov's momentum help?",
        {"training.optimizer": "sgd"},
        {"training.optimizer": "adamw"},
    ),
    "muon": (
        "Does Muon help?",
        {"training.optimizer": "muon", "training.momentum": 0.95},
        {"training.optimizer": "adamw"},
    ),
    "cosine": (
        "Does a cosine after a linear rise help?",
        {"training.schedule": "cosine", "training.pct_start": 0.1},
        {"training.schedule": "one_cycle", "training.pct_start": 0.3},
    ),
    "step_schedule": (
        "Does a schedule of steps help?",
        {"training.schedule": "step", "training.pct_start": 0.05},
        {"training.schedule": "one_cycle", "training.pct_start": 0.3},
    ),
    "affine": (
        "Do rotation, scale and shift help?",
        {
            "augmentation.rotation": 10.0,
            "augmentation.shift": 0.08,
            "augmentation.scale": 0.1,
        },
        {
            "augmentation.rotation": 0.0,
            "augmentation.shift": 0.0,
            "augmentation.scale": 0.0,
        },
    ),
    "light": (
        "Do contrast and brightness help?",
        {"augmentation.brightness": 0.2, "augmentation.contrast": 0.2},
        {"augmentation.brightness": 0.0, "augmentation.contrast": 0.0},
    ),
    "erasing": (
        "Does random erasing help?",
        {"augmentation.random_erasing": 0.25},
        {"augmentation.random_erasing": 0.0},
    ),
    "cutout": (
        "Does cutout help?",
        {"augmentation.cutout": 0.3},
        {"augmentation.cutout": 0.0},
    ),
    "mixup": (
        "Does mixup help?",
        {"augmentation.mixup_alpha": 0.2},
        {"augmentation.mixup_alpha": 0.0},
    ),
    "cutmix": (
        "Does CutMix help?",
        {"augmentation.cutmix_alpha": 1.0},
        {"augmentation.cutmix_alpha": 0.0},
    ),
    "randaugment": (
        "Does a policy of random operations help?",
        {"augmentation.randaugment": 2, "augmentation.randaugment_strength": 0.3},
        {"augmentation.randaugment": 0},
    ),
    "alternating_flip": (
        "Do alternating flips help?",
        {"augmentation.horizontal_flip": "alternating"},
        {"augmentation.horizontal_flip": True},
    ),
    "smoothing": (
        "Does label smoothing help?",
        {"loss.label_smoothing": 0.1},
        {"loss.label_smoothing": 0.0},
    ),
    "bootstrap": (
        "Do targets that are in part the network's own help?",
        {"loss.bootstrap": 0.2},
        {"loss.bootstrap": 0.0},
    ),
    "growing_images": (
        "Do images that grow help?",
        {"training.start_size": 0.75},
        {"training.start_size": 0},
    ),
    "squeeze_excitation": (
        "Does squeeze and excitation help?",
        {"model.squeeze_excitation": True},
        {"model.squeeze_excitation": False},
    ),
    "whitened_stem": (
        "Does a whitened first layer help?",
        {"model.whitened_stem": True},
        {"model.whitened_stem": False},
    ),
    "zero_last": (
        "Do residual branches that start at nothing help?",
        {"model.norm": "zero_last"},
        {"model.norm": "plain"},
    ),
    "fixed_scale": (
        "Do batch norms without a trained scale help?",
        {"model.norm": "fixed_scale"},
        {"model.norm": "plain"},
    ),
    "deduplicate": (
        "Does training without copies of the others help?",
        {"data.deduplicate": "near"},
        {"data.deduplicate": "none"},
    ),
    "class_weights": (
        "Do class weights help?",
        {"loss.use_class_weights": True},
        {"loss.use_class_weights": False},
    ),
    "dropout": (
        "Does dropout help?",
        {"model.dropout": 0.4},
        {"model.dropout": 0.0},
    ),
}
# What goes with a rule that is not of the config's kind: SGD needs other rates.
RATES = {
    "sgd": {"training.lr": 0.05, "training.weight_decay": 5e-4},
    "adamw": {"training.lr": 2e-3, "training.weight_decay": 0.05},
    "muon": {"training.lr": 2e-3, "training.weight_decay": 0.05},
}
# Other networks, not for the small form: each is as wide as it is meant to be, and a
# ConvNeXt is trained as ConvNeXts are.
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet34": {},
    "wide_resnet": {},
    "vgg": {},
    "convnext": {"training.optimizer": "adamw"},
}
COLUMNS = (
    *("change", "n", "fold", "fold, by"),
    *("val", "val, by", "time", "verdict"),
)


def ablate(own: Config, *, small: bool) -> list[Config]:
    """A config, as `baseline`, and it with one change each that makes a difference.

    Args:
      own: the config.
      small: in the form for a CPU.

    Returns:
      configs that hold out fold 1 of train, without two alike.
    """
    fixed = {"data.fold": 1} | (SMALL if small else {})
    said = {"name": "baseline", "description": f"What does {own.name} reach?"}
    start = changed(own, fixed | said)
    found, now = [start], flatten(start.model_dump())
    for name, (question, on, off) in CHANGES.items():
        on, off = _in_pixels(on, start), _in_pixels(off, start)
        # A number is on where it is not off; what is chosen, where it is this choice.
        switch, absent = next(iter(off.items()))
        number = not isinstance(absent, str) and absent is not True
        has = now[switch] != absent if number else now[switch] == on[switch]
        if has:
            question = question.removesuffix("?") + " (it is left out)?"
        said = {"name": f"without_{name}" if has else name, "description": question}
        found.append(changed(start, _with_rates(off if has else on, start) | said))
    for arch, rest in {} if small else NETWORKS.items():
        said = {"name": arch, "description": f"Is {arch} the better network?"}
        change = {"model.arch": arch, "model.width": 1.0} | _what_it_has(arch, start)
        found.append(changed(start, change | _with_rates(rest, start) | said))
    return _without_copies([each for each in found if _can_be_built(each)])


def _with_rates(change: Mapping[str, Any], start: Config) -> dict[str, Any]:
    """With the rates that go with the optimizer, where that is of another kind."""
    rule = change.get("training.optimizer", start.training.optimizer)
    other = (rule == "sgd") != (start.training.optimizer == "sgd")
    return dict(change) | (RATES[rule] if other else {})


def _what_it_has(arch: str, start: Config) -> dict[str, Any]:
    """The start's options of a network, less those that this one does not have."""
    family = MODELS[arch]
    excites = start.model.squeeze_excitation and family.squeeze_excitation
    norm = start.model.norm if start.model.norm in family.norms else "plain"
    return {"model.squeeze_excitation": excites, "model.norm": norm}


def _can_be_built(config: Config) -> bool:
    family = MODELS.get(config.model.arch)
    if family is None:
        return True  # the run itself says what is wrong
    excites = family.squeeze_excitation or not config.model.squeeze_excitation
    return excites and config.model.norm in family.norms


def _without_copies(configs: Sequence[Config]) -> list[Config]:
    """The first of those that differ in their names alone."""
    kept: dict[str, Config] = {}
    for config in configs:
        kept.setdefault(str(compared_settings(config.model_dump())), config)
    return list(kept.values())


def _in_pixels(change: Mapping[str, Any], start: Config) -> dict[str, Any]:
    """With shares of the image as whole even numbers of pixels."""
    side = start.data.image_size
    sizes = ("data.crop_size", "training.start_size")
    return {
        key: 2 * round(value * side / 2) if key in sizes and value < 1 else value
        for key, value in change.items()
    }


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with other values under some dotted keys.

    Raises:
      UserError: if it is no valid experiment then.
    """
    values = config.model_dump()
    for key, value in changes.items():
        *section, last = key.split(".")
        place = values[section[0]] if section else values
        place[last] = value
    return config_lib.validate(values, f"the ablation {values['name']}")


def verdicts(finished: Sequence[FinishedRun]) -> list[tuple[str, ...]]:
    """What each change did, the best on the fold first.

    Returns:
      rows as `COLUMNS` heads them; accuracies in %, differences in points with 95 %
      intervals, the time as a share of the baseline's, and what the paired test on the
      fold's images says after Holm.
    """
    fold, val = (summarise(finished, split, "accuracy") for split in ("val", "test"))
    on_val = {each.name: each for each in val.experiments}
    base = next(each for each in fold.experiments if each.name == "baseline")
    rows = []
    for each in fold.experiments:
        cells = [f"{100 * x.mean('accuracy'):.1f}" for x in (each, on_val[each.name])]
        tested = [x.versus.get("accuracy") for x in (each, on_val[each.name])]
        apart = [with_interval(row, signed=True) if row else "" for row in tested]
        told = verdict(tested[0]) if tested[0] else ""
        cost = f"{_seconds(each) / _seconds(base):.2f}"
        count = str(len(each.runs))
        rows.append(
            (each.name, count, cells[0], apart[0], cells[1], apart[1], cost, told)
        )
    return rows


def _seconds(experiment: Experiment) -> float:
    """How long a run takes on average, with evaluation and checkpoints."""
    return statistics.mean(run.timing["wall_s"] for run in experiment.runs)
