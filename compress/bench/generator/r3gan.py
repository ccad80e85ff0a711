"""R3GAN: do R1 and R2 make the game converge, and does judging samples in pairs cover more modes?"""

from __future__ import annotations

import math

import torch
from torch import nn

from compress.adversarial import Adversary, AdversarySettings, Discriminator
from compress.bench.beds import digits, points
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.generator.gans import compare, drawn_digits, drawn_points

_DIRAC_STEPS, _DIRAC_LAST, _DIRAC_RATE = 1_500, 200, 0.05
_DIGIT_STEPS, _RING_STEPS = 300, 1_000


def _orbit(settings: AdversarySettings, seed: int) -> float:
    """The largest distance from the equilibrium late in the Dirac game: one real point at 0, one made, D(x) = slope x.

    Both sides move at once by plain gradient descent (Mescheder et al., 2018).
    """
    with seeded(seed):
        angle = 2 * math.pi * torch.rand(())
        head = nn.Conv1d(1, 1, 1, bias=False)
        nn.init.constant_(head.weight, float(angle.sin()))
        made = nn.Parameter(angle.cos().view(1, 1, 1))
        adversary = Adversary(Discriminator([nn.Sequential(nn.Identity())], [head], [1]), settings)
        distances = []
        for _ in range(_DIRAC_STEPS):
            real = torch.zeros_like(made)
            (push,) = torch.autograd.grad(adversary.generator_loss(made, real), made)
            terms = adversary.discriminator_loss(made, real).terms
            (pull,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), head.weight)
            with torch.no_grad():
                made.sub_(_DIRAC_RATE * push)
                head.weight.sub_(_DIRAC_RATE * pull)
            distances.append(math.hypot(float(made.detach()), float(head.weight.detach())))
    return max(distances[-_DIRAC_LAST:])


def _digits(settings: AdversarySettings, seed: int) -> float:
    return digits.distance(drawn_digits(settings, seed, _DIGIT_STEPS))


def _ring(settings: AdversarySettings, seed: int) -> float:
    return points.ring().modes_hit(drawn_points(points.ring(), settings, seed, _RING_STEPS))


CASES = (
    Case(
        method="r3gan",
        name="convergence",
        question=(
            "The Dirac game (one real point, a linear discriminator, both sides move at once): relativistic loss with "
            f"R1 and R2, against the loss alone; {_DIRAC_STEPS} steps, the largest distance of the last {_DIRAC_LAST}."
        ),
        metric="distance from the equilibrium",
        unit="",
        higher_is_better=False,
        card="below 0.001 with the penalties, above 0.1 without.",
        run=compare(_orbit, AdversarySettings(penalty_weight=1.0), AdversarySettings(penalty="none")),
    ),
    Case(
        method="r3gan",
        name="penalties",
        question=(
            "Digits from R3GAN's own network and loss: with R1 and R2 (gamma 1), against none; "
            f"{_DIGIT_STEPS} steps of 64."
        ),
        metric="Fréchet distance on the digit classifier",
        unit="",
        higher_is_better=False,
        card="without the penalties training does not converge.",
        run=compare(
            _digits,
            AdversarySettings(width=8, depth=1, penalty_weight=1.0),
            AdversarySettings(width=8, depth=1, penalty="none"),
        ),
    ),
    Case(
        method="r3gan",
        name="pairs",
        question=(
            "Points on a ring of 8 clusters: samples judged in pairs (the relativistic loss), against each by itself "
            f"(the non-saturating loss), both with R1 and R2 (gamma 0.1); {_RING_STEPS} steps of 128."
        ),
        metric="modes hit of 8",
        unit="",
        higher_is_better=True,
        card="the relativistic loss drops fewer modes.",
        run=compare(
            _ring,
            AdversarySettings(loss="relativistic", penalty_weight=0.1),
            AdversarySettings(loss="non_saturating", penalty_weight=0.1),
        ),
    ),
)
