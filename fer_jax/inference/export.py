"""Writes the selected checkpoint of a finished run as a model: `bin/export RUN_DIR`.

Neither the data nor the optimiser is needed: what a checkpoint holds says its own
structure. The model is compared with the checkpoint before it is put in place.
"""

import argparse
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_jax import runs
from fer_jax.data.sources import drawn_faces as embedded
from fer_jax.errors import UserError
from fer_jax.inference import model_file, predictor
from fer_jax.inference.predictor import Predictor
from fer_jax.runs.lock import locked
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import make_console
from fer_jax.training.checkpoints import Checkpoints
from fer_jax.training.progress import best_row

# Of a probability, between the checkpoint's float32 and the model's float16.
TOLERANCE = 0.01
SHIPPED_BYTES = 10_000_000  # what comes with the package stays small
_FACES = 128  # drawn ones, on which the two are compared
_SCORES = ("n", "accuracy", "macro_f1", "balanced_accuracy", "loss")
_SHAPE = ("arch", "width", "squeeze_excitation", "norm")
_VAL_NOTE = "val chose the epoch, so its scores are a little too good"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bin/export",
        description="Write the selected checkpoint of a finished run as a model for "
        "fer_jax.load_pretrained and bin/predict.",
    )
    parser.add_argument("run_dir", type=Path, help="such as runs/baseline/seed_42")
    parser.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="the folder to write"
    )
    parser.add_argument(
        "--seed_note",
        default="not stated",
        metavar="TEXT",
        help="how this run was chosen among the seeds, for the record",
    )
    parser.add_argument(
        "--hardware",
        metavar="TEXT",
        help="what it was trained on, for the record; default: as the run says",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace another model in the folder"
    )
    args = parser.parse_args(argv)
    keep_compiled()
    console = make_console()
    told = export(
        args.run_dir,
        args.to,
        seed_note=args.seed_note,
        hardware=args.hardware,
        force=args.force,
    )
    console.print(told)
    return 0


def export(
    run_dir: Path,
    to: Path,
    *,
    seed_note: str = "not stated",
    hardware: str | None = None,
    force: bool = False,
) -> str:
    """Writes a finished run's selected checkpoint as a model.

    Args:
      run_dir: the run folder.
      to: the model's folder.
      seed_note: how the run was chosen among the seeds.
      hardware: what it was trained on; None: what the run itself says.
      force: replace another model.

    Returns:
      what was done, in words.

    Raises:
      UserError: for an unfinished or damaged run, weights that are too large, another
        model in the folder, or a folder that cannot be written.
    """
    if not runs.is_finished(run_dir):
        raise UserError(
            f"{run_dir} holds no finished run (no {runs.RESULT}); name a run folder "
            "such as runs/baseline/seed_42, or let the run end first"
        )
    result = runs.read_result(run_dir)
    try:
        info = describe(result, seed_note, hardware)
        epoch = result["selection"]["epoch"]
    except (LookupError, TypeError, AttributeError):
        raise UserError(
            f"{run_dir / runs.RESULT} lacks what a model says of itself; repeat that "
            "run with --force"
        ) from None
    tensors = _tensors(run_dir, epoch)
    ships = to.resolve() == predictor.SHIPPED.resolve()
    weights = model_file.pack(tensors, SHIPPED_BYTES if ships else model_file.MAX_BYTES)
    largest = _compare(weights, info, tensors)
    written = model_file.write(to, weights, info, force=force)
    shown = predictor.load(to).labels  # what a reader will do
    return (
        f"{'written' if written else 'already there'}: {to}, "
        f"{len(weights) / 1e6:.2f} MB for {', '.join(shown)}; its probabilities differ "
        f"from the checkpoint's by {largest:.1e} at most"
    )


def evaluated_weights(tree: dict[str, Any]) -> tuple[Any, Any]:
    """Of a checkpoint as saved, the params and batch_stats that evaluation uses."""
    state = tree["state"]
    return tuple(state.get("averaged") or (state["params"], state["batch_stats"]))


