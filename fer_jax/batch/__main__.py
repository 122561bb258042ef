"""`python -m fer_jax.batch`: the same command as `bin/run_batch`."""

from fer_jax.batch.cli import main
from fer_jax.errors import run_command

raise SystemExit(run_command(main))
