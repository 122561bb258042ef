"""Audits a data set: `bin/audit --data_root fer2013.csv`, also with `--runs runs`.

Copies within and across splits, conflicting labels, blank images, the balance of the
classes and how the images are stored, as tables, and on demand as JSON, as a CSV of all
copies, and as a sheet of the images to look at, which stays where it is written: it
shows the data.
"""

import argparse
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fer_jax import data
from fer_jax.audit import contact_sheet
from fer_jax.audit.label_report import SuspiciousLabels
from fer_jax.data.duplicates.audit import IN_CELLS, Audit, audit
from fer_jax.data.lazy_images import concatenate, read_pixels
from fer_jax.data.records import MISNAMED, OTHERS, Stored, is_misnamed
from fer_jax.system.console import make_console, plain_table
from fer_jax.system.files import check_target, write_whole

SHOWN_KINDS = 6  # of stored images, in the table


class Pair(NamedTuple):
    """Two images, as places in the audit, that are copies."""

    first: int
    second: int
    kind: str  # "exact" or "near"
    correlation: float
    mirrored: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv` (default: the process's own); returns 0."""
    args = _parser().parse_args(argv)
    for option, path, suffix in (
        ("--json", args.json, ".json"),
        ("--csv", args.csv, ".csv"),
        ("--report", args.report, ".html"),
    ):
        if path:  # before the reading goes to waste
            check_target(path, option, (suffix,))
    console = make_console(color=not args.no_color)
    dataset = data.load(
        args.data_root,
        image_size=args.image_size,
        channels=args.channels,
        skip_bad=args.skip_bad,
        console=console,
    )
    found = (
        SuspiciousLabels(args.runs, dataset)
        if args.runs
        else Copied(dataset, audit(dataset, console))
    )
    if args.json:
        write_whole(args.json, json.dumps(found.facts, indent=1) + "\n")
    if args.csv:
        write_whole(args.csv, found.to_csv())
    if args.report:
        write_whole(args.report, found.page())
    found.show(console)
    for path in (args.json, args.csv, args.report):
        if path:
            console.print(f"written: {path}")
    return 0


class Copied:
    """What an audit found: copies, conflicts, blanks, balance, and how it is stored."""

    def __init__(self, dataset: data.Dataset, found: Audit):
        self.dataset, self.found = dataset, found
        self.facts = summary(found) | {
            "data": dataset.description,
            "fingerprint": dataset.fingerprint,
            "skipped": dataset.skipped,
            "stored": stored_summary(dataset.stored),
        }

    def to_csv(self) -> str:
        """One row for each pair of copies."""
        return pairs_csv(self.found)

    def page(self) -> str:
        """The images themselves: conflicts, copies and blanks."""
        return sheet(self.found, self.dataset, self.facts)

    def show(self, console: Console) -> None:
        """Prints the tables."""
        show(console, self.facts)


def summary(found: Audit) -> dict[str, Any]:
    """The audit in numbers: images, classes, blanks, copies, conflicts."""
    exact = found.copies.exact
    splits = {}
    for name in found.splits:
        own = found.of(name)
        counts = np.bincount(found.labels[own], minlength=len(found.class_names))
        splits[name] = {
            "images": int(own.sum()),
            "blank": int((own & found.blank).sum()),
            "classes": dict(zip(found.class_names, counts.tolist(), strict=True)),
        }
    copies = []
    for name in found.splits:
        own = found.of(name)
        for other in found.splits:
            same = own & found.has_copy_in(other, near=False)
            alike = own & found.has_copy_in(other, near=True)
            copies.append(
                {
                    "split": name,
                    "in": other,
                    "exact": int(same.sum()),
                    "near": int((alike & ~same).sum()),
                }
            )
    conflicts = {}
    for kind, near in (("exact", False), ("exact or near", True)):
        groups = found.conflicts(near=near)
        there = groups[groups >= 0]
        conflicts[kind] = {"groups": len(np.unique(there)), "images": len(there)}
    return {
        "images": len(exact),
        "distinct": len(np.unique(exact)),
        "splits": splits,
        "copies": copies,
        "conflicts": conflicts,
        "complete": found.copies.complete,
        "approximate": found.copies.in_cells,
    }


def stored_summary(stored: Stored) -> dict[str, Any]:
    """How the images are stored: kinds by split, the usual one, and what is odd.

    The usual kind is the most frequent one of all splits, odd is each image of another
    kind, and misnamed each whose suffix is another format's.
    """
    usual = next(iter(_ranked(stored)), None)

    def count(is_meant: Callable[[str], bool]) -> dict[str, int]:
        return {
            split: sum(n for kind, n in kinds.items() if is_meant(kind))
            for split, kinds in stored.items()
        }

    return {
        "kinds": stored,
        "usual": usual,
        "odd": count(lambda kind: kind != usual),
        "misnamed": count(is_misnamed),
    }


def _ranked(stored: Stored) -> list[str]:
    """The kinds of stored images, the most frequent first, without sums of kinds."""
    total = Counter()
    for kinds in stored.values():
        total.update(kinds)
    named = total.keys() - {OTHERS, MISNAMED}
    return sorted(named, key=lambda kind: (-total[kind], kind))


def pairs(found: Audit) -> Iterator[Pair]:
    """All copies: each image with the first one identical to it, and near pairs."""
    exact = found.copies.exact
    for place in np.flatnonzero(exact != np.arange(len(exact))):
        yield Pair(int(exact[place]), int(place), "exact", 1.0, False)
    for (first, second), correlation, mirrored in zip(
        found.copies.pairs,
        found.copies.correlation,
        found.copies.mirrored,
        strict=True,
    ):
        yield Pair(int(first), int(second), "near", float(correlation), bool(mirrored))


def pairs_csv(found: Audit) -> str:
    """One row for each of `pairs`."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    sides = [f"{what}_{side}" for side in "ab" for what in ("split", "row", "label")]
    rows.writerow(["kind", *sides, "correlation", "mirrored"])
    for pair in pairs(found):
        told = [_where(found, place) for place in (pair.first, pair.second)]
        rows.writerow(
            [pair.kind, *told[0], *told[1], f"{pair.correlation:.4f}", pair.mirrored]
        )
    return text.getvalue()


def show(console: Console, facts: dict[str, Any]) -> None:
    """Prints the audit's tables, in 80 columns."""
    console.print(
        f"{facts['data']}: {facts['images']:,} images, {facts['distinct']:,} distinct, "
        f"fingerprint {facts['fingerprint']}"
    )
    classes = next(iter(facts["splits"].values()))["classes"]
    table = plain_table("images by split", ["split", *facts["splits"]])
    for name in classes:
        counts = [part["classes"][name] for part in facts["splits"].values()]
        table.add_row(name, *(f"{count:,}" for count in counts))
    table.add_section()
    for word, key in (("all", "images"), ("blank", "blank")):
        counts = [part[key] for part in facts["splits"].values()]
        table.add_row(word, *(f"{count:,}" for count in counts))
    console.print(table)
    _show_stored(console, facts["stored"])
    table = plain_table("images that have a copy", ["of", "in", "exact", "near only"])
    for row in facts["copies"]:
        told = row["in"] if row["in"] != row["split"] else f"{row['in']} too"
        table.add_row(row["split"], told, f"{row['exact']:,}", f"{row['near']:,}")
    console.print(table)
    table = plain_table("copies with different labels", ["copies", "groups", "images"])
    for kind, counts in facts["conflicts"].items():
        table.add_row(kind, f"{counts['groups']:,}", f"{counts['images']:,}")
    console.print(table)
    if skipped := sum(facts["skipped"].values()):
        console.print(f"{skipped:,} bad rows or images were dropped before")
    if facts["approximate"]:
        console.print(IN_CELLS, style="yellow")
    if not facts["complete"]:
        console.print(
            "more pairs are alike than were looked at: near copies may be missing",
            style="yellow",
        )


def _show_stored(console: Console, stored: dict[str, Any]) -> None:
    """The most frequent kinds of stored images, the others summed, and the odd ones."""
    splits = stored["kinds"]
    if not splits:
        console.print("how they are stored was not noted when they were prepared")
        return
    shown = _ranked(splits)[:SHOWN_KINDS]
    table = plain_table("as stored", ["kind", *splits])
    others = [
        sum(n for kind, n in kinds.items() if kind not in shown)
        for kinds in splits.values()
    ]
    rows = {kind: [each.get(kind, 0) for each in splits.values()] for kind in shown}
    rows |= {OTHERS: others} if any(others) else {}
    for word, counts in rows.items():
        table.add_row(word, *(f"{count:,}" for count in counts))
    table.add_section()
    for word in ("odd", "misnamed"):
        table.add_row(word, *(f"{count:,}" for count in stored[word].values()))
    console.print(table)


def sheet(found: Audit, dataset: data.Dataset, facts: dict[str, Any]) -> str:
    """A page of the images themselves: conflicts, copies across splits, blanks."""
    images = concatenate([dataset.splits[name].images for name in found.splits])
    across, conflicting, within = [], [], []
    for pair in pairs(found):
        first, second = pair.first, pair.second
        if found.labels[first] != found.labels[second]:
            conflicting.append(pair)
        elif found.split[first] != found.split[second]:
            across.append(pair)
        else:
            within.append(pair)

    def show_image(place: int) -> str:
        split, row, label = _where(found, place)
        image = read_pixels(images, np.array([place]))[0]
        return contact_sheet.figure(image, label, f"{split} {row}")

    def section(title: str, chosen: list[Pair]) -> str:
        # Near copies first: exact ones look as one expects.
        order = sorted(
            chosen, key=lambda pair: (pair.kind == "exact", pair.correlation)
        )
        cells = [
            show_image(pair.first)
            + show_image(pair.second)
            + f"<p>{pair.kind}{' mirrored' * pair.mirrored} {pair.correlation:.2f}</p>"
            for pair in order[: contact_sheet.SHOWN]
        ]
        return contact_sheet.section(title, cells, len(chosen))

    blanks = [show_image(int(place)) for place in np.flatnonzero(found.blank)]
    return contact_sheet.page(
        facts["data"],
        [
            section("Copies with different labels", conflicting),
            section("Copies across splits", across),
            section("Copies within a split", within),
            contact_sheet.section("Blank images", blanks, len(blanks)),
        ],
    )


def _where(found: Audit, place: int) -> tuple[str, int, str]:
    """The split, row and label of an image."""
    return (
        found.splits[found.split[place]],
        int(found.rows[place]),
        found.class_names[found.labels[place]],
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="audit",
        description="Looks for copies, conflicting labels and blank images in a data "
        "set, or for suspicious labels.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data_root", help="as python -m fer_jax.train takes it")
    add("--image_size", type=int, default=48, help="side of the images (48)")
    add(
        "--channels", type=int, choices=(1, 3), default=1, help="1: grey (1), 3: colour"
    )
    add("--skip_bad", action="store_true", help="drop unreadable images")
    add("--json", type=Path, metavar="FILE.json", help="write the numbers")
    add("--csv", type=Path, metavar="FILE.csv", help="write all copies, a row a pair")
    add(
        "--runs",
        type=Path,
        metavar="DIR",
        help="look for suspicious labels instead, by how the finished runs in this "
        "folder learnt each train image",
    )
    add("--report", type=Path, metavar="FILE.html", help="write the images to look at")
    add("--no-color", action="store_true", help="no colours")
    return parser
