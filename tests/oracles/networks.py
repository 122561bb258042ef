"""The networks in PyTorch, but for the default one, which the benchmark has.

Written from the papers. Only the names of the layers are those of `fer_jax.models`, or
of torchvision in `TorchvisionResNet`.
"""

import torch
import torch.nn.functional as F
from torch import nn

from fer_jax.bench.torch_fernet import Head


class BasicBlock(nn.Module):
    """As in torchvision's resnet18: the shortcut is a strided 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.project = self.norm3 = None
        if stride != 1 or inputs != outputs:
            self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm3 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (x if self.project is None else self.norm3(self.project(x))))


class ResNet(nn.Module):
    """torchvision's, with a 3 x 3 stem of stride 1 and without pooling."""

    def __init__(self, depths: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for width, depth in zip((64, 128, 256, 512), depths, strict=True):
            for number in range(depth):
                stride = 2 if number == 0 and width > 64 else 1
                blocks.append(BasicBlock(inputs, width, stride))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = Head(512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))))


class VGG(nn.Module):
    """Khaireddin & Chen 2021: four stages of two convolutions, three linear layers."""

    def __init__(self, widths=(64, 128, 256, 512), hidden=4096):
        super().__init__()
        widths = [each for each in widths for _ in range(2)]
        self.stem = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList()
        for i, o in zip(widths, widths[1:], strict=False):
            layer = nn.Module()
            layer.conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
            layer.norm = nn.BatchNorm2d(o)
            self.blocks.append(layer)
        self.linear1 = nn.Linear(4 * widths[-1], hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.head = Head(hidden)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        for number, layer in enumerate(self.blocks):
            x = F.relu(layer.norm(layer.conv(x)))
            if number in (0, 2, 4, 6):
                x = F.max_pool2d(x, 2)
        x = F.adaptive_avg_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1)
        x = F.relu(self.linear2(F.relu(self.linear1(x))))
        return self.head(x[:, :, None, None])


class ConvNeXtBlock(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv = nn.Conv2d(features, features, 7, padding=3, groups=features)
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.linear1 = nn.Linear(features, 4 * features)
        self.linear2 = nn.Linear(4 * features, features)
        self.layer_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.layer_scale * self.linear2(F.gelu(self.linear1(y)))
        return x + y.permute(0, 3, 1, 2)


class Halving(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm = nn.LayerNorm(inputs, eps=1e-6)
        self.conv = nn.Conv2d(inputs, outputs, 2, 2)

    def forward(self, x):
        return self.conv(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class ConvNeXt(nn.Module):
    """Liu et al. 2022, with patches of 2 x 2 pixels."""

    def __init__(self, widths=(48, 96, 192, 384)):
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 2, 2)
        self.norm = nn.LayerNorm(widths[0], eps=1e-6)
        blocks = []
        for stage, depth in enumerate((2, 2, 6, 2)):
            if stage:
                blocks.append(Halving(widths[stage - 1], widths[stage]))
            blocks += [ConvNeXtBlock(widths[stage]) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.last_norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = Head(widths[-1])

    def forward(self, x):
        x = self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.last_norm(self.blocks(x).mean((2, 3)))
        return self.head(x[:, :, None, None])


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.project = None
        if inputs != outputs:
            self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.norm1(x))
        shortcut = x if self.project is None else self.project(y)
        return shortcut + self.conv2(F.relu(self.norm2(self.conv1(y))))


class WideResNet(nn.Module):
    """Zagoruyko & Komodakis 2016: WRN-16-8."""

    def __init__(self, stem=16, widths=(128, 256, 512)):
        super().__init__()
        self.stem = nn.Conv2d(1, stem, 3, padding=1, bias=False)
        blocks, inputs = [], stem
        for stage, features in enumerate(widths):
            blocks += [
                WideBlock(inputs, features, 2 if stage else 1),
                WideBlock(features, features, 1),
            ]
            inputs = features
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = Head(inputs)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.blocks(self.stem(x)))))


class Excite(nn.Module):
    """Hu et al. 2018: a sixteenth of the channels, at least 8."""

    def __init__(self, features):
        super().__init__()
        self.squeeze = nn.Linear(features, max(8, features // 16))
        self.excite = nn.Linear(max(8, features // 16), features)

    def forward(self, x):
        weights = self.excite(F.relu(self.squeeze(x.mean((2, 3)))))
        return x * torch.sigmoid(weights)[:, :, None, None]


def excited(network: nn.Module) -> nn.Module:
    """A `FerNet` or `ResNet` with `Excite` at the end of each residual branch."""
    for block in network.blocks:
        block.excite = Excite(block.norm2.num_features)
        block.norm2.register_forward_hook(
            lambda _module, _inputs, y, excite=block.excite: excite(y)
        )
    return network


class TorchvisionBlock(nn.Module):
    def __init__(self, inputs, features, stride, bottleneck):
        super().__init__()
        outputs = 4 * features if bottleneck else features
        sizes = [(inputs, features, 1, 1), (features, features, 3, stride)]
        sizes.append((features, outputs, 1, 1))
        if not bottleneck:
            sizes = [(inputs, features, 3, stride), (features, features, 3, 1)]
        self.depth = len(sizes)
        for number, (i, o, size, step) in enumerate(sizes, 1):
            conv = nn.Conv2d(i, o, size, step, padding=size // 2, bias=False)
            setattr(self, f"conv{number}", conv)
            setattr(self, f"bn{number}", nn.BatchNorm2d(o))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = x
        for number in range(1, self.depth + 1):
            y = F.relu(y) if number > 1 else y
            conv, norm = getattr(self, f"conv{number}"), getattr(self, f"bn{number}")
            y = norm(conv(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchvisionResNet(nn.Module):
    """torchvision's network of 18, 34 or 50 layers, with its names."""

    def __init__(self, layers, channels=3, stem=64, classes=1000):
        super().__init__()
        bottleneck = layers == 50
        self.conv1 = nn.Conv2d(channels, stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        depths = (2, 2, 2, 2) if layers == 18 else (3, 4, 6, 3)
        for stage, depth in enumerate(depths):
            blocks, features = [], stem * 2**stage
            for number in range(depth):
                stride = 2 if stage and number == 0 else 1
                blocks.append(TorchvisionBlock(inputs, features, stride, bottleneck))
                inputs = 4 * features if bottleneck else features
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(self.features(x))

    def features(self, x):
        """The averages over the image, the input of the last layer."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))
