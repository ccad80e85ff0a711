"""A task that a user could have written, small enough to train in a second: which of four stripe patterns is it?"""

import torch
from torch import nn

from compress.tasks import Classification
from tests.models import TinyResNet


def teacher() -> nn.Module:
    return TinyResNet(width=32)


def other_teacher() -> nn.Module:
    return TinyResNet(width=48)


def branching_teacher() -> nn.Module:
    class Branches(TinyResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return super().forward(x)
            return super().forward(-x)

    return Branches()


def group_norm_teacher() -> nn.Module:
    """No batch statistics: two processes then train as one does, up to summation order."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def not_a_model() -> str:
    return "a model"


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stripes of four directions with noise: (N, 1, 8, 8) and class numbers (N,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    patterns = torch.stack([x % 2, y % 2, (x + y) % 2, (x // 2 + y // 2) % 2]) - 0.5
    noise = 0.4 * torch.randn(count, 8, 8, generator=generator)
    return (patterns[labels] + noise).unsqueeze(1), labels


def task(count: int = 256, channels: int = 1) -> Classification:
    train, validation, test = images(count, 0), images(64, 1), images(96, 2)
    if channels != 1:
        train, validation, test = ((x.expand(-1, channels, -1, -1), y) for x, y in (train, validation, test))
    return Classification(train, validation, test, batch_size=32, classes=("columns", "rows", "checks", "blocks"))


def unlabelled_task() -> Classification:
    train, validation, test = images(256, 0), images(64, 1), images(96, 2)
    return Classification((train[0], None), (validation[0], None), (test[0], None), batch_size=32)


def empty_task() -> Classification:
    nothing = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)
    return Classification(nothing, images(8, 1), images(8, 2))
