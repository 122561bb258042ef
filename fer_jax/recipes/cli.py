"""Finds the best recipe: which changes help, how good the best is, and how fast.

  bin/recipe --stage ablation   one change at a time from a config, on a fold of train
  bin/recipe --stage best       configs/best.yaml with five seeds, alone and together
  bin/recipe --stage speedrun   configs/speedrun.yaml: the time to 70 % on val

Each stage is a batch of runs, which goes on where it was stopped, and then a table. The
ablation never looks at test: a fold of train selects, and val is read once a run.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.special import softmax

from fer_jax import compare, runs
from fer_jax import config as config_lib
from fer_jax.batch import cli as batch
from fer_jax.compare import FinishedRun
from fer_jax.config import Config, compared_settings
from fer_jax.errors import UserError
from fer_jax.recipes.ablation import COLUMNS, ablate, verdicts
from fer_jax.system import files
from fer_jax.system.console import make_console

TARGET = 0.70  # of the speedrun, accuracy on val
SEEDS = {"ablation": 3, "best": 5, "speedrun": 5}
BUDGET_MIN = {"ablation": 240, "best": 60, "speedrun": 30}

# Of the configs, below the runs folder: ours alone, as it is emptied.
CONFIGS = ".recipe_configs"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 if any run failed."""
    args = _parse(argv)
    own = config_lib.load(args.config)
    runs_dir = Path(args.runs_dir or f"runs/{args.stage}/{own.name}")
    is_ablation = args.stage == "ablation"
    configs = ablate(own, small=args.small) if is_ablation else [own]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.dry_run else runs_dir / CONFIGS
        _write_configs(folder, configs)
        command = ["--configs", str(folder), "--runs_dir", str(runs_dir), "--yes"]
        command += ["--seeds", str(args.seeds), "--budget", str(args.budget)]
        if not is_ablation:  # a recipe is run only where it is named
            command += ["--filter", own.name]
        if args.data_root is not None:
            command += ["--data_root", args.data_root]
        status = batch.main([*command, *["--dry-run"] * args.dry_run])
    if args.dry_run or status >= 128:  # stopped by a signal
        return status
    console, finished = make_console(), _finished(runs_dir, configs)
    if is_ablation:
        _show_ablation(console, finished, runs_dir / "ablation.md")
    else:
        console.print((report if args.stage == "best" else speed)(finished))
    return status


def _finished(runs_dir: Path, configs: Sequence[Config]) -> list[FinishedRun]:
    """The finished runs of these very configs, and none that others left there.

    Raises:
      UserError: if there is none of the first.
    """
    asked = {each.name: compared_settings(each.model_dump()) for each in configs}
    found = [
        run
        for run in compare.load_runs(runs_dir, [])[0]
        if asked.get(run.name) == compared_settings(run.config)
    ]
    first = configs[0].name
    if not any(run.name == first for run in found):
        raise UserError(
            f"{runs_dir} holds no finished run of {first} with these settings, so "
            "there is nothing to tell; see why it failed, or name another --runs_dir"
        )
    return found


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/recipe",
        description="Find what helps, how good the best recipe is, and how fast.",
    )
    parser.add_argument("--stage", choices=tuple(SEEDS), required=True)
    parser.add_argument("--data_root", help="as python -m fer_jax.train takes it")
    parser.add_argument(
        "--config", help="default: configs/best.yaml, or configs/speedrun.yaml"
    )
    parser.add_argument("--runs_dir", help="default: runs/<stage>/<config's name>")
    parser.add_argument("--seeds", type=int, metavar="N", help="default: 3, 5, 5")
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="begin no run that would end later, as far as finished ones tell; "
        "default: 240, 60, 30",
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="an ablation for a CPU: narrow network, 8,000 small images, 12 epochs",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the plan only")
    args = parser.parse_args(argv)
    if args.small and args.stage != "ablation":
        raise UserError("--small is a form of --stage ablation; leave it out")
    args.seeds = SEEDS[args.stage] if args.seeds is None else args.seeds
    args.budget = BUDGET_MIN[args.stage] if args.budget is None else args.budget
    default = "speedrun" if args.stage == "speedrun" else "best"
    args.config = args.config or f"configs/{default}.yaml"
    return args


