"""The command lines: dashes and underscores, typos, examples."""

import argparse
import sys

import pytest
from test_docs import parser_of

from fer_jax.cli import COMMANDS
from fer_jax.errors import UserError
from fer_jax.system.arguments import Parser, typed
from fer_jax.system.files import IMPORT_ROOT

PARSERS = {name: parser_of(module) for name, (module, _) in COMMANDS.items()}


def options(parser):
    return [
        name
        for action in parser._actions
        for name in action.option_strings
        if name.startswith("--") and not isinstance(action, argparse._HelpAction)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_spelt_with_underscores_and_dashes_are_accepted(command):
    parser = PARSERS[command]
    assert [name for name in options(parser) if "-" in name[2:]] == []
    for name in options(parser):
        dashed = f"--{name[2:].replace('_', '-')}"
        assert parser._with_underscores([dashed, f"{dashed}=a-b"]) == [
            name,
            f"{name}=a-b",
        ]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_the_command_accepts(command):
    parser = PARSERS[command]
    title, *examples = parser.epilog.splitlines()
    assert title == "examples:" and examples
    for line in examples:
        words = line.split("   ")[0].strip() if line.startswith("  ") else line
        start, *given = words.split("  ")[0].split()
        assert (start, given[0]) == ("fer-jax", command)
        parser.parse_args(given[1:])


def make_parser():
    parser = Parser("compare", "What it does.")
    parser.add_argument("--data_root")
    parser.add_argument("--split", choices=("val", "test"))
    parser.add_argument("config", nargs="?")
    return parser


def test_words_that_are_no_options_keep_their_dashes():
    args = make_parser().parse_args(
        ["my-config", "--data-root", "--", "a-b"][:2] + ["x"]
    )
    assert args.data_root == "x" and args.config == "my-config"
    args = make_parser().parse_args(["--data-root=a-b", "c-d"])
    assert (args.data_root, args.config) == ("a-b", "c-d")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--splt", "test"], "there is no option --splt; did you mean --split?"),
        (["--data-rot=x"], "there is no option --data-rot; did you mean --data_root?"),
        (["--xyz"], "there is no option --xyz; see fer-jax compare --help"),
        (["a", "b"], "'b' is one argument too many"),
        (["--split", "tset"], "choose from"),
        (["--data"], "there is no option --data; did you mean --data_root?"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(given, says):
    with pytest.raises(UserError) as found:
        make_parser().parse_args(given)
    assert says in str(found.value) and "fer-jax compare: " in str(found.value)


def test_a_command_is_named_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(IMPORT_ROOT / "bin/compare")])
    assert typed("compare") == "bin/compare" and typed("batch") == "bin/run_batch"
    assert typed("train") == "python -m fer_jax.train"
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/fer-jax"])
    assert typed("compare") == "fer-jax compare"
