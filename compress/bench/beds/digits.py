"""Scanned digits of 8 x 8 pixels (scikit-learn's 1,797, real), and a frozen classifier that measures what is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bench.beds.seeds import seeded
from compress.errors import ToolMissing
from compress.metrics import frechet_distance, precision_recall

SIDE = 8
CLASSES = 10
HELD_OUT = 500
_STEPS, _BATCH = 400, 64


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 8, 8) in [-1, 1] and their classes (N,)."""

    images: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.images)


@cache
def digits() -> tuple[Split, Split]:
    """(to train with, held out): 1,297 and 500 digits, in a fixed random order.

    Raises:
        ToolMissing: scikit-learn, which brings them, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ToolMissing("scikit-learn", "examples") from error
    loaded = load_digits()
    images, classes = torch.from_numpy(loaded.images).float() / 8 - 1, torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, classes = images[order, None], classes[order]
    return Split(images[HELD_OUT:], classes[HELD_OUT:]), Split(images[:HELD_OUT], classes[:HELD_OUT])


class Classifier(nn.Module):
    """Images (N, 1, 8, 8) to logits (N, 10); `features` is the layer before them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(width * SIDE**2 // 4, width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(width, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The rows (N, 32) that distances are measured on."""
        rows: Tensor = self.body(images)
        return rows

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.head(self.features(images))
        return logits


@cache
def classifier() -> Classifier:
    """The one classifier that measures, trained on half of the training digits and frozen (96 % right on the rest)."""
    train, _ = digits()
    half = len(train) // 2
    return trained(Split(train.images[:half], train.classes[:half]), 0)


@cache
def judge() -> Classifier:
    """Another classifier, for methods that train against one: it saw the other half of the training digits."""
    train, _ = digits()
    half = len(train) // 2
    return trained(Split(train.images[half:], train.classes[half:]), 1)


def trained(split: Split, seed: int) -> Classifier:
    """A classifier after a short training on digits, frozen."""
    with seeded(seed):
        model = Classifier()
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(_STEPS):
            chosen = torch.randint(len(split), (_BATCH,))
            loss = F.cross_entropy(model(split.images[chosen]), split.classes[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def features(images: Tensor) -> Tensor:
    """The classifier's feature rows (N, 32), without gradients."""
    return classifier().features(images.detach())


def classes_seen(images: Tensor) -> Tensor:
    """What the classifier takes each image for: (N,)."""
    return classifier()(images.detach()).argmax(1)


def distance(images: Tensor) -> float:
    """The Fréchet distance of images to the held-out digits on the classifier's features; compare equal counts only."""
    _, held_out = digits()
    return frechet_distance(features(images), features(held_out.images))


def fidelity_and_diversity(images: Tensor) -> tuple[float, float]:
    """(precision, recall) of images among the held-out digits, on the classifier's features."""
    _, held_out = digits()
    return precision_recall(features(held_out.images), features(images))


class Generator(nn.Module):
    """Latents (N, latent) to digits (N, 1, 8, 8) in (-1, 1): a small stack of convolutions, without norms."""

    def __init__(self, latent: int = 16, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(latent, width * 4)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """The digits."""
        x = F.leaky_relu(self.first(z).unflatten(1, (-1, 2, 2)), 0.2)
        x = F.leaky_relu(self.conv1(F.interpolate(x, scale_factor=2.0)), 0.2)
        x = F.leaky_relu(self.conv2(F.interpolate(x, scale_factor=2.0)), 0.2)
        x = F.leaky_relu(self.conv3(x), 0.2)
        return self.last(x).tanh()
