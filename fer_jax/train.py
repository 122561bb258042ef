"""The command that trains one experiment: `python -m fer_jax.train CONFIG`.

It answers --help, a bad config and a missing data root at once: JAX, which takes
seconds to import, comes after them. A run is in `training/run.py`.
"""

import argparse
import functools
from collections.abc import Sequence

from fer_jax import config as config_lib
from fer_jax.errors import run_command
from fer_jax.system.arguments import Parser
from fer_jax.system.console import make_console

_EXAMPLES = """
  % baseline                                      on faces that the package draws
  % configs/baseline.yaml --data_root fer2013.csv
  % baseline --set training.lr=1e-3 --set name=lr_1e-3
  % baseline --seed 43                            another seed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _make_parser().parse_args(argv)
    if args.seed is not None:
        args.overrides.append(f"training.seed={args.seed}")
    config = config_lib.load(args.resolved or args.config, args.overrides)

    from fer_jax.data.sources.locate import check_root

    check_root(args.data_root)

    from fer_jax.system.backend import start_backend
    from fer_jax.system.compilation_cache import keep_compiled
    from fer_jax.system.memory import keep_memory
    from fer_jax.training import processes

    keep_memory()
    keep_compiled()
    processes.join()
    start_backend()
    if processes.are_one():
        return _train(args, config)
    return processes.ending(lambda: run_command(lambda: _train(args, config)))


def _train(args: argparse.Namespace, config: config_lib.Config) -> int:
    from fer_jax.system.signals import Interrupted
    from fer_jax.training.attempt import Options, device_errors
    from fer_jax.training.processes import is_first
    from fer_jax.training.run import train

    options = Options(
        force=args.force,
        skip_bad=args.skip_bad,
        tensorboard=args.tensorboard,
        config_path=str(config_lib.find(args.config)),
        overrides=tuple(args.overrides),
    )
    try:
        with device_errors():
            train(
                config,
                data_root=args.data_root,
                runs_dir=args.runs_dir,
                options=options,
                console=make_console() if is_first() else None,
            )
    except Interrupted as stop:
        return 128 + stop.signum
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = Parser("train", "Train one experiment.", _EXAMPLES)
    add = parser.add_argument
    add("config", help="a YAML file, or the name of one that ships, such as baseline")
    add(
        "--data_root",
        help="a fer2013.csv, a folder train|val|test/<class>/*, RAF-DB or AffectNet; "
        "default: $FER_DATA_ROOT, else the embedded set",
    )
    add("--runs_dir", default="runs", help="default: runs")
    add(
        "--resolved",
        metavar="FILE",
        help="read the resolved settings from FILE; CONFIG is only named in the "
        "record. A batch uses it, so that a run trains what was planned",
    )
    add("--seed", type=int, help="the same as --set training.seed=N")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, as in training.lr=1e-3; may repeat",
    )
    switch = functools.partial(add, action="store_true")
    switch("--force", help="start anew even if the run exists")
    switch("--skip_bad", help="drop unreadable images and count them")
    switch("--tensorboard", help="write TensorBoard event files too")
    return parser


if __name__ == "__main__":
    raise SystemExit(run_command(main))
