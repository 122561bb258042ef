"""The changes that an ablation tries, one at a time."""

from typing import Any

# A name for what completes "Is it better with ...?", and by dotted key the value with
# the change and the value without it. A config may have a change already. Sizes below 1
# are shares of the side of the images.
CHANGES: dict[str, tuple[str, dict[str, tuple[Any, Any]]]] = {
    "tta_flip": ("flipped copies in evaluation", {"evaluation.tta": ("flip", "none")}),
    "tta_ten_crop": (
        "ten crops in evaluation",
        {"evaluation.tta": ("ten_crop", "flip")},
    ),
    "crops": ("random crops of 5/6", {"data.crop_size": (0.8333, 0)}),
    "ema": ("averaged weights", {"training.ema_decay": (0.998, 0.0)}),
    "sam": ("sharpness-aware minimisation", {"training.sam_rho": (0.05, 0.0)}),
    "sgd": ("SGD with Nesterov momentum", {"training.optimizer": ("sgd", "adamw")}),
    "muon": (
        "Muon",
        {"training.optimizer": ("muon", "adamw"), "training.momentum": (0.95, 0.9)},
    ),
    "cosine": (
        "a cosine schedule after a linear warm-up",
        {
            "training.schedule": ("cosine", "one_cycle"),
            "training.pct_start": (0.1, 0.3),
        },
    ),
    "step_schedule": (
        "a step schedule",
        {"training.schedule": ("step", "one_cycle"), "training.pct_start": (0.05, 0.3)},
    ),
    "affine": (
        "rotation, scaling and shifting",
        {
            "augmentation.rotation": (10.0, 0.0),
            "augmentation.shift": (0.08, 0.0),
            "augmentation.scale": (0.1, 0.0),
        },
    ),
    "brightness_contrast": (
        "random brightness and contrast",
        {"augmentation.brightness": (0.2, 0.0), "augmentation.contrast": (0.2, 0.0)},
    ),
    "erasing": ("random erasing", {"augmentation.random_erasing": (0.25, 0.0)}),
    "cutout": ("cutout", {"augmentation.cutout": (0.3, 0.0)}),
    "mixup": ("mixup", {"augmentation.mixup_alpha": (0.2, 0.0)}),
    "cutmix": ("CutMix", {"augmentation.cutmix_alpha": (1.0, 0.0)}),
    "randaugment": ("RandAugment", {"augmentation.randaugment": (2, 0)}),
    "alternating_flip": (
        "alternating flips",
        {"augmentation.horizontal_flip": ("alternating", True)},
    ),
    "smoothing": ("label smoothing", {"loss.label_smoothing": (0.1, 0.0)}),
    "bootstrap": ("bootstrapped targets", {"loss.bootstrap": (0.2, 0.0)}),
    "growing_images": ("images that grow", {"training.start_size": (0.75, 0)}),
    "squeeze_excitation": ("SE blocks", {"model.squeeze_excitation": (True, False)}),
    "whitened_stem": (
        "a whitening first layer",
        {"model.whitened_stem": (True, False)},
    ),
    "zero_last": ("zero-initialised branches", {"model.norm": ("zero_last", "plain")}),
    "fixed_scale": ("unscaled batch norm", {"model.norm": ("fixed_scale", "plain")}),
    "deduplicate": ("train deduplicated", {"data.deduplicate": ("near", "none")}),
    "class_weights": ("class weights", {"loss.use_class_weights": (True, False)}),
    "dropout": ("dropout", {"model.dropout": (0.4, 0.0)}),
}

# Other networks, at their published width. ConvNeXt is trained with AdamW.
NETWORKS = ("resnet18", "resnet34", "wide_resnet", "vgg", "convnext")

# SGD needs another learning rate and weight decay than the other optimizers.
RATES = {
    "sgd": {"training.lr": 0.05, "training.weight_decay": 5e-4},
    "adamw": {"training.lr": 2e-3, "training.weight_decay": 0.05},
    "muon": {"training.lr": 2e-3, "training.weight_decay": 0.05},
}

# For a CPU: a narrow network, smaller images, a subset of train.
SMALL = {
    "model.width": 0.5,
    "data.image_size": 32,
    "data.crop_size": 0,
    "data.train_subset": 8000,
    "training.epochs": 12,
    "training.start_size": 0,
    "training.ema_decay": 0.99,
}
