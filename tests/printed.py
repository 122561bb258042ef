"""Reads what a comparison prints: its sections, and the rows of its tables."""

import os
import re

import numpy as np
from rich.console import Console

from fer_jax.compare import load_runs, main, show
from fer_jax.emotions import EMOTIONS


def correct(share, labels):
    """Predictions that are right for the first `share` of the images, else wrong."""
    right = np.arange(len(labels)) < round(share * len(labels))
    return np.where(right, labels, (labels + 1) % len(EMOTIONS))


def text_of(runs_dir, width=200, split="val", sort="macro_f1", mixed=False, filters=()):
    runs, unfinished = load_runs(runs_dir, filters, mixed=mixed)
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    show(console, runs, unfinished, split=split, sort=sort)
    return console.export_text()


def section(text, heading):
    """The lines below the heading that begins so, up to the next empty line."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(heading))
    block = []
    for line in lines[start + 1 :]:
        if not line.strip():
            break
        block.append(line)
    return "\n".join(block)


def rows(block):
    """The lines below the rule, without the note under the table."""
    lines = block.splitlines()
    rule = next(n for n, line in enumerate(lines) if set(line.strip()) == {"─"})
    notes = ("detectable:", "not tested")
    return [line for line in lines[rule + 1 :] if not line.startswith(notes)]


def row(block, name):
    """The cells of the row of `name`."""
    line = next(line for line in block.splitlines() if line.split()[0] == name)
    return re.sub(r" \[.*?\]", "", line).split()  # without the intervals


def command_text(capsys, folder, *args):
    """What the command prints for the runs in a folder."""
    assert main(["--runs_dir", str(folder), *args]) == 0
    return capsys.readouterr().out
