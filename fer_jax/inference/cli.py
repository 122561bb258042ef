"""What a trained model sees in image files: `bin/predict face.jpg`.

It detects no faces: each image is to be a face crop, and is read as training reads
class folders.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fer_jax.data.sources.image_files import decode
from fer_jax.errors import UserError
from fer_jax.inference.predictor import Predictor, load
from fer_jax.system.compilation_cache import keep_compiled
from fer_jax.system.console import make_console, plain_table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="bin/predict",
        description="Print the emotion that a trained model sees in each face crop, "
        "and the probabilities of all. It detects no faces: crop the images first.",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="jpg, png, bmp, webp"
    )
    parser.add_argument(
        "--model", metavar="DIR", help="what bin/export wrote; default: the shipped one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    keep_compiled()
    model = load(args.model)
    probabilities = model.predict([_read(path, model) for path in args.images])
    if args.json:
        print(json.dumps(_facts(args.images, model.labels, probabilities), indent=1))
        return 0
    table = plain_table("probabilities in %", ["image", "label", *model.labels])
    table.padding = 0  # all labels in 80 columns, and a long path on several lines
    table.columns[0].overflow = "fold"
    for path, row in zip(args.images, probabilities, strict=True):
        shares = (f"{100 * share:.1f}" for share in row)
        table.add_row(path, model.labels[row.argmax()], *shares)
    make_console().print(table)
    return 0


def _read(path: str, model: Predictor) -> np.ndarray:
    shape = model.image_size, model.image_size, model.channels
    try:
        return decode(Path(path), shape)[0]
    except ValueError as error:
        raise UserError(f"{path} {error}; name images of faces") from None


def _facts(
    paths: Sequence[str], labels: Sequence[str], probabilities: np.ndarray
) -> list[dict]:
    return [
        {
            "image": path,
            "label": labels[row.argmax()],
            "probabilities": dict(zip(labels, map(float, row), strict=True)),
        }
        for path, row in zip(paths, probabilities, strict=True)
    ]
