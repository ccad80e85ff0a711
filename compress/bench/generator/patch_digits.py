"""Parts of a discriminator, each on and off in one small GAN of digits: SAN's last layer, spectral norm, ADA, TTUR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from compress.adversarial import AdversarySettings
from compress.bench.beds import digits
from compress.bench.case import Case
from compress.bench.generator.gans import compare, drawn_digits

_STEPS, _FEW, _FEW_STEPS = 300, 200, 600
_METRIC = "Fréchet distance on the digit classifier"
_BUDGET = f"{_STEPS} steps of 64"
_BASE = AdversarySettings(discriminator="patch", width=32, depth=1, loss="hinge", penalty="none")
_NORMED = replace(_BASE, spectral=True)
_FEW_BASE = replace(_BASE, loss="non_saturating")


def _distance(settings: AdversarySettings, seed: int) -> float:
    return digits.distance(drawn_digits(settings, seed, _STEPS))


def _distance_of_few(settings: AdversarySettings, seed: int) -> float:
    return digits.distance(drawn_digits(settings, seed, _FEW_STEPS, images=digits.digits()[0].images[:_FEW]))


def _two_rates(seed: int) -> tuple[float, float]:
    rates = (5e-4, 2e-3), (1e-3, 1e-3)
    found = [
        digits.distance(drawn_digits(_NORMED, seed, _STEPS, learning_rate=made, adversary_learning_rate=judged))
        for made, judged in rates
    ]
    return found[0], found[1]


def _case(method: str, name: str, question: str, card: str, run: Callable[[int], tuple[float, float]]) -> Case:
    return Case(method, name, question, _METRIC, "", False, card, run)


CASES = (
    _case(
        "san",
        "last layer",
        f"Digits, patch discriminator with spectral norm, hinge: SAN's last layer, against a plain one; {_BUDGET}.",
        "a distance no larger than the base in at least two of three seeds.",
        compare(_distance, replace(_NORMED, sliced=True), _NORMED),
    ),
    _case(
        "gan_reg_norm_study",
        "spectral norm",
        f"Digits, patch discriminator, hinge: spectral norm on every layer, against none; {_BUDGET}.",
        "spectral norm is the norm of the discriminator to try first.",
        compare(_distance, _NORMED, _BASE),
    ),
    _case(
        "stylegan2_ada",
        "few images",
        (
            f"{_FEW} digits, patch discriminator, non-saturating: shifts and cut-outs with an adaptive probability, "
            f"against none; {_FEW_STEPS} steps of 64."
        ),
        "large gains where images are few.",
        compare(
            _distance_of_few,
            replace(_FEW_BASE, augment=("translation", "cutout"), adaptive=True, ramp_images=20_000),
            _FEW_BASE,
        ),
    ),
    _case(
        "ttur",
        "two rates",
        (
            "Digits, patch discriminator with spectral norm, hinge: rates 0.0005 (generator) and 0.002 "
            f"(discriminator), against 0.001 for both; {_BUDGET}."
        ),
        "a discriminator that learns faster improves the distance.",
        _two_rates,
    ),
)
