"""The command line of every command: one spelling rule, hints for typos, examples.

Options are spelt with underscores, and dashes are accepted too.
"""

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fer_jax.errors import UserError
from fer_jax.system.files import IMPORT_ROOT

_LAUNCHERS = {"batch": "bin/run_batch", "train": "python -m fer_jax.train"}


def typed(command: str) -> str:
    """How to type a command here: `bin/compare` beside bin/, else `fer-jax compare`."""
    started = Path(sys.argv[0]).absolute()
    if (
        started.parent == IMPORT_ROOT / "bin"
        or started == IMPORT_ROOT / "fer_jax/train.py"
    ):
        return _LAUNCHERS.get(command, f"bin/{command}")
    return f"fer-jax {command}"


def close_match(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean X?" for the known name most like `name`, or ""."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors of one sentence."""

    def __init__(
        self, command: str, description: str, examples: str = "", **options: Any
    ):
        """Makes the parser of a command.

        Args:
          command: its name, as in `fer-jax compare`.
          description: what it does, in a sentence.
          examples: for the end of --help, a line each; "%" becomes the command.
          options: of `argparse.ArgumentParser`.
        """
        prog = typed(command)
        lines = examples.strip("\n").replace("%", prog)
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{lines}" if lines else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
            **options,
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        given = sys.argv[1:] if args is None else list(args)
        parsed, unknown = self.parse_known_args(
            self._with_underscores(given), namespace
        )
        if unknown:
            name = unknown[0].partition("=")[0]
            if not name.startswith("-"):
                hint = ""
                if name != unknown[0] and "--set" in self._option_string_actions:
                    hint = f"; did you mean --set {unknown[0]}?"
                self.error(f"{unknown[0]!r} is one argument too many{hint}")
            hint = close_match(_underscored(name), self._option_string_actions)
            self.error(f"there is no option {name}{hint}")
        return parsed

    def _with_underscores(self, given: Sequence[str]) -> list[str]:
        return [
            _underscored(item) if _option(item) in self._option_string_actions else item
            for item in given
        ]

    def error(self, message: str) -> NoReturn:
        """Raises a UserError that names the command and its --help."""
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples as they are, and fills the description."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _option(item: str) -> str:
    return _underscored(item).partition("=")[0]


def _underscored(item: str) -> str:
    """An option with underscores in its name; other words stay as they are."""
    if not item.startswith("--"):
        return item
    name, equals, value = item[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
