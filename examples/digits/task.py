"""scikit-learn's 1,797 scanned digits (8x8, UCI, CC BY 4.0) for `compress`: nothing is fetched."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from compress.tasks import Classification


def teacher() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    stem, middle, top = block(1, 32), block(32, 64, 2), block(64, 128, 2)
    features = nn.Sequential(
        stem, Residual(block(32, 32)), middle, Residual(block(64, 64)), top, Residual(block(128, 128))
    )
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def task() -> Classification:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Classification(
        train=(images[:1100], labels[:1100]),
        validation=(images[1100:1297], labels[1100:1297]),
        test=(images[1297:], labels[1297:]),
        prepare=lambda x: (x - 0.3) / 0.38,
        augment=shift,
        batch_size=64,
        show=lambda x: (x * 0.38 + 0.3).clamp(0, 1).expand(3, -1, -1),
    )


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to one pixel."""
    moves = torch.randint(-1, 2, (len(images), 2), generator=generator).tolist()
    return torch.stack([image.roll((dy, dx), (1, 2)) for image, (dy, dx) in zip(images, moves, strict=True)])
