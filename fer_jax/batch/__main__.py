"""`python -m fer_jax.batch`: the same command as `fer-jax batch`."""

from fer_jax.batch.cli import main
from fer_jax.errors import run_command

if __name__ == "__main__":  # not in the processes that a command starts
    raise SystemExit(run_command(main))
