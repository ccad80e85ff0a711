"""Penalties on the discriminator, by name, and when they apply.

`penalty(judge, real, fake)` is a scalar without its weight. `judge` maps samples (N, ...) to logits; where these have
several positions or scales, "D(x)" below is their mean per sample, so that a patch discriminator's penalty does not
grow with the image. Squared gradients underflow in half precision: they are taken in float32, outside autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from compress.adversarial.augment import flip, translation
from compress.adversarial.discriminators.base import Condition, Discriminator
from compress.adversarial.entropy import code
from compress.adversarial.losses import Logits, scales
from compress.errors import RecipeError

Scorer = Callable[[Tensor], Logits]

_MIXING_DEVIATION = 0.05


@dataclass(frozen=True)
class Judge:
    """A discriminator under one condition: called, it gives logits; `hidden` is what its heads read."""

    discriminator: Discriminator
    condition: Condition | None = None

    def __call__(self, x: Tensor) -> Logits:
        """The logits of samples."""
        logits: list[Tensor] = self.discriminator(x, self.condition)
        return logits

    def hidden(self, x: Tensor) -> list[Tensor]:
        """The last map of each tower."""
        return self.discriminator.hidden(x)


Penalty = Callable[[Judge, Tensor, Tensor], Tensor]

# Finite differences of a curved discriminator are biased: -14 % at half the data's deviation, nothing to see at 0.1.
APPROXIMATION_SHARE = 0.01


def r1(judge: Scorer, real: Tensor, fake: Tensor) -> Tensor:
    """E ||grad D(x)||^2 on real samples (Mescheder et al. 2018)."""
    return _squared_gradient(judge, real)


def r2(judge: Scorer, real: Tensor, fake: Tensor) -> Tensor:
    """E ||grad D(x)||^2 on fake samples."""
    return _squared_gradient(judge, fake)


def zero_centered(judge: Scorer, real: Tensor, fake: Tensor) -> Tensor:
    """R1 + R2 (Huang et al. 2024: R1 alone does not keep a relativistic discriminator in bounds on fakes)."""
    return _squared_gradient(judge, real) + _squared_gradient(judge, fake)


def approximate_r1(judge: Scorer, real: Tensor, fake: Tensor, share: float = APPROXIMATION_SHARE) -> Tensor:
    """E (D(x) - D(x + s eps))^2 / s^2 on real samples, near R1 without a second derivative (Lin et al. 2025, APT).

    `share` is s in standard deviations of the batch. Divided by s^2, it has R1's unit and takes R1's weight: APT's
    weight 100 at s = 0.01 is gamma 0.02 here, for data of deviation 1.
    """
    # Cached, a spectral norm is the same in both calls; one more power iteration between them would swamp the step.
    with torch.autocast(real.device.type, enabled=False), parametrize.cached():
        x = real.detach().float()
        step = share * x.std(correction=0)
        moved = _score(judge(x + step * torch.randn_like(x)))
        return ((_score(judge(x)) - moved) / step).square().mean()


def gradient_penalty(judge: Scorer, real: Tensor, fake: Tensor) -> Tensor:
    """E (||grad D||_2 - 1)^2 between real and fake samples (Gulrajani et al. 2017, WGAN-GP)."""
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    between = share * real.detach().float() + (1 - share) * fake.detach().float()
    norm = (_squared_gradients(judge, between) + 1e-12).sqrt()  # the root has no slope at 0
    return (norm - 1).square().mean()


def adaptive_mix(judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
    """1 - cos(h(mix of two samples), mix of their h) over real and over fake samples (Liu et al. 2023, AdaptiveMix).

    h is what the heads read; the mixed h is a target, with a little noise, and learns nothing. What lies between two
    samples is then judged to be between them.
    """
    return (_unmixed(judge, real.detach()) + _unmixed(judge, fake.detach())) / 2


def manifold(judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
    """How far the discriminator's code is from smooth, of images (Liu et al. 2022, MEE).

    The squared error of a real image's code against that of the image moved a little, and of the code of a mix of a
    real and a fake image against the mix of their codes; the second of each is a target, and learns nothing.
    """
    real, fake = real.detach(), fake.detach()
    with torch.no_grad():
        of_real, of_fake = code(judge.hidden(real)), code(judge.hidden(fake))
        of_moved = code(judge.hidden(translation(flip(real))))
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    target = share.flatten(1) * of_real + (1 - share.flatten(1)) * of_fake
    target = target + _MIXING_DEVIATION * torch.randn_like(target)
    between = code(judge.hidden(share * real + (1 - share) * fake))
    return F.mse_loss(code(judge.hidden(real)), of_moved) + F.mse_loss(between, target)


# What a penalty's weight multiplies: gamma / 2 for squared gradients (the papers' gamma), lambda for the others.
PENALTIES: dict[str, tuple[Penalty, float]] = {
    "r1": (r1, 0.5),
    "r2": (r2, 0.5),
    "zero_centered": (zero_centered, 0.5),
    "approximate_r1": (approximate_r1, 0.5),
    "gradient_penalty": (gradient_penalty, 1.0),
    "adaptive_mix": (adaptive_mix, 1.0),
    "manifold": (manifold, 1.0),
}


@dataclass(frozen=True)
class Regularizer:
    """A penalty with its weight, applied at every `every`-th step and then `every` times as heavy.

    The expected gradient is that of the penalty at every step. The correction of Adam's rate and moments that StyleGAN2
    makes is for penalties with an optimizer step of their own; here the penalty joins the step of the loss.
    """

    kind: str
    weight: float
    every: int = 1

    def is_due(self, step: int) -> bool:
        """Whether the penalty applies at this step."""
        return step % self.every == 0

    def __call__(self, judge: Judge, real: Tensor, fake: Tensor) -> Tensor:
        """The weighted penalty of a step where it is due."""
        penalty, factor = PENALTIES[self.kind]
        return self.weight * factor * self.every * penalty(judge, real, fake)


@torch.no_grad()
def clip_weights(module: nn.Module, limit: float) -> None:
    """Clamp every trained parameter into [-limit, limit], in place (Arjovsky et al. 2017, WGAN)."""
    if limit <= 0:
        raise RecipeError(f"adversary.weight_clip is {limit:g}; a clip has to be above 0")
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.clamp_(-limit, limit)


def _unmixed(judge: Judge, samples: Tensor) -> Tensor:
    """How far the hidden maps of mixed samples are from the mixed maps, each sample mixed with its neighbour."""
    share = torch.rand(len(samples), device=samples.device)

    def mixed(x: Tensor) -> Tensor:
        own = share.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return own * x + (1 - own) * x.roll(1, 0)

    with torch.no_grad():
        targets = [mixed(h) for h in judge.hidden(samples)]
    cosines = [
        F.cosine_similarity(h.flatten(1), (t + _MIXING_DEVIATION * torch.randn_like(t)).flatten(1))
        for h, t in zip(judge.hidden(mixed(samples)), targets, strict=True)
    ]
    return 1 - torch.stack(cosines).float().mean()


def _score(logits: Logits) -> Tensor:
    """One number per sample: the mean over positions, then over scales."""
    return torch.stack([scale.flatten(1).mean(1) for scale in scales(logits)]).mean(0)


def _squared_gradients(judge: Scorer, samples: Tensor) -> Tensor:
    """||grad D||^2 per sample, differentiable in the discriminator's parameters."""
    with torch.autocast(samples.device.type, enabled=False):
        x = samples.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(_score(judge(x)).sum(), x, create_graph=True)
        return gradient.flatten(1).square().sum(1)


def _squared_gradient(judge: Scorer, samples: Tensor) -> Tensor:
    return _squared_gradients(judge, samples).mean()
