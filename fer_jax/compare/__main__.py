"""`python -m fer_jax.compare`: the same command as `bin/compare`."""

from fer_jax.compare.cli import main
from fer_jax.errors import run_command

raise SystemExit(run_command(main))
