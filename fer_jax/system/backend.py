"""Starts JAX on the device that the environment asks for, or says why it cannot."""

import os

import jax

from fer_jax.errors import UserError


def start_backend() -> None:
    """Starts JAX's backend, which `JAX_PLATFORMS` may choose.

    Raises:
      UserError: if JAX has no such device here.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        if not (asked := os.environ.get("JAX_PLATFORMS")):
            raise
        why = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS is {asked!r}, and JAX finds no such device here"
            + (f" ({why[:200]})" if why else "")
            + "; unset JAX_PLATFORMS, or for cuda install the extra fer_jax[cuda] on a "
            "machine with an NVIDIA GPU"
        ) from None
