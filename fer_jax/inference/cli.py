"""`bin/predict face.jpg`: the probabilities of a trained model for image files."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax.data.sources.image_files import FORMATS
from fer_jax.errors import UserError, run_command
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import Preprocessing
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console, plain_table

_EXAMPLES = """
  % face.jpg
  % faces/*.png --json
  % face.jpg --model my_model      one that you exported
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = Parser(
        "predict",
        "Print the probabilities of a trained model for face crops. It detects no "
        "faces: crop the images first.",
        _EXAMPLES,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=FORMATS)
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="a folder that export wrote; default: the model in the package",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    stored = model_file.read(args.model)
    images = [_read(path, stored.description.preprocessing) for path in args.images]

    # After the files, as JAX takes a second to import.
    from fer_jax.inference.predictor import Predictor
    from fer_jax.system.compilation_cache import keep_compiled

    keep_compiled()
    model = Predictor(stored)
    probabilities = model.predict(images)
    if args.json:
        facts = [
            {
                "image": path,
                "label": model.labels[row.argmax()],
                "probabilities": dict(zip(model.labels, map(float, row), strict=True)),
            }
            for path, row in zip(args.images, probabilities, strict=True)
        ]
        print(json.dumps(facts, indent=1))
        return 0
    table = plain_table("probabilities in %", ["image", "label", *model.labels])
    table.padding = 0  # all labels fit into 80 columns
    table.columns[0].overflow = "fold"
    for path, row in zip(args.images, probabilities, strict=True):
        percent = (f"{100 * share:.1f}" for share in row)
        table.add_row(path, model.labels[row.argmax()], *percent)
    make_console().print(table)
    return 0


def _read(path: str, preprocessing: Preprocessing) -> np.ndarray:
    from fer_jax.data.sources.image_files import decode

    side = preprocessing.image_size
    try:
        return decode(Path(path), (side, side, preprocessing.channels))[0]
    except ValueError as error:
        raise UserError(f"{path} {error}; name images of faces") from None


if __name__ == "__main__":
    raise SystemExit(run_command(main))
