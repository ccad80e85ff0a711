"""A small classifier that judges made pictures: trained on the spot, on pictures that no generator learns from."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 64


class Judge:
    """Features and logits of pictures (N, 3, H, W), RGB in [0, 1].

    Args:
        images: (N, C, H, W) in [-1, 1]; those of one channel are judged by one.
        classes: (N,).
        epochs: how often it sees them.

    Features are scaled to a mean variance of 1 on a part of its own data.
    """

    def __init__(self, images: Tensor, classes: Tensor, epochs: int = 2, batch_size: int = 128) -> None:
        self.channels, self.scale = images.shape[1], 1.0
        side = images.shape[2]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(self.channels, 32, 3, 1, 1), nn.BatchNorm2d(32), nn.ReLU(),
                nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU(),
                nn.Conv2d(64, 96, 3, 2, 1), nn.BatchNorm2d(96), nn.ReLU(),
                nn.Flatten(), nn.Linear(96 * (-(-side // 4)) ** 2, FEATURES), nn.ReLU(),
            )  # fmt: skip
            self.head = nn.Linear(FEATURES, int(classes.max()) + 1)
            self._train(images, classes, epochs, batch_size)
        with torch.no_grad():
            self.scale = float(self.body(images[:2_000]).var(0).mean().sqrt())

    def _train(self, images: Tensor, classes: Tensor, epochs: int, batch_size: int) -> None:
        optimizer = torch.optim.Adam([*self.body.parameters(), *self.head.parameters()], lr=2e-3)
        steps = epochs * (len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        with torch.enable_grad():
            for _ in range(epochs):
                for chosen in torch.randperm(len(images)).split(batch_size)[: len(images) // batch_size]:
                    optimizer.zero_grad()
                    F.cross_entropy(self.head(self.body(images[chosen])), classes[chosen]).backward()
                    optimizer.step()
                    schedule.step()
        for part in (self.body, self.head):
            part.eval().requires_grad_(False)

    def features(self, pictures: Tensor) -> Tensor:
        """Rows (N, 64)."""
        rows: Tensor = self.body(pictures[:, : self.channels] * 2 - 1) / self.scale
        return rows

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.head(self.body(pictures[:, : self.channels] * 2 - 1))
        return logits
