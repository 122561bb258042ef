"""`python -m fer_jax.recipes`: the same command as `fer-jax recipe`."""

from fer_jax.errors import run_command
from fer_jax.recipes.cli import main

if __name__ == "__main__":  # not in the processes that a command starts
    raise SystemExit(run_command(main))
