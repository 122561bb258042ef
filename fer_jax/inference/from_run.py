"""The selected checkpoint of a finished run as a model.

It needs neither the data nor the optimizer.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_jax import runs
from fer_jax.compare.calibration import calibrated
from fer_jax.compare.predictions import read_file
from fer_jax.errors import UserError
from fer_jax.pretrained.model_file import Description, ModelFile
from fer_jax.runs.lock import locked
from fer_jax.system.console import make_console

if TYPE_CHECKING:
    from fer_jax.data import Dataset

# Of a probability, between the checkpoint's float32 and the model's float16.
TOLERANCE = 0.01
_NUM_FACES = 128  # drawn faces, for the comparison
_SCORES = ("n", "accuracy", "macro_f1", "balanced_accuracy", "loss")
_SHAPE = ("arch", "width", "blocks", "squeeze_excitation", "norm")
_DATA = (
    "description",
    "fingerprint",
    "source_fingerprint",
    "labels",
    "chosen",
    "counts",
    "left_out",
    "notes",
)
_VAL_NOTE = "val chose the epoch, so its scores are slightly optimistic"


def read_model(
    run_dir: Path,
    *,
    seed_note: str = "not stated",
    hardware: str | None = None,
    data_root: str | None = None,
) -> ModelFile:
    """Returns the selected checkpoint of a finished run as a model, in float32.

    The record says how the run was chosen among the seeds (`seed_note`) and what it
    was trained on (`hardware`; None: the device of the run). With the data of the run
    (`data_root`) the model carries the hashes of its train images.

    Raises:
      UserError: for an unfinished or damaged run, or other data.
    """
    if not runs.is_finished(run_dir):
        raise UserError(
            f"{run_dir} holds no finished run (no {runs.RESULT}) and no model; name a "
            "run folder such as runs/baseline/seed_42, or let the run finish first"
        )
    result = runs.read_result(run_dir)
    try:
        info = describe(result, seed_note, hardware)
        epoch = result["selection"]["epoch"]
    except (LookupError, TypeError, AttributeError):
        raise UserError(
            f"{run_dir / runs.RESULT} lacks what a model's record needs; repeat that "
            "run with --force"
        ) from None
    tensors = _selected_tensors(run_dir, epoch)
    info["calibration"] = _calibration(run_dir)
    hashes = None if data_root is None else _train_hashes(run_dir, result, data_root)
    description = Description.model_validate({"sha256": "", **info})
    return ModelFile(run_dir, info, description, tensors, hashes)


def evaluated_weights(tree: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the params and batch_stats of a saved checkpoint that evaluation uses."""
    state = tree["state"]
    if averaged := state.get("averaged"):
        return averaged[0], averaged[1]
    return state["params"], state["batch_stats"]


def _selected_tensors(run_dir: Path, epoch: int) -> dict[str, np.ndarray]:
    """Returns the weights that evaluation used at the selected epoch, by name."""
    from fer_jax.models.transfer import leaves_by_name
    from fer_jax.training.checkpoints import Checkpoints
    from fer_jax.training.progress import best_row

    folder = run_dir / runs.CHECKPOINTS
    if not folder.is_dir():  # Checkpoints would create it
        raise UserError(f"{folder} is missing; repeat that run with --force")
    try:
        with locked(run_dir), Checkpoints(folder) as checkpoints:
            steps = checkpoints.steps
            best = best_row(checkpoints.record(steps[0])["history"]) if steps else {}
            if best.get("epoch") != epoch or best["step"] not in steps:
                raise UserError(
                    f"{folder} does not hold the checkpoint of epoch {epoch}, which "
                    f"{runs.RESULT} says was selected; repeat that run with --force"
                )
            tree = checkpoints.load_as_saved(best["step"])
    except OSError as error:
        raise UserError(
            f"{error.filename or run_dir} cannot be read ({error.strerror or error}); "
            "correct that and export again"
        ) from None
    params, batch_stats = evaluated_weights(tree)
    named = leaves_by_name({"params": params, "batch_stats": batch_stats})
    return {name: np.asarray(leaf) for name, leaf in named.items()}


def _calibration(run_dir: Path) -> dict[str, Any]:
    """Returns the temperature that fits the run's predictions of val."""
    val = read_file(run_dir / "predictions_val.npz")
    labelled = val["labels"] >= 0
    return {
        **calibrated(val["logits"][labelled], val["labels"][labelled]),
        "split": "val",
    }


