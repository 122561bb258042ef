"""The default network in PyTorch, written from its description."""

import torch
import torch.nn.functional as F
from torch import nn


class Head(nn.Module):
    """Average pooling to a grid of cells, and a linear layer with seven outputs."""

    def __init__(self, width: int, grid: int = 1):
        super().__init__()
        self.grid = grid
        self.linear = nn.Linear(grid * grid * width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From `[B, C, h, w]` to `[B, 7]`."""
        x = F.adaptive_avg_pool2d(x, self.grid)
        return self.linear(x.permute(0, 2, 3, 1).flatten(1))


class PooledBlock(nn.Module):
    """A basic block whose shortcut is 2 x 2 average pooling and a 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.project = None
        if stride == 2:
            self.project = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From `[B, I, h, w]` to `[B, O, h', w']`."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + (self.project(F.avg_pool2d(x, 2)) if self.project else x))


class FerNet(nn.Module):
    """A 5 x 5 stem of stride 2 and three blocks, two of which halve the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 5, 2, padding=2, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.blocks = nn.Sequential(
            PooledBlock(32, 96), PooledBlock(96, 96), PooledBlock(96, 192)
        )
        self.head = Head(192, grid=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From `[B, 1, H, W]` to `[B, 7]`."""
        return self.head(self.blocks(F.relu(self.norm(self.stem(x)))))
