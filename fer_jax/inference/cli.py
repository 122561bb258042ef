"""`bin/predict photo.jpg`: the faces in pictures and videos, and their emotions."""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from rich.console import Console

from fer_jax.data.sources.image_files import FORMATS, no_file, read_picture
from fer_jax.errors import UserError, run_command
from fer_jax.inference.listed import VIDEOS, is_video, listed
from fer_jax.pretrained import model_file
from fer_jax.pretrained.model_file import ModelFile
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console, plain_table

if TYPE_CHECKING:
    from fer_jax.inference.session import Session

_EXAMPLES = """
  % photo.jpg                     the faces in it
  % photos --to marked            a folder; with boxes and bars drawn
  % crops --faces none --csv      pictures that are crops of faces
  % talk.mp4 --every 5 --smooth 0.8 --to marked
  % face.jpg --model my_model     one that you exported
  % --live                        a local page for the webcam
"""
_AT_ONCE, _MOST_PIXELS = 64, 50_000_000  # of the pictures in memory
_HEADERS = ["image", "face", "box", "label", "%", "then"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or if pictures could not be read, 1; if none, 2."""
    args = _parser().parse_args(argv)
    _check(args)
    stored = model_file.read(args.model)
    if args.live:
        return _live(stored, args)
    places = listed(args.images, sys.stdin)
    paths = [*places]
    if not paths:
        raise UserError(
            f"there is no {FORMATS} and no video in "
            + ", ".join("standard input" if n == "-" else n for n in args.images)
        )
    if not any(map(os.path.isfile, paths)):
        more = f", nor are {len(paths) - 1:,} more" if len(paths) > 1 else ""
        raise UserError(f"{paths[0]} {no_file(paths[0])}{more}")

    # After the files, as JAX takes a second to import.
    from fer_jax.inference.session import Session

    console = make_console(stderr=args.json or args.csv)
    session = Session(stored, args, console, places)
    rows = [*_rows(session, paths, strict=args.strict)]
    if args.json:
        print(json.dumps(rows, indent=1))
    elif args.csv:
        _write_csv(rows, session.labels)
    elif rows:
        _show(console, rows)
    for folder in filter(None, (args.to, args.crops)):
        console.print(f"written: {folder}")
    for problem in session.problems:
        print(f"error: {problem}", file=sys.stderr)
    if session.problems:
        return 1 if rows else 2
    return 0


def _live(stored: ModelFile, args: argparse.Namespace) -> int:
    """Serves the page until Ctrl-C."""
    from fer_jax.inference.live import serve
    from fer_jax.inference.session import Session

    console = make_console()
    serve(
        Session(stored, args, console).detect, console, args.port, args.min_confidence
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "predict",
        "Find the faces in pictures and videos, and name their emotions by a trained "
        "model.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add(
        "images",
        nargs="*",
        metavar="FILE",
        help=f"{FORMATS}; a video ({', '.join(v[1:] for v in VIDEOS)}); a folder; a "
        "pattern; - reads names from standard input",
    )
    add(
        "--model",
        metavar="DIR",
        help="a folder that export wrote, or the name of a model that ships; default: "
        "the model in the package",
    )
    add(
        "--faces",
        choices=("auto", "find", "none"),
        default="auto",
        help="find: look for faces; none: each picture is a crop of one; auto: small "
        "square pictures that a face fills, or without one, are crops (auto)",
    )
    add(
        "--detector",
        metavar="FILE.onnx",
        help="a YuNet network; default: OpenCV's cascade of frontal faces",
    )
    add(
        "--min_confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="below it, in 0..1, the answer is unsure (0)",
    )
    _add_outputs(add)
    add(
        "--strict",
        action="store_true",
        help="stop at the first file that cannot be read",
    )
    return parser


def _add_outputs(add: Callable[..., object]) -> None:
    """The options of what is printed and written, of videos and of the webcam."""
    add("--json", action="store_true", help="print JSON")
    add("--csv", action="store_true", help="print a row for each face")
    add(
        "--to",
        type=Path,
        metavar="DIR",
        help="write the pictures with boxes and bars, in folders like their own",
    )
    add(
        "--crops",
        type=Path,
        metavar="DIR",
        help="write the crops of the faces, in folders like those of the pictures",
    )
    add("--every", type=int, default=1, metavar="N", help="of videos: every N-th frame")
    add(
        "--smooth",
        type=float,
        default=0.0,
        metavar="S",
        help="of videos: the share of the frame before in probabilities, in 0..1 (0)",
    )
    add("--live", action="store_true", help="serve a page for the webcam, here only")
    add("--port", type=int, default=0, metavar="N", help="of --live (a free one)")


def _check(args: argparse.Namespace) -> None:
    """Refuses options that cannot be followed, before any work."""
    if bool(args.images) == args.live:
        raise UserError(
            "--live shows a webcam; leave the files out"
            if args.live
            else "name pictures, videos or a folder, or use --live for a webcam"
        )
    for name, allowed in (
        ("min_confidence", 0 <= args.min_confidence <= 1),
        ("smooth", 0 <= args.smooth < 1),
        ("every", args.every >= 1),
        ("port", 0 <= args.port < 2**16),
    ):
        if not allowed:
            expected = {"every": "1 or more", "port": "0..65535"}.get(name, "0..1")
            raise UserError(f"--{name} is {getattr(args, name)}, expected {expected}")
    if args.json and args.csv:
        raise UserError("--json and --csv both print; give one of them")
    if args.faces == "none" and args.detector:
        raise UserError("--faces none looks for no faces; leave --detector out")
    for folder in filter(None, (args.to, args.crops)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}") from None


def _rows(
    session: "Session", paths: Sequence[Path], *, strict: bool
) -> Iterator[dict[str, Any]]:
    """A row for each face, and one for each picture without, in order."""
    waiting: list[tuple[Path, Image.Image]] = []
    pixels = 0
    for path in paths:
        video = is_video(path)
        if not video:
            try:
                picture = read_picture(path)[0]
            except ValueError as error:
                session.report(f"{path} {error}", strict=strict)
                continue
            waiting.append((path, picture))
            pixels += picture.width * picture.height
        if video or len(waiting) == _AT_ONCE or pixels > _MOST_PIXELS:
            yield from session.pictures(waiting)
            waiting, pixels = [], 0
        if video:
            yield from session.video(path, strict=strict)
    yield from session.pictures(waiting)


def _show(console: Console, rows: Iterable[dict[str, Any]]) -> None:
    """Prints a table; rows of videos have their time after the name."""
    table = plain_table("", _HEADERS)
    table.title = None
    table.columns[0].overflow = "fold"
    for row in rows:
        name = row["image"]
        if "time_s" in row:
            name += f" at {row['time_s']:.2f} s"
        if row["face"] is None:
            table.add_row(name, "", "no face found", "", "", "")
            continue
        box = row["box"]
        where = "{},{} {} x {}".format(*box) if box else "the whole"
        order = sorted(row["probabilities"].items(), key=lambda item: -item[1])
        then = f"{order[1][0]} {100 * order[1][1]:.0f}"
        face = str(row.get("track", row["face"]))
        percent = f"{100 * row['confidence']:.1f}"
        table.add_row(name, face, where, row["label"], percent, then)
    console.print(table)


def _write_csv(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    place = ["frame", "time_s", "track"] if any("frame" in row for row in rows) else []
    place += ["crop"] if any("crop" in row for row in rows) else []
    box = ["left", "top", "width", "height"]
    shares = [f"p_{label}" for label in labels]
    head = ["image", *place, "face", *box, "label", "confidence", *shares]
    writer = csv.DictWriter(sys.stdout, head, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        found = row["probabilities"] or {}
        writer.writerow(
            row
            | dict(zip(box, row["box"] or [""] * 4, strict=True))
            | {f"p_{label}": share for label, share in found.items()}
        )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
