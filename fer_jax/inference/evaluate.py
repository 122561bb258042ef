"""`bin/evaluate --data_root FOLDER`: how good trained models are on labelled images.

The scores, intervals and tests are those of compare. Scores are clean of what a model
has seen, where the images that it was trained on are known.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from fer_jax.compare import tables
from fer_jax.compare.layout import Sheet, print_sheet
from fer_jax.compare.summary import Summary
from fer_jax.compare.wording import count
from fer_jax.errors import UserError, run_command
from fer_jax.metrics import CLASS_METRICS, not_learnt
from fer_jax.pretrained import model_file
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target, write_whole

if TYPE_CHECKING:
    from fer_jax.inference.scoring import Evaluation

_EXAMPLES = """
  % --data_root my_faces                     the model in the package
  % --data_root my_faces --model my_model    one that you exported
  % --data_root my_faces --model shipped --model my_model    which is better?
  % --data_root fer2013.csv --split val --json scores.json
"""
_STDOUT = "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    for path, suffix in ((args.json, ".json"), (args.csv, ".csv")):
        if path and path != _STDOUT:  # before the data are read
            check_target(Path(path), f"--{suffix[1:]}", (suffix,))
    if args.json == args.csv == _STDOUT:
        raise UserError("--json and --csv both print; give one of them a file")
    prints_one = _STDOUT in (args.json, args.csv)
    console = make_console(color=not args.no_color, stderr=prints_one)

    # After the options were checked, as JAX takes a second to import.
    from fer_jax.inference import scoring

    found = scoring.evaluate(
        args.data_root,
        args.model or [*model_file.SHIPPED][:1],
        split=args.split,
        skip_bad=args.skip_bad,
        console=console,
    )
    if not prints_one:
        _show(console, found)
    command = f"{typed('evaluate')} {shlex.join(argv)}"
    outputs = {
        args.json: lambda: scoring.to_json(found, command),
        args.csv: lambda: scoring.to_csv(found),
    }
    for path, text in outputs.items():
        if path == _STDOUT:
            sys.stdout.write(text())
        elif path:
            write_whole(Path(path), text())
            console.print(f"\nwritten: {path}")
    return 0


def _show(console: Console, found: "Evaluation") -> None:
    """Prints the notes and the tables."""
    images, summary = found.images, found.summary
    dataset, split = images.dataset, images.split

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style))

    models = ", ".join(each.run.name for each in found.judged)
    number = count(len(images.labels), "image")
    part = "" if split == "all" else f"{split} of "
    say(f"{models} on {number}: {part}{dataset.description}", "bold")
    for note in dataset.notes:
        say(f"note: {note}")
    for name, n in images.left_out.items():
        say(f"note: {count(n, 'image')} of {name} left out: no class of the model")
    known = len(found.judged[0].run.class_names)
    if any(len(each.labels) > known for each in found.judged):
        say(f"note: scored among the classes that all know: {', '.join(images.known)}")
    for note in _warnings(found):
        say(note, "yellow")
    for sheet in _sheets(summary, star=not console.is_terminal):
        print_sheet(console, sheet)


def _sheets(summary: Summary, *, star: bool) -> Iterator[Sheet]:
    """The tables of compare, in which an experiment is a model."""
    models = summary.experiments
    yield _of_models(tables.overall(summary))
    if summary.has_tests:
        yield _of_models(tables.differences(summary))
    if any(images.leaked for images in summary.images.values()):
        yield _of_models(tables.clean(summary))
    if len(models) > 1:
        for metric in CLASS_METRICS:
            yield _of_models(tables.by_emotion(summary, metric, star=star))
    for model in models:
        yield tables.each_emotion(summary, model)
        yield tables.confusion(model)
    yield _of_models(tables.calibration(summary))


def _of_models(sheet: Sheet) -> Sheet:
    """The same table without the number of seeds, as each model is one network."""
    shown = [c for c, header in enumerate(sheet.headers) if header != "n"]
    return replace(
        sheet,
        headers=["model", *(sheet.headers[c] for c in shown[1:])],
        align="".join(sheet.align[c] for c in shown),
        rows=[[row[c] for c in shown] for row in sheet.rows],
    )


def _warnings(found: "Evaluation") -> Iterator[str]:
    """What makes the scores of a model other than those on new images."""
    images = found.images
    for each in found.judged:
        name, scores = each.run.name, each.run.scores[images.split]
        if each.trained_here and images.split != "test":
            done = "selected on val" if images.split == "val" else "trained on images"
            yield f"{name} was {done} of these data: its scores are optimistic"
        if each.copies is None:
            yield (
                f"what {name} was trained on is not known: copies of it among these "
                "images go unseen; export it with --data_root"
            )
        elif each.copies.any():
            copies = int(each.copies.sum())
            yield (
                f"{copies:,} of {count(len(each.copies), 'image')} "
                f"{'is' if copies == 1 else 'are'} taken for copies of what {name} was "
                "trained on; clean scores leave them out"
            )
        if why := not_learnt(scores):
            yield f"{name} does not fit these images: {why}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "evaluate",
        "Score trained models on labelled images: overall, by emotion, calibration, "
        "and clean of the images that a model was trained on.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--data_root", help="as train takes it")
    add(
        "--model",
        metavar="DIR",
        action="append",
        help="a folder that export wrote, or the name of a model that ships; several "
        "are compared with the first; default: the model in the package",
    )
    add(
        "--split",
        choices=("train", "val", "test", "all"),
        help="default: test, or else val; all images of data without splits",
    )
    add("--skip_bad", action="store_true", help="drop unreadable images")
    for kind, what in (("json", "the numbers"), ("csv", "a row for each image")):
        add(
            f"--{kind}",
            nargs="?",
            const=_STDOUT,
            metavar=f"FILE.{kind}",
            help=f"write {what}; without a file, print nothing else",
        )
    add("--no_color", action="store_true", help="no colours")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
