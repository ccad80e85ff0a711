"""A diffusion task that a user could have written, small enough to train in seconds: blobs, left or right."""

import torch
from torch import Tensor, nn

from compress.diffusion import euler, heun, karras, karras_levels, renoise, table_of
from compress.metrics import Features
from compress.students import DenoiserUnet
from compress.tasks import Diffusion


def teacher() -> nn.Module:
    return DenoiserUnet(1, 8, (1, 2), conditions=2)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(0, 2, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre = 2.0 + 3.5 * side + 0.5 * torch.randn(count, generator=generator)
    images = torch.exp(-((x - centre[:, None, None]) ** 2 + (y - 3.5) ** 2) / 4)
    return 2 * images[:, None] - 1, torch.eye(2)[side]


def task(steps: int = 1, solver: bool = False) -> Diffusion:
    train, rows = blobs(128, 0)
    means = karras(0.5)
    few = (
        table_of("few", euler, karras_levels(steps, 0.05, 10.0), means)
        if solver
        else table_of("few", renoise, [*[2.5, 1.0, 0.4][:steps], 0.0], means)
    )
    return Diffusion(
        train, blobs(80, 1)[0], preconditioning=means, sampler=few,
        teacher_sampler=table_of("heun", heun, karras_levels(6, 0.05, 10.0), means),
        teacher_steps={"teacher, 1 step": table_of("1", euler, karras_levels(1, 0.05, 10.0), means)},
        features=Features("two halves", lambda images: torch.nn.functional.avg_pool2d(images[:, :1], 4).flatten(1)),
        conditions=rows, count=32, batch_size=32,
    )  # fmt: skip