def _tensors(run_dir: Path, epoch: int) -> dict[str, np.ndarray]:
    """What evaluation uses of the selected checkpoint, of that epoch, by name."""
    try:
        with locked(run_dir):
            tree = _selected(run_dir, epoch)
    except OSError as error:
        raise UserError(
            f"{error.filename or run_dir} cannot be read ({error.strerror or error}); "
            "mend that and export again"
        ) from None
    params, batch_stats = evaluated_weights(tree)
    named = predictor.named({"params": params, "batch_stats": batch_stats})
    return {name: np.asarray(leaf) for name, leaf in named.items()}


def _selected(run_dir: Path, epoch: int) -> dict[str, Any]:
    """The arrays of the selected checkpoint, of that epoch, as they were saved."""
    folder = run_dir / runs.CHECKPOINTS
    if not folder.is_dir():  # opening would make it
        raise UserError(f"{folder} is missing; repeat that run with --force")
    with Checkpoints(folder) as checkpoints:
        steps = checkpoints.steps
        best = best_row(checkpoints.record(steps[0])["history"]) if steps else {}
        if best.get("epoch") != epoch or best["step"] not in steps:
            raise UserError(
                f"{folder} does not hold the checkpoint of epoch {epoch}, which "
                f"{runs.RESULT} says was selected; repeat that run with --force"
            )
        return checkpoints.load_as_saved(best["step"])


def describe(
    result: dict[str, Any], seed_note: str, hardware: str | None
) -> dict[str, Any]:
    """What model.json says of a run, from its `result.json`."""
    config, data, made = result["config"], result["data"], result["environment"]
    channels = config["data"]["channels"]
    given = [f"--set={item}" for item in result["overrides"]]
    if data["source"] != "embedded":
        given = ["--data_root", data["description"], *given]
    return {
        "labels": data["class_names"],
        "network": result["model"] | {key: config["model"][key] for key in _SHAPE},
        "preprocessing": {
            "image_size": config["data"]["image_size"],
            "channels": channels,
            "colour": "grey, by Pillow's mode L" if channels == 1 else "RGB",
            "resize": "the square in the middle, bicubic with antialiasing (Pillow)",
            "normalisation": "(x - mean) / (deviation + 8), of each image itself",
            "crop_size": config["data"]["crop_size"],
            "views": config["evaluation"]["tta"],
        },
        "scores": {
            split: _scores(result[split])
            for split in ("val", "test")
            if split in result
        }
        | {"note": _VAL_NOTE},
        "selection": result["selection"],
        "seed": result["seed"],
        "seed_note": seed_note,
        "name": result["name"],
        "command": shlex.join(
            ["python", "-m", "fer_jax.train", _config_path(result), *given]
        ),
        "config": config,
        "hardware": hardware or made["device"],
        "trained_in": made["compute_dtype"],
        "train_s": result["timing"]["train_s"],
        "date": result["timing"]["finished"],
        "git_commit": made["git_commit"],
        "packages": made["packages"] | {"python": made["python"]},
        "data": {
            key: data[key]
            for key in (
                *("description", "fingerprint", "labels", "chosen", "counts"),
                *("left_out", "notes"),
            )
        },
    }


def _config_path(result: dict[str, Any]) -> str:
    return result.get("config_path") or f"configs/{result['name']}.yaml"


def _scores(scores: dict[str, Any]) -> dict[str, Any]:
    """Of a split: the scores as usual, clean, by emotion and by other label sets."""
    kept = {key: scores[key] for key in _SCORES}
    kept |= {key: value for key, value in scores.items() if key.endswith("_clean")}
    kept["f1"] = {name: each["f1"] for name, each in scores["per_class"].items()}
    if sets := scores.get("label_sets"):
        kept["label_sets"] = {name: _scores(each) for name, each in sets.items()}
    return kept


def _compare(
    weights: bytes, info: dict[str, Any], tensors: dict[str, np.ndarray]
) -> float:
    """How far the model's probabilities are from the checkpoint's, on drawn faces.

    Raises:
      UserError: if it is more than rounding explains.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model_file.write(Path(scratch), weights, info)
        rounded = model_file.read(Path(scratch))
    faces = embedded.generate("val")[0][:_FACES]
    exact = Predictor(rounded._replace(tensors=tensors)).predict(faces)
    largest = float(np.abs(Predictor(rounded).predict(faces) - exact).max())
    if not largest <= TOLERANCE:
        raise UserError(
            f"in float16 the model's probabilities differ by {largest:.3f} from the "
            f"checkpoint's, expected at most {TOLERANCE}; export another run"
        )
    return largest
