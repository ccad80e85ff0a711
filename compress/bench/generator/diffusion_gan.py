"""Diffusion-GAN: does noise on what the discriminator sees help where made and real samples do not overlap?"""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.adversarial import AdversarySettings
from compress.bench.beds import points
from compress.bench.case import Case
from compress.bench.generator.gans import compare, drawn_points

_STEPS, _RAMP = 1_000, 200_000
_PLAIN = AdversarySettings(loss="non_saturating", penalty="none", ramp_images=_RAMP)


def _distance(settings: AdversarySettings, seed: int) -> float:
    made = drawn_points(points.ring(), settings, seed, _STEPS)
    return points.ring().distance(made, torch.Generator().manual_seed(seed))


CASES = (
    Case(
        method="diffusion_gan",
        name="noise",
        question=(
            "Points on a ring of 8 narrow clusters, non-saturating loss: noise of adaptive length on made and real "
            f"points, against none; {_STEPS} steps of 128."
        ),
        metric="energy distance",
        unit="",
        higher_is_better=False,
        card="a gradient where the sets are disjoint and the plain loss has none.",
        run=compare(_distance, replace(_PLAIN, noise=True), _PLAIN),
    ),
)
