"""The command `fer-jax`: finds the command that was asked for and calls it.

`bin/*` and `python -m fer_jax` call the same. A command's module is imported when it is
needed, so that --help answers at once.
"""

import importlib
import sys
from collections.abc import Sequence

from fer_jax import __version__
from fer_jax.errors import UserError, run_command
from fer_jax.system.arguments import close_match

COMMANDS = {
    "train": ("fer_jax.train", "train one experiment"),
    "batch": ("fer_jax.batch.cli", "train many experiments, with many seeds"),
    "compare": ("fer_jax.compare.cli", "compare finished runs"),
    "audit": ("fer_jax.audit.cli", "find copies, and doubtful images and labels"),
    "predict": ("fer_jax.inference.cli", "the emotions of images, by a trained model"),
    "evaluate": ("fer_jax.inference.evaluate", "judge a model on labelled images"),
    "export": ("fer_jax.inference.export", "write a finished run as a model"),
    "targets": ("fer_jax.inference.targets", "what runs teach: soft targets"),
    "configs": ("fer_jax.list_configs", "list the experiments, or copy them"),
    "recipe": ("fer_jax.recipes.cli", "find what helps most"),
    "bench": ("fer_jax.bench.cli", "measure fer_jax beside PyTorch"),
}
_OTHER_NAMES = {
    "run_batch": "batch",
    "test": "evaluate",
    "eval": "evaluate",
    "report": "compare",
    "infer": "predict",
    "benchmark": "bench",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `fer-jax COMMAND ...`; returns the exit status."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name in ("-V", "--version"):
        print(f"fer_jax {__version__}")
        return 0
    if name not in COMMANDS:
        close = _OTHER_NAMES.get(name, name)
        raise UserError(
            f"there is no command {name}{close_match(close, COMMANDS)}; the commands "
            f"are {', '.join(COMMANDS)}"
        )
    module, _ = COMMANDS[name]
    return importlib.import_module(module).main(rest)


def run(argv: Sequence[str] | None = None) -> int:
    """The same, with user errors as one line on stderr and status 2."""
    return run_command(lambda: main(argv))


def _help() -> str:
    rows = "\n".join(f"  {name:<9}{what}" for name, (_, what) in COMMANDS.items())
    return f"""usage: fer-jax COMMAND ...

The laboratory for facial emotion recognition in JAX.

commands:
{rows}

examples:
  fer-jax train baseline                        on faces that the package draws
  fer-jax train baseline --data_root fer2013.csv
  fer-jax batch --filter baseline --filter loss_ --seeds 5
  fer-jax compare --split test --report report.html
  fer-jax predict face.jpg

Each command has --help. fer-jax --version prints the version."""
