"""Adversarial losses: what discriminator and generator minimize, given the logits of real and of fake samples.

Logits are a tensor, or a list of tensors where a discriminator judges at several scales: each scale is averaged over
its samples and positions, then the scales are averaged, so that no scale weighs more for having more positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.errors import DataError

Logits = Tensor | Sequence[Tensor]
_Elementwise = Callable[[Tensor], Tensor]


class Loss(Protocol):
    """An adversarial loss; `reads_real` says whether the generator's side depends on the real logits."""

    @property
    def reads_real(self) -> bool:
        """Whether `generator` needs the real logits."""
        ...

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """What the discriminator minimizes: a scalar."""
        ...

    def generator(self, real_logits: Logits | None, fake_logits: Logits) -> Tensor:
        """What the generator minimizes: a scalar."""
        ...

    def margins(self, real_logits: Logits, fake_logits: Logits) -> tuple[Tensor, Tensor]:
        """(of real, of fake) samples, flat: positive where the discriminator is right."""
        ...


@dataclass(frozen=True)
class Unpaired:
    """Separate terms for real and fake samples, each a mean of an elementwise function of the logits.

    `boundary` is the logit between real and fake; None where the loss does not fix one (a critic is free up to a
    constant): then a margin is the real sample's logit minus the fake one's.
    """

    real: _Elementwise
    fake: _Elementwise
    fooled: _Elementwise
    boundary: float | None = 0.0
    reads_real: bool = False

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The mean over real samples plus the mean over fake ones."""
        return _mean([self.real(r) for r in scales(real_logits)]) + _mean([self.fake(f) for f in scales(fake_logits)])

    def generator(self, real_logits: Logits | None, fake_logits: Logits) -> Tensor:
        """The mean over fake samples; the real logits are not read."""
        return _mean([self.fooled(f) for f in scales(fake_logits)])

    def margins(self, real_logits: Logits, fake_logits: Logits) -> tuple[Tensor, Tensor]:
        """(of real, of fake) samples: how far each logit is on its own side of the boundary."""
        if self.boundary is None:
            return _pair_margins(real_logits, fake_logits)
        return _flat(real_logits) - self.boundary, self.boundary - _flat(fake_logits)


@dataclass(frozen=True)
class Relativistic:
    """A sample is judged against its partner: softplus of the difference of logits (Huang et al. 2024, R3GAN).

    The discriminator minimizes sp(-(D(x) - D(G(z)))), the generator sp(-(D(G(z)) - D(x))). The absolute logit means
    nothing here, so a margin is the difference within a pair.
    """

    reads_real: bool = True

    def discriminator(self, real_logits: Logits, fake_logits: Logits) -> Tensor:
        """The mean over pairs of sp(fake - real)."""
        return _mean([F.softplus(f - r) for r, f in _pairs(real_logits, fake_logits)])

    def generator(self, real_logits: Logits | None, fake_logits: Logits) -> Tensor:
        """The mean over pairs of sp(real - fake)."""
        if real_logits is None:
            raise DataError("the relativistic loss compares each fake sample with a real one; give the real logits too")
        return _mean([F.softplus(r - f) for r, f in _pairs(real_logits, fake_logits)])

    def margins(self, real_logits: Logits, fake_logits: Logits) -> tuple[Tensor, Tensor]:
        """The real sample's logit minus its fake partner's, for both sides."""
        return _pair_margins(real_logits, fake_logits)


LOSSES: dict[str, Loss] = {
    "hinge": Unpaired(real=lambda r: F.relu(1 - r), fake=lambda f: F.relu(1 + f), fooled=torch.neg),
    "non_saturating": Unpaired(real=lambda r: F.softplus(-r), fake=F.softplus, fooled=lambda f: F.softplus(-f)),
    "wasserstein": Unpaired(real=torch.neg, fake=lambda f: f, fooled=torch.neg, boundary=None),
    "least_squares": Unpaired(
        real=lambda r: (r - 1).square(), fake=torch.square, fooled=lambda f: (f - 1).square(), boundary=0.5
    ),
    "relativistic": Relativistic(),
}


def scales(logits: Logits) -> list[Tensor]:
    """The logits as a list with one tensor per scale, in float32: a pair's difference is lost in half precision."""
    return [scale.float() for scale in ([logits] if isinstance(logits, Tensor) else logits)]


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack([value.mean() for value in values]).mean()


def _flat(logits: Logits) -> Tensor:
    return torch.cat([scale.flatten() for scale in scales(logits)])


def _pairs(real_logits: Logits, fake_logits: Logits) -> list[tuple[Tensor, Tensor]]:
    real, fake = scales(real_logits), scales(fake_logits)
    if [r.shape for r in real] != [f.shape for f in fake]:
        shapes = f"{[tuple(r.shape) for r in real]} and {[tuple(f.shape) for f in fake]}"
        raise DataError(f"this adversarial loss pairs real and fake samples; their logits have shapes {shapes}")
    return list(zip(real, fake, strict=True))


def _pair_margins(real_logits: Logits, fake_logits: Logits) -> tuple[Tensor, Tensor]:
    margin = torch.cat([(r - f).flatten() for r, f in _pairs(real_logits, fake_logits)])
    return margin, margin
