"""Where every run of a batch stands: `bin/run_batch --status`.

All is read from the configs and the runs folder, so that it works from any machine
that sees them. No data are loaded and no JAX is started: it may be asked often.
"""

import os
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from fer_jax import runs
from fer_jax.batch.moment import Moment
from fer_jax.batch.run_state import (
    STATES,
    RunState,
    is_run,
    read_state,
    told_time,
)
from fer_jax.config import Config
from fer_jax.errors import UserError, plain

Configs = Sequence[tuple[Path, Config]]
_ROW = "{:<8}  {:>7}  {:>5}  {:>6}  {}"  # what follows the name
_ROW_WIDTH = 47  # with a time such as "took 12 min", and what parts it from the name
_NAMED = 20  # runs that a sentence names


def planned(configs: Configs, seeds: int, runs_dir: Path) -> dict[Path, int]:
    """The folders of the runs of a plan, in its order, with their epochs."""
    return {
        runs.run_dir(
            runs_dir, config.name, config.training.seed + offset
        ): config.training.epochs
        for offset in range(seeds)
        for _, config in configs
    }


def show_status(
    console: Console,
    configs: Configs,
    seeds: int,
    runs_dir: Path,
    filters: Sequence[str],
) -> None:
    """Prints the runs of the plan, then others that are there, and how many are what.

    With `filters`, the others are those whose names begin with one of them, too.
    """
    plan, moment = planned(configs, seeds, runs_dir), Moment.at(runs_dir)
    states = {
        folder: read_state(folder, moment, epochs) for folder, epochs in plan.items()
    }
    others = {
        folder: read_state(folder, moment)
        for folder in sorted(runs_dir.glob("*/seed_*"))
        if folder not in plan and is_run(folder) and _is_meant(folder, filters)
    }
    labels = [_label(folder) for folder in (*states, *others)]
    wide = min(max(map(len, labels)), max(console.width - _ROW_WIDTH, 20))
    head = _ROW.format("state", "epoch", "done", "val F1", "time")
    lines = [f"{'run':<{wide}}  {head}", *_lines(states, wide, console.width)]
    if others:
        lines += ["", "not in the plan:", *_lines(others, wide, console.width)]
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(f"\n{_summary([*states.values(), *others.values()])}")


def told_finished(configs: Configs, seeds: int, runs_dir: Path) -> tuple[int, str]:
    """How many runs of the plan are finished, and a sentence that names the others.

    Raises:
      UserError: if there is no such runs folder.
    """
    if not os.path.isdir(runs_dir):
        raise UserError(
            f"the runs folder {runs_dir} does not exist, so that there is nothing to "
            "compare; name another with --runs_dir, or begin runs without --collect"
        )
    plan = planned(configs, seeds, runs_dir)
    missing = [_label(folder) for folder in plan if not runs.is_finished(folder)]
    finished = len(plan) - len(missing)
    told = f"{finished} of {len(plan)} runs of the plan are finished"
    if missing:
        more = len(missing) - _NAMED
        told += f"; missing: {', '.join(missing[:_NAMED])}"
        told += f" and {more} more, as --status shows" if more > 0 else ""
    return finished, told


def _label(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _is_meant(folder: Path, filters: Sequence[str]) -> bool:
    return not filters or folder.parent.name.startswith(tuple(filters))


def _lines(states: dict[Path, RunState], wide: int, width: int) -> Iterator[str]:
    """For each run a line, with what else is to be said of it below."""
    for folder, run in states.items():
        label = _label(folder)
        if len(label) > wide:  # else it would push the columns aside
            yield label
            label = ""
        yield f"{label:<{wide}}  {_row(run)}".rstrip()
        details = "; ".join(filter(None, (run.reason, run.place)))
        yield from textwrap.wrap(
            plain(details), width, initial_indent="  ", subsequent_indent="  "
        )


def _row(run: RunState) -> str:
    time = ""
    if run.seconds is not None:
        time = told_time(run.seconds)
        time = f"took {time}" if run.state == "finished" else f"{time} left"
    begun = run.state not in ("new", "damaged")
    return _ROW.format(
        run.state,
        f"{run.epoch}/{run.epochs or '?'}" if begun else "",
        f"{100 * run.done:.0f} %" if begun else "",
        "" if run.best is None else f"{100 * run.best:.1f}",
        time,
    )


def _summary(states: Sequence[RunState]) -> str:
    counts = Counter(run.state for run in states)
    told = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name])
    return f"{len(states)} {'run' if len(states) == 1 else 'runs'}: {told}"
