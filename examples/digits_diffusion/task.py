"""Scanned digits (scikit-learn's 1,797, 8x8, UCI, CC BY 4.0) drawn by a diffusion model: nothing is fetched.

One half trains teacher and student. The other half is what samples are judged by, and trains the classifier whose
features the Fréchet distance is taken on: what judges has seen none of the data that the student learned from.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from compress.diffusion import euler, heun, karras, karras_levels, renoise, table_of
from compress.metrics import Features
from compress.students import DenoiserUnet
from compress.tasks import Diffusion

DATA_STD, LOWEST, HIGHEST, TEACHER_STEPS = 0.75, 0.02, 20.0, 18
FEW_STEPS = {1: (2.5,), 2: (2.5, 0.8), 4: (2.5, 1.2, 0.5, 0.2)}  # the noise levels of a few-step student


def teacher() -> nn.Module:
    return DenoiserUnet(channels=1, width=32, multipliers=(1, 2), conditions=10)


def task(steps: int = 1, count: int = 900) -> Diffusion:
    """Digits in [-1, 1] with their classes; `steps` are the student's network evaluations: 1, 2 or 4."""
    images, classes = digits()
    half = len(images) // 2
    judge = Judge(images[half:], classes[half:])
    means = karras(DATA_STD)
    return Diffusion(
        images[:half],
        images[half:],
        preconditioning=means,
        sampler=table_of(f"{steps} steps with fresh noise between", renoise, [*FEW_STEPS[steps], 0.0], means),
        teacher_sampler=table_of("18 Heun steps", heun, karras_levels(TEACHER_STEPS, LOWEST, HIGHEST), means),
        teacher_steps={
            f"teacher, {n} Euler steps": table_of(f"{n} Euler steps", euler, karras_levels(n, LOWEST, HIGHEST), means)
            for n in (1, 2, 4, 8)
        },
        student_steps={
            f"{n} steps with fresh noise between": table_of(f"{n} steps", renoise, [*levels, 0.0], means)
            for n, levels in FEW_STEPS.items()
            if n != steps
        },
        features=Features("a digit classifier's features", judge.features),
        classifier=judge.logits,
        conditions=F.one_hot(classes[:half], 10).float(),
        count=count,
    )


def digits() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 8, 8) in [-1, 1] and classes (N,), in a fixed random order."""
    loaded = load_digits()
    order = torch.randperm(len(loaded.images), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(loaded.images, dtype=torch.float32)[order, None] / 8 - 1
    return images, torch.tensor(loaded.target)[order]


class Judge:
    """A small classifier, trained on the spot; features are scaled to a mean variance of 1 on its own data."""

    def __init__(self, images: Tensor, classes: Tensor) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(),
                nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
            )  # fmt: skip
            self.head = nn.Linear(32, 10)
            self._train(images, classes)
        self.scale = 1.0
        with torch.no_grad():
            self.scale = float(self.body(images).var(0).mean().sqrt())

    def _train(self, images: Tensor, classes: Tensor) -> None:
        optimizer = torch.optim.Adam([*self.body.parameters(), *self.head.parameters()], lr=2e-3)
        with torch.enable_grad():
            for _ in range(400):
                chosen = torch.randint(len(images), (64,))
                optimizer.zero_grad()
                F.cross_entropy(self.head(self.body(images[chosen])), classes[chosen]).backward()
                optimizer.step()
        self.body.requires_grad_(False)
        self.head.requires_grad_(False)

    def features(self, pictures: Tensor) -> Tensor:
        """Rows (N, 32) of pictures, RGB in [0, 1]."""
        return self.body(pictures[:, :1] * 2 - 1) / self.scale

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits (N, 10) of pictures, RGB in [0, 1]."""
        return self.head(self.body(pictures[:, :1] * 2 - 1))
