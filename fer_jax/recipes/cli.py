"""The command `recipe`: which changes help, and how good and fast a network can be.

Each stage is a batch of runs, which goes on where it stopped, and ends with a table.
The ablation never reads the test split: a fold of train stands in for val, and val
stands in for test.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fer_jax import compare
from fer_jax import config as config_lib
from fer_jax.batch import cli as batch
from fer_jax.compare import FinishedRun
from fer_jax.compare.export import to_markdown
from fer_jax.compare.layout import Sheet, to_rich
from fer_jax.config import Config, compared_settings
from fer_jax.errors import UserError, run_command
from fer_jax.recipes.ablation import ablation_configs
from fer_jax.recipes.distill import TARGETS, student_of, write_targets
from fer_jax.recipes.results import ablation_sheet, scores_sheet, time_to_target
from fer_jax.system import files
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console

_EXAMPLES = """
  % --stage ablation --data_root fer2013.csv --small     on a CPU
  % --stage best --data_root fer2013.csv                 hours, on a GPU
  % --stage distill --config laptop --data_root fer2013.csv
"""
SEEDS = {"ablation": 3, "best": 5, "speedrun": 5, "distill": 5}
BUDGET_MIN = {"ablation": 240, "best": 60, "speedrun": 30, "distill": 60}
TEACHERS = 8

# A folder of configs below the runs folder. Only this command writes there.
CONFIGS = ".recipe_configs"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a stage; returns the exit status, 1 if any run failed."""
    args = _parse(argv)
    recipe = config_lib.load(args.config)
    runs_dir = Path(args.runs_dir or _default_folder(args.stage, recipe.name))
    configs, console = [recipe], make_console()
    if args.stage == "ablation":
        configs = ablation_configs(recipe, small=args.small)
    elif args.stage == "distill":
        targets = runs_dir / TARGETS
        configs = [student_of(recipe, targets)]
        status = _teach(args, runs_dir, targets)
        if args.dry_run and not targets.exists():
            console.print(f"then {args.seeds} runs of {configs[0].name}")
            return status
        if status:
            return status
    status = _train(args, runs_dir, configs, args.seeds)
    if args.dry_run or status >= 128:  # stopped by a signal
        return status
    finished = _finished_runs(runs_dir, configs)
    if args.stage == "speedrun":
        console.print(time_to_target(finished))
        return status
    show = ablation_sheet if args.stage == "ablation" else scores_sheet
    sheet = show(finished)
    _print(console, sheet)
    if args.stage == "ablation":
        path = runs_dir / "ablation.md"
        files.write_text(path, to_markdown([sheet], []))
        console.print(f"written to {path}")
    return status


def _default_folder(stage: str, name: str) -> str:
    """The runs folder; students of the same teachers share theirs."""
    return "runs/distill" if stage == "distill" else f"runs/{stage}/{name}"


def _train(
    args: argparse.Namespace, runs_dir: Path, configs: Sequence[Config], seeds: int
) -> int:
    """Has a batch train the configs; returns its exit status."""
    command = ["--runs_dir", str(runs_dir), "--yes"]
    command += ["--seeds", str(seeds), "--budget", str(args.budget)]
    if len(configs) == 1:  # a batch leaves out recipes that no filter names
        command += ["--filter", configs[0].name]
    if args.data_root is not None:
        command += ["--data_root", args.data_root]
    if args.dry_run:
        command.append("--dry_run")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.dry_run else runs_dir / CONFIGS
        _write_configs(folder, configs)
        return batch.main([*command, "--configs", str(folder)])


def _teach(args: argparse.Namespace, runs_dir: Path, targets: Path) -> int:
    """Trains the teachers and writes their targets; returns the exit status.

    Raises:
      UserError: if not all teachers are finished, or the targets are of others.
    """
    teacher = config_lib.load(args.teacher)
    status = _train(args, runs_dir, [teacher], args.teachers)
    if status or args.dry_run:
        return status
    first = teacher.training.seed
    wanted = range(first, first + args.teachers)
    found = [run for run in _finished_runs(runs_dir, [teacher]) if run.seed in wanted]
    if len(found) < args.teachers:
        raise UserError(
            f"{len(found)} of {args.teachers} teachers are finished within the budget "
            f"of {args.budget:g} min; type the same command again"
        )
    _print(make_console(), scores_sheet(found))
    return write_targets(found, targets, args.data_root)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "recipe",
        "Find which changes help (ablation), how accurate the best recipe is (best), "
        "how fast a recipe reaches 70 % on val (speedrun), or how accurate a network "
        "is that larger ones teach (distill).",
        _EXAMPLES,
    )
    add = parser.add_argument
    add("--stage", choices=tuple(SEEDS), required=True, help="what to find")
    add("--data_root", help="as train takes it")
    add("--config", help="default: best, or speedrun; for distill the student")
    add("--runs_dir", help="default: runs/<stage>/<name of the config>; runs/distill")
    add("--seeds", type=int, metavar="N", help="default: 3 for ablation, else 5")
    add("--teacher", metavar="CONFIG", help="for distill; default: teacher")
    add("--teachers", type=int, metavar="N", help="for distill; default: 8 seeds")
    add(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="start no run of a batch that is expected to end later; default: 240 for "
        "ablation, 30 for speedrun, else 60",
    )
    add(
        "--small",
        action="store_true",
        help="ablation on a CPU: narrow network, 8,000 small images, 12 epochs",
    )
    add("--dry_run", action="store_true", help="show the plan only")
    args = parser.parse_args(argv)
    if args.small and args.stage != "ablation":
        raise UserError("--small is only for --stage ablation; leave it out")
    if args.stage != "distill" and (args.teacher or args.teachers is not None):
        raise UserError("--teacher and --teachers are only for --stage distill")
    args.teacher = args.teacher or "teacher"
    args.teachers = TEACHERS if args.teachers is None else args.teachers
    if args.teachers < 1:
        raise UserError(f"--teachers is {args.teachers}; expected 1 or more")
    args.seeds = SEEDS[args.stage] if args.seeds is None else args.seeds
    args.budget = BUDGET_MIN[args.stage] if args.budget is None else args.budget
    default = "speedrun" if args.stage == "speedrun" else "best"
    args.config = args.config or default
    return args


def _print(console: Console, sheet: Sheet) -> None:
    """Prints a table with its caption and its note."""
    console.print(sheet.caption, *to_rich(sheet, console.width), sheet.note, sep="\n")


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


if __name__ == "__main__":
    raise SystemExit(run_command(main))
