"""`python -m fer_jax COMMAND`: the same command as `fer-jax COMMAND`."""

from fer_jax.cli import run

if __name__ == "__main__":  # not in the processes that a command starts
    raise SystemExit(run())
