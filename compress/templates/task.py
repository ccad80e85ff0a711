"""What `compress` has to know about @NAME@: the model, and its data. Replace both functions by your own."""

import torch
from torch import Tensor, nn

from compress.tasks import Classification

CORNERS = ("top left", "top right", "bottom left", "bottom right")


def teacher() -> nn.Module:
    """The model, without its weights: the recipe says where they are (teacher.weights) or trains it."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip


def task(path: str = "") -> Classification:
    """The data: images (N, C, H, W) with class numbers (N,), or None where there are no labels.

    Here: which quarter of a noisy image is the brightest? Read your own files from `path` (recipe: data.path).
    """
    train, validation, test = made_up(1200, seed=0), made_up(300, seed=1), made_up(300, seed=2)
    return Classification(train, validation, test, batch_size=50, classes=CORNERS)


def made_up(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    quarters = nn.functional.one_hot(labels, 4).view(count, 1, 2, 2).float()
    light = quarters.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return light + torch.randn(light.shape, generator=generator), labels
