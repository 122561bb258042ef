"""The command `recipe`: which changes help, how good the best recipe is, how fast.

Each stage is a batch of runs, which goes on where it stopped, and ends with a table.
The ablation never reads test: a fold of train takes val's place, and val takes test's.
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
from fer_jax.recipes.ablation import COLUMNS, ablation_configs, result_rows
from fer_jax.system import files
from fer_jax.system.console import make_console

TARGET = 0.70  # val accuracy of the speedrun
SEEDS = {"ablation": 3, "best": 5, "speedrun": 5}
BUDGET_MIN = {"ablation": 240, "best": 60, "speedrun": 30}

# A folder of configs below the runs folder. Only this command writes there.
CONFIGS = ".recipe_configs"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a stage; returns the exit status, 1 if any run failed."""
    args = _parse(argv)
    recipe = config_lib.load(args.config)
    runs_dir = Path(args.runs_dir or f"runs/{args.stage}/{recipe.name}")
    configs = [recipe]
    command = ["--runs_dir", str(runs_dir), "--yes"]
    command += ["--seeds", str(args.seeds), "--budget", str(args.budget)]
    if args.stage == "ablation":
        configs = ablation_configs(recipe, small=args.small)
    else:  # a batch leaves out recipes that no filter names
        command += ["--filter", recipe.name]
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    if args.dry_run:
        command.append("--dry-run")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.dry_run else runs_dir / CONFIGS
        _write_configs(folder, configs)
        status = batch.main([*command, "--configs", str(folder)])
    if args.dry_run or status >= 128:  # stopped by a signal
        return status
    console, finished = make_console(), _finished_runs(runs_dir, configs)
    if args.stage == "ablation":
        _show_ablation(console, finished, runs_dir / "ablation.md")
    elif args.stage == "best":
        console.print(scores_table(finished))
    else:
        console.print(time_to_target(finished))
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bin/recipe",
        description="Find which changes help (ablation), how accurate the best recipe "
        "is (best), or how fast a recipe reaches 70 % on val (speedrun).",
    )
    add = parser.add_argument
    add("--stage", choices=tuple(SEEDS), required=True, help="what to find")
    add("--data_root", help="as python -m fer_jax.train takes it")
    add("--config", help="default: configs/best.yaml, or configs/speedrun.yaml")
    add("--runs_dir", help="default: runs/<stage>/<name of the config>")
    add("--seeds", type=int, metavar="N", help="default: 3, 5, 5")
    add(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="start no run that is expected to end later; default: 240, 60, 30",
    )
    add(
        "--small",
        action="store_true",
        help="ablation on a CPU: narrow network, 8,000 small images, 12 epochs",
    )
    add("--dry-run", action="store_true", help="show the plan only")
    args = parser.parse_args(argv)
    if args.small and args.stage != "ablation":
        raise UserError("--small is only for --stage ablation; leave it out")
    args.seeds = SEEDS[args.stage] if args.seeds is None else args.seeds
    args.budget = BUDGET_MIN[args.stage] if args.budget is None else args.budget
    default = "speedrun" if args.stage == "speedrun" else "best"
    args.config = args.config or f"configs/{default}.yaml"
    return args


def _write_configs(folder: Path, configs: Sequence[Config]) -> None:
    """Writes configs for the batch, in place of those of an earlier ablation."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.yaml"):
        path.unlink()
    for number, config in enumerate(configs):  # the batch sorts by file name
        path = folder / f"{number:02d}_{config.name}.yaml"
        files.write_text(path, config_lib.dump(config))


def _finished_runs(runs_dir: Path, configs: Sequence[Config]) -> list[FinishedRun]:
    """The finished runs of these configs, without others in the same folder.

    Raises:
      UserError: if none is of the first config.
    """
    wanted = {each.name: compared_settings(each.model_dump()) for each in configs}
    found = [
        run
        for run in compare.load_runs(runs_dir, [])[0]
        if wanted.get(run.name) == compared_settings(run.config)
    ]
    first = configs[0].name
    if not any(run.name == first for run in found):
        raise UserError(
            f"{runs_dir} holds no finished run of {first} with these settings, so "
            "there is no result to show; see why it failed, or name another --runs_dir"
        )
    return found


def scores_table(finished: Sequence[FinishedRun]) -> Table:
    """The scores of several seeds of a config, and of their ensemble."""
    table = Table(
        title=f"{finished[0].name}: accuracy in %, mean ± sd, n = {len(finished)}",
        caption="val chose the epoch and the settings, so its scores are optimistic",
        box=box.SIMPLE,
    )
    for name in ("", "one network", "clean", "macro F1", "ensemble"):
        table.add_column(name, justify="right" if name else "left")
    for split in ("val", "test"):
        scores = [run.scores[split] for run in finished if split in run.scores]
        if scores:
            keys = ("accuracy", "accuracy_clean", "macro_f1")
            cells = [_percent(scores, key) for key in keys]
            ensemble = f"{100 * ensemble_accuracy(finished, split):.1f}"
            table.add_row(split, *cells, ensemble)
    seconds = [run.timing["wall_s"] for run in finished]
    table.add_row("seconds", _mean_sd(seconds), "", "", f"{sum(seconds):.0f}")
    return table


def ensemble_accuracy(finished: Sequence[FinishedRun], split: str) -> float:
    """The accuracy of the runs' averaged probabilities, in 0..1."""
    probabilities = []
    for run in finished:
        path = run.folder / f"predictions_{split}.npz"
        with np.load(path, allow_pickle=False) as file:
            logits, labels = file["logits"].astype(np.float64), file["labels"]
        probabilities.append(softmax(logits, axis=1))
    hits = np.mean(probabilities, axis=0).argmax(axis=1) == labels
    return float(hits[labels >= 0].mean())


def time_to_target(finished: Sequence[FinishedRun]) -> str:
    """A sentence: when the mean over the seeds reaches `TARGET` on val."""
    histories = [runs.read_metrics(run.folder) for run in finished]
    epochs = list(zip(*histories, strict=False))  # the rows of all seeds
    means = [statistics.mean(row["val_accuracy"] for row in rows) for rows in epochs]
    subject = f"{finished[0].name}, {len(finished)} seeds, on {finished[0].device}"
    reached = [number for number, mean in enumerate(means) if mean >= TARGET]
    if not reached:
        return (
            f"{subject}: mean val accuracy is at most {100 * max(means):.1f} %; the "
            f"target is {100 * TARGET:.0f} %"
        )
    rows = epochs[reached[0]]
    scores = _mean_sd([100 * row["val_accuracy"] for row in rows])
    seconds = _mean_sd([row["wall_s"] for row in rows])
    return (
        f"{subject}: val accuracy {scores} % after {reached[0] + 1} epochs and "
        f"{seconds} s, with evaluation and compilation"
    )


def _percent(scores: Sequence[Mapping[str, Any]], key: str) -> str:
    if any(key not in each for each in scores):
        return "-"
    return _mean_sd([100 * each[key] for each in scores])


def _mean_sd(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f} (n = 1)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _show_ablation(
    console: Console, finished: Sequence[FinishedRun], path: Path
) -> None:
    """Prints the table of an ablation, and writes it as Markdown."""
    rows = result_rows(finished)
    # Without padding the table fits in 80 columns.
    table = Table(
        title="One change at a time; accuracy in %",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if 0 < number < 7 else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    files.write_text(path, text)
    console.print(f"written to {path}")
