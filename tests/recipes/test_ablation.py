import jax
import pytest
from conftest import ROOT

from fer_jax import config
from fer_jax.config import flatten
from fer_jax.models import Options, create
from fer_jax.recipes.ablation import ablation_configs, with_settings
from fer_jax.recipes.changes import CHANGES, NETWORKS, RATES

BEST = config.load(ROOT / "configs/best.yaml")
LAPTOP = config.load(ROOT / "configs/laptop.yaml")
NAMES = {"name", "description"}


def flat(each):
    return flatten(each.model_dump())


def changes(configs):
    """By name, what each config changes of the first."""
    base = flat(configs[0])
    return {
        each.name: {
            key: value
            for key, value in flat(each).items()
            if value != base[key] and key not in NAMES
        }
        for each in configs[1:]
    }


@pytest.mark.parametrize(("own", "small"), [(BEST, False), (LAPTOP, True)])
def test_each_config_of_an_ablation_makes_its_own_change_and_no_other(own, small):
    configs = ablation_configs(own, small=small)
    assert configs[0].name == "baseline"
    found = changes(configs)
    assert all(found.values())
    assert len({str(change) for change in found.values()}) == len(found)
    for name, change in found.items():
        own = name.removeprefix("without_")
        rates = RATES["sgd"].keys() if "training.optimizer" in change else set()
        if own in CHANGES:
            _, values = CHANGES[own]
            assert change.keys() <= values.keys() | rates
        else:
            arch = change.pop("model.arch", configs[0].model.arch)
            assert arch == name in NETWORKS
            left = {key for key in change if not key.startswith("model.")}
            assert left <= {"training.optimizer"} | rates
    tried = {name.removeprefix("without_") for name in found}
    assert tried >= set(CHANGES)
    assert small or tried >= set(NETWORKS) - {configs[0].model.arch}


def test_a_network_is_tried_with_what_it_has_of_the_configs_options():
    own = with_settings(BEST, {"model.norm": "zero_last"})
    found = changes(ablation_configs(own, small=False))
    whole = {"model.width": 1.0}
    assert found["resnet18"] == whole
    assert found["resnet34"] == {"model.arch": "resnet34"} | whole
    assert found["wide_resnet"] == {
        "model.arch": "wide_resnet",
        "model.norm": "plain",
        **whole,
    }
    assert found["vgg"]["model.squeeze_excitation"] is False
    assert found["convnext"]["training.optimizer"] == "adamw"
    assert found["convnext"]["training.lr"] == 2e-3


def test_no_two_configs_are_alike_and_none_cannot_be_built():
    own = with_settings(LAPTOP, {"evaluation.tta": "ten_crop"})
    found = changes(ablation_configs(own, small=False))
    assert found["tta_flip"] == {"evaluation.tta": "flip"}
    assert "without_tta_ten_crop" not in found
    own = with_settings(LAPTOP, {"model.arch": "vgg", "model.blocks": None})
    names = set(changes(ablation_configs(own, small=False)))
    assert "fixed_scale" in names
    assert not names & {"zero_last", "squeeze_excitation"}


def test_what_a_config_has_is_left_out_and_what_it_lacks_is_put_in():
    found = changes(ablation_configs(LAPTOP, small=False))
    assert found["without_ema"] == {"training.ema_decay": 0.0}
    assert found["without_mixup"] == {"augmentation.mixup_alpha": 0.0}
    assert found["sam"] == {"training.sam_rho": 0.05}
    assert found["growing_images"] == {"training.start_size": 36}
    assert found["tta_ten_crop"] == {"evaluation.tta": "ten_crop"}
    assert found["crops"] == {"data.crop_size": 40}
    # Muon has AdamW's rates, and SGD its own.
    assert found["without_muon"] == {
        "training.optimizer": "adamw",
        "training.momentum": 0.9,
    }
    assert found["sgd"]["training.lr"] == 0.05
    best = changes(ablation_configs(BEST, small=False))
    assert best["without_sgd"]["training.optimizer"] == "adamw"
    assert best["muon"]["training.lr"] == 2e-3
    assert best["without_alternating_flip"] == {"augmentation.horizontal_flip": True}
    grown = with_settings(LAPTOP, {"training.start_size": 36})
    found = changes(ablation_configs(grown, small=False))
    assert found["without_growing_images"] == {"training.start_size": 0}


def test_an_ablation_holds_out_a_fold_and_its_small_form_is_small():
    assert all(each.data.fold == 1 for each in ablation_configs(BEST, small=False))
    for each in ablation_configs(LAPTOP, small=True):
        assert each.data.train_subset == 8000 and each.data.image_size == 32
        assert each.model.width == 0.5 and each.training.epochs == 12


def test_every_config_of_an_ablation_has_a_network_that_can_be_built():
    asked = {
        (each.model.arch, each.model.squeeze_excitation, each.model.norm)
        for name in ("best", "speedrun", "laptop")
        for each in ablation_configs(
            config.load(ROOT / f"configs/{name}.yaml"), small=False
        )
    }
    for arch, squeeze_excitation, norm in asked:
        options = Options(
            num_classes=7,
            width=0.125,
            squeeze_excitation=squeeze_excitation,
            norm=norm,
        )
        _, params, _ = create(arch, jax.random.key(0), options)
        assert params["stem"]["kernel"].shape[2] == 1
