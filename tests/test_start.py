"""What a command imports before it knows what to do: --help answers at once."""

import subprocess
import sys

from conftest import environment

COMMANDS = (
    *("train", "batch.cli", "compare.cli", "audit.cli", "inference.cli"),
    *("inference.export", "recipes.cli", "bench.cli"),
)
# Each takes a quarter of a second to a second to import.
SLOW = (
    *("jax", "scipy.stats", "scipy.ndimage", "pandas"),
    *("grain", "orbax", "tensorflow_datasets"),
)


def test_no_command_imports_a_slow_library_before_it_needs_it():
    code = (
        "import importlib, sys\n"
        f"for name in {COMMANDS}:\n"
        "    importlib.import_module(f'fer_jax.{name}')\n"
        f"print(sorted(set({SLOW!r}) & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_bad_input_is_refused_before_jax_is_imported():
    code = (
        "import sys\n"
        "from fer_jax import train\n"
        "from fer_jax.inference import cli\n"
        "from fer_jax.errors import UserError\n"
        "for main, *argv in (\n"
        "    (train.main, 'no.yaml'),\n"
        "    (train.main, 'configs/baseline.yaml', '--set', 'training.lr=fast'),\n"
        "    (train.main, 'configs/baseline.yaml', '--data_root', 'nowhere'),\n"
        "    (cli.main, 'no_face.jpg'),\n"
        "):\n"
        "    try:\n"
        "        main(argv)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
        "sys.exit('jax' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    named = ("no.yaml", "training.lr", "nowhere", "no_face.jpg")
    lines = found.stdout.splitlines()
    assert [word in line for word, line in zip(named, lines, strict=True)] == [True] * 4
