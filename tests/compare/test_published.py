"""The published runs: what the documents say of them is what the command prints."""

from pathlib import Path

import pytest

from fer_jax.compare import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_readme_quotes_an_answer_of_the_published_runs():
    block = (
        (ROOT / "README.md").read_text("utf-8").partition("$ bin/compare results/")[2]
    )
    quoted = block.partition("```")[0].partition("\n")[2].rstrip("\n")
    assert quoted in load(ROOT / "results/fer2013").findings


def test_published_runs_hold_no_paths():
    for path in (ROOT / "results").rglob("*"):
        if path.suffix in (".json", ".yaml", ".jsonl"):
            text = path.read_text("utf-8")
            assert (
                "/home/" not in text and "/root/" not in text and "/work/" not in text
            )
