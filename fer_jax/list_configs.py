"""The command `fer-jax configs`: lists the experiments that ship, or copies them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from fer_jax import config as config_lib
from fer_jax.errors import UserError, run_command
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.console import make_console
from fer_jax.system.files import write_whole

_EXAMPLES = """
  %                   the experiments and their questions
  % --to configs      copies, to change and extend
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    args = _parser().parse_args(argv)
    console = make_console()
    shipped = config_lib.shipped()
    if args.to:
        _copy(shipped, args.to)
        console.print(f"written: {len(shipped)} configs in {args.to}")
        return 0
    table = Table(box=None, pad_edge=False)
    for name in ("config", "question"):
        table.add_column(name, overflow="fold")
    for path in shipped:
        table.add_row(path.stem, config_lib.load(path).description)
    console.print(table)
    console.print(
        f"\n{typed('train')} NAME trains one; {typed('configs')} --to DIR copies them"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "configs",
        "List the experiments that come with fer_jax, or copy them.",
        _EXAMPLES,
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="copy the YAML files into this folder"
    )
    return parser


def _copy(shipped: Sequence[Path], folder: Path) -> None:
    """Copies files into a folder, in which no other file is replaced."""
    contents = {folder / path.name: path.read_text("utf-8") for path in shipped}
    try:
        for path, content in contents.items():
            if path.exists() and path.read_text("utf-8") != content:
                raise UserError(
                    f"{path} exists with other content; name another folder with --to"
                )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    for path, content in contents.items():
        write_whole(path, content)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