def _write_configs(folder: Path, configs: Sequence[Config]) -> None:
    """Writes them for the batch to read; those of an earlier ablation go."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        path.unlink()
    for place, config in enumerate(configs):  # numbered, as the batch sorts by name
        path = folder / f"{place:02d}_{config.name}.yaml"
        files.write_text(path, config_lib.dump(config))


def report(finished: Sequence[FinishedRun]) -> Table:
    """What several seeds of a config reach, one by one and as an ensemble."""
    table = Table(
        title=f"{finished[0].name}: accuracy in %, mean ± sd, n = {len(finished)}",
        caption="val chose the epoch and the settings: its figures are optimistic",
        box=box.SIMPLE,
    )
    for name in ("", "one network", "the same, clean", "macro F1", "ensemble"):
        table.add_column(name, justify="left" if not name else "right")
    for split in ("val", "test"):
        scored = [run.scores[split] for run in finished if split in run.scores]
        if scored:
            keys = ("accuracy", "accuracy_clean", "macro_f1")
            cells = [_percent(scored, key) for key in keys]
            together = f"{100 * ensemble_accuracy(finished, split):.1f}"
            table.add_row(split, *cells, together)
    seconds = [run.timing["wall_s"] for run in finished]
    table.add_row("seconds", _mean_sd(seconds), "", "", f"{sum(seconds):.0f}")
    return table


def ensemble_accuracy(finished: Sequence[FinishedRun], split: str) -> float:
    """The accuracy of the mean of the runs' probabilities, 0..1."""
    total, labels = 0.0, np.zeros(0)
    for run in finished:
        path = run.folder / f"predictions_{split}.npz"
        with np.load(path, allow_pickle=False) as file:
            logits, labels = file["logits"].astype(np.float64), file["labels"]
        total += softmax(logits, axis=1)
    has = labels >= 0
    return float((total.argmax(axis=1) == labels)[has].mean())


def speed(finished: Sequence[FinishedRun]) -> str:
    """How long until the mean over the seeds reaches the target on val."""
    histories = [runs.read_metrics(run.folder) for run in finished]
    count = min(map(len, histories))
    means = [
        statistics.mean(rows[epoch]["val_accuracy"] for rows in histories)
        for epoch in range(count)
    ]
    reached = [epoch for epoch, mean in enumerate(means) if mean >= TARGET]
    named = f"{finished[0].name}, {len(finished)} seeds, on {finished[0].device}"
    if not reached:
        return (
            f"{named}: val accuracy is at most {100 * max(means):.1f} % on average; "
            f"the target is {100 * TARGET:.0f} %"
        )
    epoch = reached[0]
    scores = _mean_sd([100 * rows[epoch]["val_accuracy"] for rows in histories])
    seconds = _mean_sd([rows[epoch]["wall_s"] for rows in histories])
    return (
        f"{named}: val accuracy {scores} % after {epoch + 1} epochs and {seconds} s, "
        "evaluation and what is compiled in them included"
    )


def _percent(scored: Sequence[Mapping[str, Any]], key: str) -> str:
    known = [100 * each[key] for each in scored if key in each]
    return _mean_sd(known) if len(known) == len(scored) else "-"


def _mean_sd(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f} (n = 1)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _show_ablation(
    console: Console, finished: Sequence[FinishedRun], path: Path
) -> None:
    """Prints the verdicts, and writes them as Markdown."""
    rows = verdicts(finished)
    table = Table(
        title="One change at a time; accuracy in %",
        box=box.SIMPLE_HEAD,
        padding=0,  # so that all of it fits in 80 columns
        pad_edge=False,
    )
    for place, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if 0 < place < 7 else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    files.write_text(path, text)
    console.print(f"written: {path}")