def data_of(result: dict[str, Any], data_root: str | None) -> "Dataset":
    """Returns the data of a run, by its result; without a teacher's targets.

    Raises:
      UserError: for other data.
    """
    from fer_jax import config as config_lib
    from fer_jax.training import run as run_lib
    from fer_jax.training.result import describe as describe_data

    config = config_lib.validate(result["config"], runs.RESULT)
    own = config.data.model_copy(update={"soft_targets": None})  # the file may be gone
    config = config.model_copy(update={"data": own})
    dropped = bool(result["data"]["skipped"])
    dataset, _ = run_lib.load_data(
        config, data_root, skip_bad=dropped, console=make_console()
    )
    found, expected = describe_data(dataset), result["data"]
    for key in ("fingerprint", "chosen"):
        if found[key] != expected[key]:
            raise UserError(
                f"{data_root} is not the data of this run ({key} {found[key]}, "
                f"expected {expected[key]}): it was {expected['description']}; name "
                "that, or leave --data_root out"
            )
    return dataset


def _train_hashes(run_dir: Path, result: dict[str, Any], data_root: str) -> np.ndarray:
    """Returns the hashes of the train images of a run, uint64 `[N, 2]`.

    Those of the model that it started from are among them.
    """
    from fer_jax.data.duplicates import hashes

    dataset = data_of(result, data_root)
    own = hashes.of_images(dataset.splits["train"].images)
    if "pretrained" not in result["model"]:
        return own
    path = run_dir / runs.SEEN
    if not path.is_file():
        raise UserError(
            f"what {result['model']['pretrained']['name']}, from which this run "
            "started, was trained on is not known; leave --data_root out"
        )
    before = np.load(path, allow_pickle=False)
    return np.unique(np.concatenate([own, before]), axis=0)


def describe(
    result: dict[str, Any], seed_note: str, hardware: str | None
) -> dict[str, Any]:
    """Returns the content of model.json for a run, from its `result.json`."""
    config, data, environment = result["config"], result["data"], result["environment"]
    channels = config["data"]["channels"]
    scores = {
        split: _scores(result[split]) for split in ("val", "test") if split in result
    }
    return {
        "labels": data["class_names"],
        "network": result["model"] | _shape(config["model"]),
        "preprocessing": {
            "image_size": config["data"]["image_size"],
            "channels": channels,
            "colour": "grey, by Pillow's mode L" if channels == 1 else "RGB",
            "resize": "the largest centred square, bicubic with antialiasing (Pillow)",
            "normalisation": "(x - mean) / (deviation + 8), per image",
            "crop_size": config["data"]["crop_size"],
            "views": config["evaluation"]["tta"],
        },
        "scores": scores | {"note": _VAL_NOTE},
        "selection": result["selection"],
        "seed": result["seed"],
        "seed_note": seed_note,
        "name": result["name"],
        "command": _command(result),
        "config": config,
        "hardware": hardware or environment["device"],
        "trained_in": environment["compute_dtype"],
        "train_s": result["timing"]["train_s"],
        "date": result["timing"]["finished"],
        "git_commit": environment["git_commit"],
        "packages": environment["packages"] | {"python": environment["python"]},
        "data": {key: data[key] for key in _DATA},
    }


def _shape(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns what `models.create` needs; another version may have other defaults."""
    from fer_jax import models

    blocks = models.blocks_of(settings["arch"], settings["blocks"])
    return {key: settings[key] for key in _SHAPE} | {"blocks": blocks}


def _command(result: dict[str, Any]) -> str:
    """Returns the command that trains the run."""
    config = result.get("config_path") or f"configs/{result['name']}.yaml"
    command = ["python", "-m", "fer_jax.train", config]
    if result["data"]["source"] != "embedded":
        command += ["--data_root", result["data"]["description"]]
    return shlex.join(command + [f"--set={item}" for item in result["overrides"]])


def _scores(scores: dict[str, Any]) -> dict[str, Any]:
    """Returns a split's scores: overall, clean, by emotion and by other label sets."""
    kept = {key: scores[key] for key in _SCORES}
    kept |= {key: value for key, value in scores.items() if key.endswith("_clean")}
    kept["f1"] = {name: each["f1"] for name, each in scores["per_class"].items()}
    if sets := scores.get("label_sets"):
        kept["label_sets"] = {name: _scores(each) for name, each in sets.items()}
    return kept


def rounding_difference(exact: ModelFile, rounded: ModelFile) -> float:
    """Compares the probabilities of float32 and float16 weights on drawn faces.

    Raises:
      UserError: if they differ by more than rounding explains.
    """
    from fer_jax.data.sources import drawn_faces
    from fer_jax.inference.predictor import Predictor
    from fer_jax.system.compilation_cache import keep_compiled

    keep_compiled()
    faces = drawn_faces.generate("val")[0][:_NUM_FACES]
    found, expected = (Predictor(each).predict(faces) for each in (rounded, exact))
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"in float16 the model's probabilities differ by {difference:.3f} from the "
            f"checkpoint's, expected at most {TOLERANCE}; export another run"
        )
    return difference
