"""A small classifier of eyes, trained on the teacher's own pictures: does a student draw what it was asked for?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.tasks.draws import generator_of
from examples.eyes.model import CLASSES, LATENT

STEPS, BATCH, SIDE = 200, 32, 32


def train_classifier(generator: nn.Module, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """A function of images, RGB in [0, 1] (N, 3, H, W), to logits (N, 8); the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(CLASSES)),
        )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    with torch.enable_grad():
        for step in range(STEPS):
            images, classes = _drawn(generator, generator_of(seed, "classifier", step))
            optimizer.zero_grad()
            F.cross_entropy(net(_small(images)), classes).backward()
            optimizer.step()
    net.eval().requires_grad_(False)
    return lambda images: net(_small(images))


@torch.no_grad()
def _drawn(generator: nn.Module, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of the generator in [0, 1], and the classes they were asked for."""
    classes = torch.randint(len(CLASSES), (BATCH,), generator=random)
    pictures = generator(torch.randn(BATCH, LATENT, generator=random), F.one_hot(classes, len(CLASSES)).float())
    return (pictures + 1) / 2, classes


def _small(images: Tensor) -> Tensor:
    return F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True) - 0.5
