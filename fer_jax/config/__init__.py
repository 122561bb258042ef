"""An experiment as a checked value, and the YAML files it is read from."""

from fer_jax.config.files import dump, find, load, parse, shipped
from fer_jax.config.schema import (
    RARE,
    Asks,
    Augmentation,
    Config,
    Data,
    Evaluation,
    Loss,
    Model,
    Training,
    validate,
)
from fer_jax.config.settings import (
    compared_settings,
    differing_keys,
    flatten,
    with_current_names,
)

__all__ = [
    "RARE",
    "Asks",
    "Augmentation",
    "Config",
    "Data",
    "Evaluation",
    "Loss",
    "Model",
    "Training",
    "compared_settings",
    "differing_keys",
    "dump",
    "find",
    "flatten",
    "load",
    "parse",
    "shipped",
    "validate",
    "with_current_names",
]
