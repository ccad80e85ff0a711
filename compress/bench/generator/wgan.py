"""WGAN and WGAN-GP: does the critic need its bound, and is a penalty a better one than clipped weights?"""

from __future__ import annotations

from compress.adversarial import AdversarySettings
from compress.bench.beds import points
from compress.bench.case import Case
from compress.bench.generator.gans import compare, drawn_points

_STEPS, _TURNS = 1_500, 2
_PENALTY, _CLIP = 1.0, 0.1  # of small networks; the papers' 10 and 0.01 leave a critic of three layers all but flat


def _modes(settings: AdversarySettings, seed: int) -> float:
    made = drawn_points(points.ring(), settings, seed, _STEPS, learning_rate=2e-3, adversary_turns=_TURNS)
    return points.ring().modes_hit(made)


_BARE = AdversarySettings(loss="wasserstein", penalty="none")
_CLIPPED = AdversarySettings(loss="wasserstein", penalty="none", weight_clip=_CLIP)
_PENALIZED = AdversarySettings(loss="wasserstein", penalty="gradient_penalty", penalty_weight=_PENALTY)
_BUDGET = f"{_STEPS} critic steps of 128, {_TURNS} for each of the generator's"

CASES = (
    Case(
        method="wgan_gp",
        name="penalty",
        question=(
            f"Points on a ring of 8 clusters, Wasserstein loss: gradient penalty {_PENALTY:g}, against weights clipped "
            f"at {_CLIP:g}; {_BUDGET}."
        ),
        metric="modes hit of 8",
        unit="",
        higher_is_better=True,
        card="more modes of the ring than with clipping.",
        run=compare(_modes, _PENALIZED, _CLIPPED),
    ),
    Case(
        method="wgan",
        name="clip",
        question=(
            f"Points on a ring of 8 clusters, Wasserstein loss: weights clipped at {_CLIP:g}, against a critic without "
            f"any bound; {_BUDGET}."
        ),
        metric="modes hit of 8",
        unit="",
        higher_is_better=True,
        card="the critic estimates the Wasserstein distance only under a Lipschitz bound.",
        run=compare(_modes, _CLIPPED, _BARE),
    ),
)
