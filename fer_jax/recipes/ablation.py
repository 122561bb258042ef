"""The configs of an ablation: a recipe, and the same with one change each."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from fer_jax import config as config_lib
from fer_jax.config import Config, compared_settings, flatten
from fer_jax.errors import UserError
from fer_jax.recipes.changes import CHANGES, NETWORKS, RATES, SMALL

# What some networks lack, with the value that every network takes.
_NETWORK_OPTIONS = {"squeeze_excitation": False, "norm": "plain", "blocks": None}


def ablation_configs(config: Config, *, small: bool) -> list[Config]:
    """Returns a config, named `baseline`, and variants with one change each.

    A change that the config has already is left out in its variant. All hold out fold 1
    of train, and no two have the same settings. `small` is the form for a CPU.
    """
    text = {"name": "baseline", "description": f"What does {config.name} reach?"}
    base = with_settings(config, {"data.fold": 1} | (SMALL if small else {}) | text)
    configs = [base]
    for name, (what, change) in CHANGES.items():
        present = _has(base, change)
        values = {key: pair[present] for key, pair in change.items()}
        text = {
            "name": f"without_{name}" if present else name,
            "description": f"Is it better with{'out' * present} {what}?",
        }
        values = _with_rates(_in_pixels(values, base), base)
        configs.append(with_settings(base, values | text))
    for arch in () if small else NETWORKS:
        text = {"name": arch, "description": f"Is {arch} the better network?"}
        values = {"model.arch": arch, "model.width": 1.0} | _supported(arch, base)
        if arch == "convnext":
            values["training.optimizer"] = "adamw"
        configs.append(with_settings(base, _with_rates(values, base) | text))
    return _without_duplicates([each for each in configs if _is_buildable(each)])


def _has(config: Config, change: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether a config has a change, judged by the change's first key.

    A choice must be the same. A number or a switch must only be on.
    """
    key, (on, off) = next(iter(change.items()))
    value = flatten(config.model_dump())[key]
    return value == on if isinstance(on, str) else value != off


def _with_rates(values: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """Adds the optimizer's rates to a change between SGD and another optimizer."""
    old = base.training.optimizer
    new = values.get("training.optimizer", old)
    return dict(values) | (RATES[new] if (new == "sgd") != (old == "sgd") else {})


def _supported(arch: str, base: Config) -> dict[str, Any]:
    """The config's options of the network, reset where `arch` lacks them."""
    values = {}
    for key, default in _NETWORK_OPTIONS.items():
        value = getattr(base.model, key)
        values[f"model.{key}"] = value if _builds(arch, **{key: value}) else default
    return values


def _is_buildable(config: Config) -> bool:
    options = {key: getattr(config.model, key) for key in _NETWORK_OPTIONS}
    return _builds(config.model.arch, **options)


def _builds(arch: str, **options: Any) -> bool:
    """Whether a network has these options; the run reports an unknown network."""
    from fer_jax import models  # JAX

    with contextlib.suppress(UserError):
        if arch in models.MODELS:
            models.check(arch, models.Options(num_classes=1, **options))
        return True
    return False


def _without_duplicates(configs: Sequence[Config]) -> list[Config]:
    """The first of each group of configs with the same settings."""
    kept: dict[str, Config] = {}
    for config in configs:
        kept.setdefault(str(compared_settings(config.model_dump())), config)
    return list(kept.values())


def _in_pixels(values: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """Replaces shares of the image's side by even numbers of pixels."""
    side = base.data.image_size
    sizes = ("data.crop_size", "training.start_size")
    return {
        key: 2 * round(value * side / 2) if key in sizes and value < 1 else value
        for key, value in values.items()
    }


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Returns the config with other values under some dotted keys.

    Raises:
      UserError: if the result is not a valid experiment.
    """
    values = config.model_dump()
    for key, value in settings.items():
        *section, last = key.split(".")
        target = values[section[0]] if section else values
        target[last] = value
    return config_lib.validate(values, f"the ablation {values['name']}")
