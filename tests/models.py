"""Small models that between them hold every structure the graph tools must handle."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """x + conv-norm-relu-conv-norm(x), then ReLU in place, as in a ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + y)


class TinyResNet(nn.Module):
    """Stem, two residual blocks, a strided convolution, a head: (N, 1, 8, 8) -> (N, classes)."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.block1, self.block2 = Residual(width), Residual(width)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = F.relu_(self.down(self.block2(self.block1(x))))
        return self.head(self.drop(x.mean((2, 3)).view(x.size(0), -1)))


class Concatenating(nn.Module):
    """Two branches joined by cat, a depthwise convolution, and a flatten into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(3, 8, 1)
        self.join = nn.Conv2d(24, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.join(torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)))
        return self.head(torch.flatten(F.max_pool2d(self.depthwise(x), 2), 1))


class Upsampling(nn.Module):
    """A small generator: transposed convolution, both norms, resize, tanh; (N, 3, 8, 8) -> (N, 3, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Conv2d(3, 16, 3, 1, 1)
        self.up = nn.ConvTranspose2d(16, 16, 4, 2, 1)
        self.norm, self.group = nn.InstanceNorm2d(16), nn.GroupNorm(4, 16)
        self.out = nn.Conv2d(16, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.group(self.norm(self.up(self.inside(x)))))
        return torch.tanh(self.out(F.interpolate(x, scale_factor=2)))


def randomize_norms(model: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and scales that are not the trivial ones, so that mistakes show."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 0.5 + torch.rand(module.num_features, generator=generator)
            module.bias.data = torch.randn(module.num_features, generator=generator)
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=generator)
    return model
