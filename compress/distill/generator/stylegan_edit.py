"""Viazovetskyi et al. (2020, StyleGAN2 distillation): one edit of a generator's latents, learned by a small translator.

The data is made, not collected: latents move along the direction in which an attribute changes, and the generator
draws them before and after (`edited_pairs`). Then the pictures are learned as pairs, by pix2pixHD's terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.adversarial import Adversary, AdversarySettings, frozen, make_adversary
from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.errors import DataError, ModelError

Draw = Callable[[Tensor], Tensor]
"""Latents (N, L), of a StyleGAN those behind its mapping network, to pictures (N, C, H, W)."""
Score = Callable[[Tensor], Tensor]
"""Pictures (N, C, H, W) to how probable it is that each has the attribute: (N,) in [0, 1]."""
_BATCH = 256


@dataclass(frozen=True)
class EditedPairs:
    """Pictures before and after the edit, (N, C, H, W) each; `tried` latents gave them."""

    before: Tensor
    after: Tensor
    tried: int

    def split(self, shares: Sequence[float] = (0.8, 0.1)) -> list[tuple[Tensor, Tensor]]:
        """(train, validation, test), each (before, after), as `PairedTranslation` takes them; test is what is left."""
        first, second = (round(share * len(self.before)) for share in shares)
        sizes = (first, second, len(self.before) - first - second)
        return list(zip(self.before.split(sizes), self.after.split(sizes), strict=True))


def direction(latents_NL: Tensor, scores_N: Tensor, share: float = 0.1) -> Tensor:
    """The direction (L,) of unit length in which the attribute grows.

    It leads from the mean of the latents whose pictures lack it most to the mean of those that have it most.

    Args:
        latents_NL: what pictures were made of.
        scores_N: how much of the attribute each has.
        share: of the latents in either mean.

    Raises:
        DataError: all scores are equal.
    """
    if float(scores_N.max()) <= float(scores_N.min()):
        raise DataError("all pictures have as much of the attribute; it has no direction in the latents")
    order = scores_N.argsort()
    count = max(1, round(share * len(order)))
    difference = latents_NL[order[-count:]].mean(0) - latents_NL[order[:count]].mean(0)
    return difference / torch.linalg.vector_norm(difference)


@torch.no_grad()
def edited_pairs(
    draw: Draw, score: Score, latents_NL: Tensor, direction_L: Tensor, step: float, certain: float = 0.8
) -> EditedPairs:
    """Pictures of latents, and of the same latents `step` further on, where the edit certainly is one.

    A latent is drawn a step back, as it is, and a step on. The pair is the last of the three pictures that certainly
    lacks the attribute and the first that certainly has it, if they come in this order.

    Args:
        certain: how probable a picture has to be of its side, above one half.

    Raises:
        DataError: no latent gave a pair.
    """
    before, after = [], []
    for latents in latents_NL.split(_BATCH):
        drawn_3N = [draw(latents + move * step * direction_L) for move in (-1, 0, 1)]
        scores_3N = torch.stack([score(pictures) for pictures in drawn_3N])
        for number in range(len(latents)):
            lacking = (scores_3N[:, number] <= 1 - certain).nonzero().flatten().tolist()
            having = (scores_3N[:, number] >= certain).nonzero().flatten().tolist()
            if lacking and having and lacking[-1] < having[0]:
                before.append(drawn_3N[lacking[-1]][number])
                after.append(drawn_3N[having[0]][number])
    if not before:
        raise DataError(
            f"none of {len(latents_NL)} latents gave a certain pair; take a longer step than {step:g}, or ask for less"
        )
    return EditedPairs(torch.stack(before), torch.stack(after), len(latents_NL))


@dataclass(frozen=True)
class StyleGanEditOptions(Options):
    """pix2pixHD's weights (Wang et al. 2018); the edited picture is the target, and the teacher counts for nothing."""

    teacher: Terms = field(default_factory=lambda: Terms(pixel=0.0))
    target: Terms = field(default_factory=lambda: Terms(perceptual=10.0))
    matching: float = 10.0
    """L1 between the discriminator's features of the output and of the real one."""
    gan: float = 1.0
    real: Literal["auto", "target", "teacher"] = "target"
    adversary: AdversarySettings = field(
        default_factory=lambda: AdversarySettings("patch", loss="least_squares", penalty="none")
    )


class StyleGanEdit(GeneratorMethod):
    """The terms of `Options`, for pictures in and out; the discriminator sees the input behind the output."""

    Options = StyleGanEditOptions
    options: StyleGanEditOptions

    def make_adversary(self, teacher: nn.Module, example_inputs: Sequence[Tensor]) -> Adversary:
        """A discriminator for an output together with its input.

        Raises:
            ModelError: the input is no picture of the output's size.
        """
        with torch.no_grad():
            output = teacher(*example_inputs)
        picture = example_inputs[0]
        if picture.dim() != 4 or picture.shape[2:] != output.shape[2:]:
            shapes = f"{tuple(picture.shape)} and {tuple(output.shape)}"
            raise ModelError(f"distill.method stylegan_edit takes pictures in and out of one size, not {shapes}")
        return make_adversary(self.options.adversary, output.shape[1] + picture.shape[1], output.shape[-1])

    def adversarial_terms(self, output: Tensor, wanted: Tensor, batch: Any) -> dict[str, Tensor]:
        """The adversarial loss of output and input together, and how far its features are from the real ones."""
        beside = torch.cat([output, batch.inputs[0]], 1)
        terms = super().adversarial_terms(beside, wanted, batch)
        if terms and self.options.matching:
            real = self.as_seen(self.real(wanted, batch))
            terms["matching"] = self.options.matching * self._matching(self.as_seen(beside), real)
        return terms

    def real(self, wanted: Tensor, batch: Any) -> Tensor:
        """The real output, with its input behind."""
        return torch.cat([super().real(wanted, batch), batch.inputs[0]], 1)

    def _matching(self, fake: Tensor, real: Tensor) -> Tensor:
        """The mean L1 distance of the discriminator's features, whose gradient reaches `fake` alone."""
        assert self.adversary is not None
        discriminator = self.adversary.discriminator
        with frozen(discriminator):
            ours, theirs = discriminator.features(fake), discriminator.features(real.detach())
        return torch.stack([F.l1_loss(a, b) for a, b in zip(ours, theirs, strict=True)]).mean()
