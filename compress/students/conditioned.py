"""A small denoiser with a part added beside it: an encoder of a new condition, or a guide. And the teachers of both.

Teacher and student of such a run take the same condition rows (N, K + R): K numbers that the denoiser knows, and R that
are new. The denoiser is called `base` in all of them, so that its weights are found again by their names; a part that
begins as a copy of the denoiser's is called `copied`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.students.denoiser_unet import DenoiserUnet, zeroed


class Unconditioned(nn.Module):
    """A denoiser that is given longer condition rows than it knows: it looks at the first numbers alone.

    Args:
        base: what `DenoiserUnet` is made with.
    """

    def __init__(self, base: Mapping[str, Any]) -> None:
        super().__init__()
        self.base = DenoiserUnet(**base)
        self.known = int(base.get("conditions", 0))

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        """The raw outputs; `others` are the second time, where there is one, and the condition rows."""
        output: Tensor = self.base(x, time, *self.split(others)[0])
        return output

    def split(self, others: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """(what the denoiser takes behind the time, the new numbers (N, R))."""
        *until, rows = others
        return [*until, *([rows[:, : self.known]] if self.known else [])], rows[:, self.known :]


class WithCondition(Unconditioned):
    """A denoiser with a copy of its way down that reads a picture (Mei et al. 2024, "CoDi"): h + mu (h_picture - h).

    mu is a number for each of the features on the way down and begins at zero, so that the denoiser is at first what
    it was. The picture is brought to the samples' size by repetition, which does for a vector too (sides of 1).

    Args:
        base: what `DenoiserUnet` is made with.
        shape: of the picture (C, H, W), which are the new numbers of the condition rows.
    """

    def __init__(self, base: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().__init__(base)
        self.shape = tuple(shape)
        self.copied = copy.deepcopy(self.base)
        _keep_way_down(self.copied, embeddings=False)
        if shape[0] != self.base.first.in_channels:
            self.copied.first = nn.Conv2d(shape[0], self.base.kept_widths[0], 3, padding=1)
        self.shares = nn.ParameterList(torch.zeros(1, 1, 1, 1) for _ in self.base.kept_widths)

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        """The raw outputs."""
        told, rest = self.split(others)
        embedded = self.base.embedded(time, *told)
        picture = F.interpolate(rest.unflatten(1, self.shape), size=x.shape[-2:], mode="nearest")
        ours, theirs = self.base.encoded(x, embedded), self.copied.encoded(picture, embedded)
        mixed = [h + share * (other - h) for h, other, share in zip(ours, theirs, self.shares, strict=True)]
        return self.base.decoded(mixed, embedded)


class ClassifierFree(Unconditioned):
    """A denoiser with classifier-free guidance in one module, which asks it twice; the new number is the weight.

    Rows of zeros ask for nothing in particular.
    """

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        """The raw outputs: guiding them is guiding the clean samples, as both stand for the same x."""
        (*until, condition), weight = self.split(others)
        free: Tensor = self.base(x, time, *until, torch.zeros_like(condition))
        asked: Tensor = self.base(x, time, *until, condition)
        return free + weight[:, :, None, None] * (asked - free)


class WithGuide(Unconditioned):
    """A denoiser with a narrow copy's way down, which adds to its features what guidance would change.

    Hsiao et al. 2024, "Plug-and-Play Diffusion Distillation". The guide sees the sample, the time, the condition and
    the new number, the weight of guidance. What it adds begins at zero: at first the denoiser is unguided.

    Args:
        base: what `DenoiserUnet` is made with.
        width: channels of the guide at full resolution.
    """

    def __init__(self, base: Mapping[str, Any], width: int = 8) -> None:
        super().__init__(base)
        self.guide = DenoiserUnet(**{**base, "width": width, "conditions": self.known + 1})
        widths = zip(self.guide.kept_widths, self.base.kept_widths, strict=True)
        self.added = nn.ModuleList(zeroed(nn.Conv2d(narrow, wide, 1)) for narrow, wide in widths)
        _keep_way_down(self.guide, embeddings=True)

    def forward(self, x: Tensor, time: Tensor, *others: Tensor) -> Tensor:
        """The raw outputs."""
        embedded = self.base.embedded(time, *self.split(others)[0])
        seen = self.guide.encoded(x, self.guide.embedded(time, *others))
        kept = self.base.encoded(x, embedded)
        changed = [h + add(g) for h, add, g in zip(kept, self.added, seen, strict=True)]
        return self.base.decoded(changed, embedded)


def _keep_way_down(network: DenoiserUnet, embeddings: bool) -> None:
    """Drop what the features on the way down do not need, in place."""
    told = () if embeddings else ("embed", "embed_until", "embed_condition")
    for part in ("middle", "up", "last", *told):
        delattr(network, part)
