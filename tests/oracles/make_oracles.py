"""Writes `torch.json`, the numbers from PyTorch that the tests compare with.

Only this script needs PyTorch, the tests do not. To write the file again:

  pip install -e '.[bench]'
  python tests/oracles/make_oracles.py

The networks are written from the papers. Only the names of their layers are those of
`fer_jax.models`. The present file is from PyTorch 2.13.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from weights import draw

from fer_jax.bench.torch_fernet import FerNet

warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")


def main() -> None:
    """Computes all oracles and writes them to this folder."""
    oracles = {
        "losses": losses(),
        "one_cycle": one_cycles(),
        "adamw": adamw(),
        "networks": [
            network("fernet", FerNet()),
            network("resnet18", networks.ResNet((2, 2, 2, 2))),
        ],
        "narrow": [logits(*case) for case in narrow()],
        "pretrained": [pretrained(18), pretrained(50)],
        "flops": flops(),
    }
    path = Path(__file__).parent / "torch.json"
    path.write_text(json.dumps(plain(oracles), separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size:,} bytes")


def plain(value: Any) -> Any:
    """Plain values for JSON; nine digits identify a float32."""
    if isinstance(value, torch.Tensor | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def losses() -> dict[str, Any]:
    """Values and gradients of cross-entropy and of focal loss on hard labels."""
    rng = np.random.RandomState(0)
    logits = np.float32(3 * rng.standard_normal((6, 7)))
    labels = np.array([0, 3, 3, 6, 1, 5])
    weights = np.float32(rng.uniform(0.2, 3.0, 7))
    cases = []
    for weighted in (False, True):
        w = torch.tensor(weights, dtype=torch.float64) if weighted else None
        for smoothing in (0.0, 0.1, 0.5):
            x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            y = torch.tensor(labels)
            loss = F.cross_entropy(x, y, w, label_smoothing=smoothing)
            loss.backward()
            case = {"weighted": weighted, "label_smoothing": smoothing}
            cases.append(
                case | {"focal_gamma": 0.0, "loss": loss.item(), "grad": x.grad}
            )
        for gamma in (0.5, 2.0, 5.0):
            x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
            p = torch.softmax(x, 1)[torch.arange(len(labels)), torch.tensor(labels)]
            share = torch.ones(len(labels)) if w is None else w[labels]
            loss = (share * (1 - p) ** gamma * -torch.log(p)).sum() / share.sum()
            loss.backward()
            case = {"weighted": weighted, "label_smoothing": 0.0}
            cases.append(
                case | {"focal_gamma": gamma, "loss": loss.item(), "grad": x.grad}
            )
    inputs = {"logits": logits, "labels": labels, "weights": weights}
    return inputs | {"cases": cases}


def one_cycles() -> list[dict[str, Any]]:
    """The learning rate of every step under OneCycleLR."""
    totals = {1: (0.3,), 2: (0.3, 0.7), 3: (0.1, 0.3, 0.5), 7: (0.05, 0.3, 0.9)}
    totals |= {100: (0.25, 0.333), 570: (0.3, 0.123)}
    found = []
    for total, shares in totals.items():
        for share in shares:
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, 3e-4, total, pct_start=share, cycle_momentum=False
            )
            rates = [optimizer.param_groups[0]["lr"]]
            for _ in range(total - 1):
                schedule.step()
                rates.append(optimizer.param_groups[0]["lr"])
            found.append({"peak": 3e-4, "total": total, "pct": share, "rates": rates})
    return found


def adamw() -> dict[str, Any]:
    """Parameters after each of several steps, with decay on the kernel alone."""
    rng = np.random.RandomState(1)
    shapes = {"kernel": (3, 2), "bias": (2,), "scale": (3,)}
    start = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    params = {
        name: torch.tensor(value, requires_grad=True) for name, value in start.items()
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": [params["kernel"]], "weight_decay": 0.3},
            {"params": [params["bias"], params["scale"]], "weight_decay": 0.0},
        ]
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, 12, pct_start=0.4, cycle_momentum=False
    )
    grads, after = [], []
    for step in range(12):
        grad = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        for name, value in grad.items():
            params[name].grad = torch.tensor(value)
        optimizer.step()
        if step < 11:
            schedule.step()
        grads.append(grad)
        after.append({k: v.detach().clone() for k, v in params.items()})
    settings = {"peak": 0.2, "total_steps": 12, "pct_start": 0.4, "weight_decay": 0.3}
    return {"settings": settings, "start": start, "grads": grads, "after": after}


def fill(model: nn.Module) -> None:
    """Sets a network's weights to those that the tests draw."""
    weights = {
        name: torch.tensor(draw(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
        if "num_batches" not in name
    }
    model.load_state_dict(weights, strict=False)


def network(arch: str, model: nn.Module, side: int = 16) -> dict[str, Any]:
    """Logits in both modes, and the running statistics after one training pass."""
    fill(model)
    model = model.double()
    images = torch.tensor(draw("images", (4, 1, side, side)) * 4.0).double()
    with torch.no_grad():
        evaluated = model.eval()(images)
        trained = model.train()(images)
    after = model.state_dict()
    return {
        "arch": arch,
        "parameters": sum(value.numel() for value in model.parameters()),
        "evaluated": evaluated,
        "trained": trained,
        "stem_mean": after.get("norm.running_mean"),
        "stem_var": after.get("norm.running_var"),
        "stem_count": images.shape[0] * (64 if arch == "fernet" else 256),
    }


def narrow() -> list[tuple[dict[str, Any], int, nn.Module]]:
    """Networks of an eighth of the width: options, side of the images, network."""
    eighth = {"width": 0.125}
    return [
        (
            {"arch": "fernet", "squeeze_excitation": True},
            16,
            networks.excited(FerNet()),
        ),
        ({"arch": "vgg"} | eighth, 48, networks.VGG((8, 16, 32, 64), 512)),
        ({"arch": "convnext"} | eighth, 34, networks.ConvNeXt((8, 16, 24, 48))),
        ({"arch": "wide_resnet"} | eighth, 16, networks.WideResNet(8, (16, 32, 64))),
    ]


def logits(options: dict[str, Any], side: int, model: nn.Module) -> dict[str, Any]:
    """Logits in both modes."""
    found = network(options["arch"], model, side)
    kept = ("parameters", "evaluated", "trained")
    return {"options": options, "side": side} | {key: found[key] for key in kept}


def pretrained(layers: int) -> dict[str, Any]:
    """The first 16 features of two colour images, by a network an eighth as wide."""
    model = networks.TorchvisionResNet(layers, stem=8)
    fill(model)
    images = torch.tensor(draw("images", (2, 3, 40, 40)) * 4.0).double()
    with torch.no_grad():
        features = model.double().eval().features(images)
    return {"layers": layers, "features": features[:, :16]}


def flops() -> dict[str, int]:
    """FLOPs for one grey image of 48 x 48 pixels (vgg: 40 x 40), as PyTorch counts."""
    made = {
        "fernet": FerNet(),
        "resnet18": networks.ResNet((2, 2, 2, 2)),
        "resnet18_imagenet": networks.TorchvisionResNet(18, channels=1, classes=7),
        "wide_resnet": networks.WideResNet(),
        "vgg": networks.VGG(),
        "convnext": networks.ConvNeXt(),
    }
    found = {}
    for arch, model in made.items():
        side = 40 if arch == "vgg" else 48
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(torch.zeros(1, 1, side, side))
        found[arch] = counter.get_total_flops()
    return found


if __name__ == "__main__":
    main()
