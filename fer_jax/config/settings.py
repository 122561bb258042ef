"""Settings as plain mappings: older key names, and which settings decide numbers."""

from collections.abc import Iterable, Mapping
from typing import Any

from fer_jax.errors import UserError

# Older names of keys and values. Files that use them still work.
_KEYS = {
    "loss.self_targets": "loss.bootstrap",
    "data.train_images": "data.train_subset",
    "evaluation.views": "evaluation.tta",
}
_VALUES = {
    "loss.type": {"cross_entropy": "ce"},
    "evaluation.tta": {"one": "none"},
}

# What other libraries call our keys. Files that use them get a hint.
ELSEWHERE = {
    "learning_rate": "training.lr",
    "base_lr": "training.lr",
    "max_lr": "training.lr",
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "n_epochs": "training.epochs",
    "bs": "training.batch_size",
    "train_batch_size": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "opt": "training.optimizer",
    "optim": "training.optimizer",
    "wd": "training.weight_decay",
    "scheduler": "training.schedule",
    "lr_scheduler": "training.schedule",
    "warmup": "training.pct_start",
    "warmup_epochs": "training.pct_start",
    "grad_clip": "training.clip_norm",
    "clip_grad": "training.clip_norm",
    "max_grad_norm": "training.clip_norm",
    "early_stopping": "training.patience",
    "early_stopping_patience": "training.patience",
    "random_state": "training.seed",
    "ema": "training.ema_decay",
    "dtype": "training.precision",
    "amp": "training.precision",
    "backbone": "model.arch",
    "architecture": "model.arch",
    "network": "model.arch",
    "model_name": "model.arch",
    "drop": "model.dropout",
    "drop_rate": "model.dropout",
    "dropout_rate": "model.dropout",
    "weights": "model.pretrained",
    "loss_type": "loss.type",
    "criterion": "loss.type",
    "smoothing": "loss.label_smoothing",
    "gamma": "loss.focal_gamma",
    "class_weights": "loss.use_class_weights",
    "class_weight": "loss.use_class_weights",
    "weighted": "loss.use_class_weights",
    "mixup": "augmentation.mixup_alpha",
    "cutmix": "augmentation.cutmix_alpha",
    "flip": "augmentation.horizontal_flip",
    "hflip": "augmentation.horizontal_flip",
    "rotate": "augmentation.rotation",
    "degrees": "augmentation.rotation",
    "translate": "augmentation.shift",
    "erasing": "augmentation.random_erasing",
    "reprob": "augmentation.random_erasing",
    "img_size": "data.image_size",
    "input_size": "data.image_size",
    "resolution": "data.image_size",
    "in_chans": "data.channels",
    "in_channels": "data.channels",
    "sampler": "data.weighted_sampler",
    "oversample": "data.weighted_sampler",
}


def with_current_names(values: Mapping[Any, Any], where: str = "") -> dict[Any, Any]:
    """Returns nested settings with the current names of keys and values.

    Raises:
      UserError: if a key is given under both names; the message begins with `where`.
    """
    found = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for old, new in _KEYS.items():
        name, _, key = old.partition(".")
        section, current = found.get(name), new.partition(".")[2]
        if isinstance(section, dict) and key in section:
            if current in section:
                raise UserError(
                    f"{where}: {old} is the old name of {new}, which is also given; "
                    f"remove {old}"
                )
            section[current] = section.pop(key)
    for dotted, names in _VALUES.items():
        name, _, key = dotted.partition(".")
        section = found.get(name)
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = names.get(section[key], section[key])
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings as one mapping from dotted keys to plain values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Names and questions, the number of devices, and where images are kept do not change
# the numbers of a run.
_NOT_COMPARED = ("name", "description", "asks", "device", "data.stream")


def compared_settings(
    config: Mapping[str, Any], *, seed: bool = False
) -> dict[str, Any]:
    """Returns the settings that decide the numbers of an experiment, by dotted key.

    Two configs are the same experiment if these are equal (with `seed`, the same run).

    Args:
      config: settings, nested or by dotted key.
      seed: include `training.seed`.
    """
    ignored = _NOT_COMPARED if seed else (*_NOT_COMPARED, "training.seed")
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in ignored and key.partition(".")[0] not in ignored
    }


def differing_keys(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the keys whose values differ between flat configs; absent is None."""
    configs = list(configs)
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key
        for key in keys
        if any(each.get(key) != configs[0].get(key) for each in configs)
    ]
