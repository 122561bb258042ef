"""`bin/audit --data_root fer2013.csv`: audits the images and labels of a data set.

It reports on copies, conflicting labels, blank images, class balance and storage; with
`--runs runs`, on the labels that finished runs learned worst.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from fer_jax.errors import run_command
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console
from fer_jax.system.files import check_target, write_whole

_EXAMPLES = """
  % --data_root fer2013.csv --report audit.html
  % --data_root fer2013.csv --runs runs          suspicious labels
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    outputs = {"json": args.json, "csv": args.csv, "report": args.report}
    for option, path in outputs.items():
        if path:  # before the data are read
            suffix = "html" if option == "report" else option
            check_target(path, f"--{option}", (f".{suffix}",))

    from fer_jax import data
    from fer_jax.audit.copies_report import CopiesReport
    from fer_jax.audit.label_report import LabelReport
    from fer_jax.data.duplicates.audit import audit

    console = make_console(color=not args.no_color)
    dataset = data.load(
        args.data_root,
        image_size=args.image_size,
        channels=args.channels,
        skip_bad=args.skip_bad,
        console=console,
    )
    report: CopiesReport | LabelReport
    if args.runs:
        report = LabelReport(args.runs, dataset)
    else:
        report = CopiesReport(dataset, audit(dataset, console))
    if args.json:
        write_whole(args.json, json.dumps(report.facts, indent=1) + "\n")
    if args.csv:
        write_whole(args.csv, report.to_csv())
    if args.report:
        write_whole(args.report, report.to_html())
    report.show(console)
    for path in outputs.values():
        if path:
            console.print(f"written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "audit",
        "Find copies, conflicting labels and blank images in a data set, or suspicious "
        "labels.",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--data_root", help="as train takes it")
    add("--image_size", type=int, default=48, help="side of the images (48)")
    add(
        "--channels", type=int, choices=(1, 3), default=1, help="1: grey (1), 3: colour"
    )
    add("--skip_bad", action="store_true", help="drop unreadable images")
    add("--json", type=Path, metavar="FILE.json", help="write the numbers")
    add(
        "--csv",
        type=Path,
        metavar="FILE.csv",
        help="write all copies, a row for each pair; with --runs, a row for each "
        "train image",
    )
    add(
        "--runs",
        type=Path,
        metavar="DIR",
        help="find suspicious labels instead, from how the finished runs in this "
        "folder learned each train image",
    )
    add("--report", type=Path, metavar="FILE.html", help="write the images to look at")
    add("--no_color", action="store_true", help="no colours")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
