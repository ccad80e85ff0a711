"""A diffusion task that a user could have written, small enough to train in seconds: blobs, left or right."""

import torch
from torch import Tensor, nn

from compress.diffusion import euler, heun, karras, karras_levels, renoise, table_of
from compress.metrics import Features
from compress.students import DenoiserUnet
from compress.tasks import Diffusion, Prompts


def teacher() -> nn.Module:
    return DenoiserUnet(1, 8, (1, 2), conditions=2)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(0, 2, (count,), generator=generator)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre = 2.0 + 3.5 * side + 0.5 * torch.randn(count, generator=generator)
    images = torch.exp(-((x - centre[:, None, None]) ** 2 + (y - 3.5) ** 2) / 4)
    return 2 * images[:, None] - 1, torch.eye(2)[side]


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "left", "right", "blob", "##s", "a", "on", "the"]


class Words(nn.Module):
    """Token numbers to which side they name: a text encoder of one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(len(VOCABULARY), 8)
        self.out = nn.Linear(8, 2)
        with torch.no_grad():
            self.table.weight.zero_()
            self.table.weight[4, 0] = self.table.weight[5, 1] = 1.0
            self.out.weight.zero_()
            self.out.bias.zero_()
            self.out.weight[0, 0] = self.out.weight[1, 1] = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        rows: Tensor = self.out(self.table(tokens).sum(1))
        return rows


class Larger(nn.Module):
    """Latents (N, 1, 8, 8) to pictures (N, 1, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.conv(torch.nn.functional.interpolate(latents, scale_factor=2.0, mode="nearest"))
        return pictures


def worded(steps: int = 1) -> Diffusion:
    """Blobs that are asked for by a text, and drawn as latents."""
    made = task(steps)
    prompts = Prompts(Words(), VOCABULARY, 8, [f"a blob on the {side}" for side in ("left", "right")] * 8)
    made.prompts, made.decoder = prompts, Larger().eval()
    made.asked = prompts.rows(["a blob on the left", "right blobs"])
    return made


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
        student_steps={"a single step": table_of("1 of few", renoise, [2.5, 0.0], means)},
        features=Features("two halves", lambda images: torch.nn.functional.avg_pool2d(images[:, :1], 4).flatten(1)),
        conditions=rows, count=32, batch_size=32,
    )  # fmt: skip
