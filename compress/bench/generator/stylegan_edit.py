"""StyleGAN2 distillation: does a translator that learned made-up pairs edit real digits, and does the filter help?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.bench.beds import digits, shapes
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.generator.mobile_stylegan import LATENT, digit_teacher
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.distill.generator.stylegan_edit import EditedPairs, direction, edited_pairs
from compress.tasks import PairedTranslation

_EPOCHS, _DRAWN, _PAIRS, _STEP = 6, 2_000, 640, 1.5
_STEEP = 12.0
_PIXELS = {"data_range": 2.0, "lowest": -1.0, "input_range": (-1.0, 2.0)}


def slant(images_N1HW: Tensor) -> Tensor:
    """How far strokes lean to the right per pixel upwards, (N,): the regression of columns on rows, by brightness."""
    weight_NHW = (images_N1HW[:, 0] + 1).clamp(min=0) + 1e-6
    weight_NHW = weight_NHW / weight_NHW.sum((1, 2), keepdim=True)
    place = torch.arange(digits.SIDE, dtype=torch.float)
    row, column = -place.view(1, -1, 1), place.view(1, 1, -1)
    up = row - (weight_NHW * row).sum((1, 2), keepdim=True)
    right = column - (weight_NHW * column).sum((1, 2), keepdim=True)
    return (weight_NHW * up * right).sum((1, 2)) / (weight_NHW * up.square()).sum((1, 2))


def _task(seed: int, certain: float, random: bool) -> PairedTranslation:
    """Digits before and after an edit, as many whatever the filter."""
    teacher = digit_teacher()
    with seeded(seed):
        latents, other = torch.randn(_DRAWN, LATENT), torch.randn(LATENT)
    with torch.no_grad():
        leaning = slant(teacher(latents))
    middle = leaning.median()

    def score(pictures: Tensor) -> Tensor:
        return (_STEEP * (slant(pictures) - middle)).sigmoid()

    if random:
        with torch.no_grad():
            moved = teacher(latents + _STEP * other / other.norm())
            found = EditedPairs(teacher(latents), moved, _DRAWN)
    else:
        found = edited_pairs(teacher, score, latents, direction(latents, leaning), _STEP, certain)
    splits = [tuple((side + 1) / 2 for side in split) for split in found.split()]
    repeat = -(-_PAIRS // len(splits[0][0]))
    splits[0] = tuple(side.repeat(repeat, 1, 1, 1)[:_PAIRS] for side in splits[0])
    return PairedTranslation(*splits, batch_size=32, **_PIXELS)  # type: ignore[arg-type]


class _Editor(nn.Module):
    """Digits to digits: what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(1, 16, 3, padding=1), shapes.Residual(16)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The edited digits."""
        added: Tensor = self.last(self.block(self.first(x).relu()))
        return x + added


def _edited(seed: int, certain: float = 0.8, random: bool = False) -> float:
    """The share of held-out real digits that lean further to the right after the edit and are still what they were."""
    task = _task(seed, certain, random)
    editor = distil(
        METHODS["stylegan_edit"],
        {
            "target": {"pixel": 1.0, "perceptual": 0.0},
            "gan": 0.1,
            "matching": 1.0,
            "adversary": {"discriminator": "patch", "depth": 1, "width": 16},
        },
        _Editor(),
        _Editor,
        task,
        seed=seed,
        epochs=_EPOCHS,
    )
    _, held_out = digits.digits()
    with torch.no_grad():
        after = editor(held_out.images).clamp(-1, 1)
    leaned = slant(after) - slant(held_out.images) > 0.1
    return float((leaned & (digits.classes_seen(after) == held_out.classes)).double().mean())


_SETTING = f"A translator learns to slant digits from pairs that a generator drew; {_EPOCHS} epochs of {_PAIRS} pairs"
CASES = (
    Case(
        method="stylegan2_distillation",
        name="direction",
        question=f"{_SETTING}: pairs along the direction in which slant grows, against a random direction.",
        metric="real held-out digits that lean further and keep their class",
        unit="fraction",
        higher_is_better=True,
        card="nine in ten real digits are edited as asked, by one pass of a small network.",
        run=lambda seed: (_edited(seed), _edited(seed, random=True)),
    ),
    Case(
        method="stylegan2_distillation",
        name="filter",
        question=f"{_SETTING}: of certain pictures only (0.8), against of all that change sides.",
        metric="real held-out digits that lean further and keep their class",
        unit="fraction",
        higher_is_better=True,
        card="pairs are kept where a classifier is certain of both pictures; its own part is not stated.",
        run=lambda seed: (_edited(seed), _edited(seed, 0.5)),
    ),
)
