"""`bin/export RUN_DIR --to DIR`: writes a model for fer_jax or other programs."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_jax.errors import UserError, run_command
from fer_jax.inference.model_card import model_card
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console
from fer_jax.system.files import replacing, write_text

if TYPE_CHECKING:
    import onnx

_EXAMPLES = """
  % runs/baseline/seed_42 --to my_model
  % runs/baseline/seed_42 --to my_model --data_root fer2013.csv
  % shipped --to elsewhere --format onnx     the model in the package
"""
FILES = {"stablehlo": "model.stablehlo", "onnx": "model.onnx"}
FORMATS = ("safetensors", *FILES)
ONNX_TOLERANCE = 1e-4  # of a probability, between JAX and onnxruntime
_NUM_IMAGES = 16  # of noise, for that comparison
_README = "README.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = Parser(
        "export",
        "Write the selected checkpoint of a finished run, or a model, for "
        "fer_jax.load_pretrained and predict, or for programs without fer_jax.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add(
        "run_dir",
        help="such as runs/baseline/seed_42; or a folder that export wrote, or the "
        "name of a model that ships",
    )
    add("--to", type=Path, required=True, metavar="DIR", help="the folder to write")
    add(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="safetensors: for fer_jax; stablehlo: one function for JAX and XLA, on a "
        "CPU or CUDA; onnx: for onnxruntime and others (safetensors)",
    )
    add(
        "--seed_note",
        default="not stated",
        metavar="TEXT",
        help="how this run was chosen among the seeds, for the record",
    )
    add(
        "--hardware",
        metavar="TEXT",
        help="what it was trained on, for the record; default: as the run says",
    )
    add(
        "--data_root",
        metavar="PATH",
        help="the data it was trained on: the model then recognises its train images, "
        "which evaluate and further training leave out of clean scores",
    )
    add("--force", action="store_true", help="replace another model in the folder")
    options = vars(parser.parse_args(argv))
    options["form"] = options.pop("format")
    make_console().print(export(options.pop("run_dir"), **options))
    return 0


def export(
    source: str | Path,
    to: Path,
    *,
    form: str = "safetensors",
    seed_note: str = "not stated",
    hardware: str | None = None,
    data_root: str | None = None,
    force: bool = False,
) -> str:
    """Writes a trained model into the folder `to`, and a README.md if there is none.

    Args:
      source: the folder of a finished run, of a model, or the name of one that ships.
      to: the folder.
      form: of `FORMATS`.
      seed_note: how the run was chosen among the seeds, for the record.
      hardware: what it was trained on; None: the device of the run.
      data_root: the data of the run; the model then carries the hashes of its train
        images.
      force: replace another model.

    Returns:
      a message.

    Raises:
      UserError: for an unfinished or damaged run, other data, weights that are too
        large, another model in the folder, or a folder that cannot be written.
    """
    model, note = _read(source, seed_note, hardware, data_root)
    weights = model_file.pack(model.tensors)  # in any form: refuses one too large
    card = model_card(model.info, model.description, form)
    if form == "safetensors":
        is_new = model_file.write(
            to, weights, model.info, hashes=model.train_hashes, force=force
        )
        size = len(weights)
    else:
        content = _portable(model, form)
        is_new, size = _write(to / FILES[form], content, force=force), len(content)
    if not os.path.lexists(to / _README) or is_new and force and form != "safetensors":
        write_text(to / _README, card)
    labels = ", ".join(model.description.labels)
    state = "written" if is_new else "already there"
    return f"{state}: {to}, {size / 1e6:.2f} MB for {labels}{note}"


def _read(
    source: str | Path, seed_note: str, hardware: str | None, data_root: str | None
) -> tuple[ModelFile, str]:
    """The model of a run or a folder, in float16, and what there is to say of it."""
    is_model = str(source) in model_file.SHIPPED
    if is_model or (Path(source) / model_file.MODEL).is_file():
        if data_root is not None:
            raise UserError(
                f"--data_root is of a run, and {source} is a model; export the run"
            )
        return model_file.read(source), ""
    from fer_jax.inference.from_run import read_model, rounding_difference

    exact = read_model(
        Path(source), seed_note=seed_note, hardware=hardware, data_root=data_root
    )
    model = exact._replace(tensors=model_file.in_half_precision(exact.tensors))
    difference = rounding_difference(exact, model)
    note = (
        f"; its probabilities differ from the checkpoint's by at most {difference:.1e}"
    )
    return model, note


def _portable(model: ModelFile, form: str) -> bytes:
    """The content of a file for programs without fer_jax."""
    from fer_jax.inference import portable
    from fer_jax.system.backend import start_backend

    start_backend()
    if form == "stablehlo":
        return portable.to_stablehlo(model)
    try:
        import onnx

        from fer_jax.inference.onnx_graph import to_onnx
    except ImportError:
        raise UserError(
            "--format onnx needs the package onnx: pip install 'fer_jax[onnx]'"
        ) from None
    shape = portable.input_shape(model)
    found = to_onnx(portable.as_function(model), shape, np.uint8)
    _describe(found, model)
    onnx.checker.check_model(found, full_check=True)
    content = found.SerializeToString()
    _compare(content, model, shape)
    return content


def _describe(found: "onnx.ModelProto", model: ModelFile) -> None:
    """Writes labels, sizes, origin and scores into the metadata."""
    info, shape = model.info, model.description.preprocessing
    facts = {
        "labels": ",".join(model.description.labels),
        "image_size": shape.image_size,
        "channels": shape.channels,
        "temperature": model.description.calibration.temperature,
        "data": info.get("data", {}).get("description", "not stated"),
        "licence": "code: Apache-2.0; weights: as the terms of the data allow",
        "use": "research and teaching; see README.md",
    }
    if val := info.get("scores", {}).get("val"):
        facts["val_accuracy"] = val["accuracy"]
    for key, value in facts.items():
        found.metadata_props.add(key=key, value=str(value))


def _compare(content: bytes, model: ModelFile, shape: tuple[int, ...]) -> None:
    """Compares onnxruntime's probabilities with JAX's, if it is installed."""
    try:
        import onnxruntime
    except ImportError:
        return
    from fer_jax.inference.predictor import Predictor

    images = np.random.default_rng(0).integers(
        0, 256, (_NUM_IMAGES, *shape), dtype=np.uint8
    )
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    difference = float(
        np.abs(found - np.asarray(Predictor(model).predict(images))).max()
    )
    if not difference <= ONNX_TOLERANCE:
        raise UserError(
            f"onnxruntime's probabilities differ by {difference:.1e} from JAX's, "
            f"expected at most {ONNX_TOLERANCE}; use --format safetensors"
        )


def _write(path: Path, content: bytes, *, force: bool) -> bool:
    """Writes a file; returns False if the same is already there."""
    try:
        if os.path.lexists(path) and not force:
            old = hashlib.sha256(path.read_bytes()).digest()
            if old == hashlib.sha256(content).digest():
                return False
            raise UserError(
                f"{path} is another model; name another folder, or replace it with "
                "--force"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}; name another folder"
        ) from None
    return True


if __name__ == "__main__":
    raise SystemExit(run_command(main))
