"""`python -m fer_jax.audit`: the same command as `fer-jax audit`."""

from fer_jax.audit.cli import main
from fer_jax.errors import run_command

if __name__ == "__main__":  # not in the processes that a command starts
    raise SystemExit(run_command(main))
