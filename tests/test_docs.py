"""The documentation: its links exist, and its reference is what the commands accept.

`python tests/test_docs.py` writes docs/commands.md anew.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path

import pytest

from fer_jax.cli import COMMANDS
from fer_jax.system.arguments import Parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "fer_jax/pretrained/README.md",
]
REFERENCE = ROOT / "docs/commands.md"
HEAD = """# Commands

`fer-jax COMMAND` runs a command, and so does `python -m fer_jax COMMAND`. In a
checkout, `bin/run_batch` is `fer-jax batch`, `bin/compare` is `fer-jax compare`, and so
on; `python -m fer_jax.train` is `fer-jax train`. In an option, `-` and `_` are the
same: `--data-root` is `--data_root`.

Every command has `--help`. Its exit status is 0, 2 after an error that you can correct,
or 130 after Ctrl-C. `fer-jax batch` exits with 1 if a run did not finish, `fer-jax
predict` if a file could not be read, and `fer-jax compare --against` if a score got
significantly worse.
"""


class _Parsed(Exception):
    """Carries the parser of a command whose arguments are about to be parsed."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that a command's `main` builds."""

    def caught(parser, *_):
        raise _Parsed(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", caught)
        try:
            importlib.import_module(module).main([])
        except _Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f"{module}.main parses no arguments")


def spelling(action: argparse.Action) -> str:
    """How an option is typed, as in `--seeds N`."""
    if action.nargs == 0:
        value = ""
    elif action.choices:
        value = "|".join(map(str, action.choices))
    else:
        value = action.metavar or action.dest.upper()
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return action.metavar or action.dest
    return " ".join([", ".join(action.option_strings), *filter(None, [value])])


def section(command: str, parser: argparse.ArgumentParser) -> str:
    """A heading, what the command does, and a table of its options."""
    lines = [
        f"\n## {command}\n",
        f"{parser.description}\n",
        "| option | |",
        "| --- | --- |",
    ]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        typed = spelling(action).replace("|", "\\|")
        text = parser._get_formatter()._expand_help(action) if action.help else ""
        lines.append(f"| `{typed}` | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def reference() -> str:
    sections = [
        section(f"fer-jax {name}", parser_of(module))
        for name, (module, _) in COMMANDS.items()
    ]
    return HEAD + "".join(sections)


def test_the_reference_lists_every_option_of_every_command():
    found = REFERENCE.read_text()
    assert found == reference(), "run `python tests/test_docs.py` to write it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_index_names_every_page():
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert [name for name in sorted(pages) if f"({name})" not in index] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    REFERENCE.write_text(reference())
