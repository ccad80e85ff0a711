"""Projected GAN: are the features of a trained network what helps, or any frozen features?"""

from __future__ import annotations

from torch import Tensor, nn

from compress.adversarial import AdversarySettings
from compress.bench.beds import digits
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.generator.gans import drawn_digits

_STEPS = 300
_PROJECTED = AdversarySettings(discriminator="projected", width=16, loss="hinge", penalty="none")
_PLAIN = AdversarySettings(discriminator="patch", width=32, depth=1, loss="hinge", penalty="none", spectral=True)


class _Taps(nn.Module):
    """A digit classifier's maps after its first and third convolution."""

    def __init__(self, classifier: digits.Classifier) -> None:
        super().__init__()
        self.first, self.rest = classifier.body[:2], classifier.body[2:6]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 32, 8, 8) and (N, 32, 4, 4)."""
        fine = self.first(images)
        return [fine, self.rest(fine)]


def _projected(classifier: digits.Classifier, seed: int) -> float:
    return digits.distance(drawn_digits(_PROJECTED, seed, _STEPS, extractor=_Taps(classifier)))


def _against_plain(seed: int) -> tuple[float, float]:
    return _projected(digits.judge(), seed), digits.distance(drawn_digits(_PLAIN, seed, _STEPS))


def _against_untrained(seed: int) -> tuple[float, float]:
    with seeded(seed):
        untrained = digits.Classifier()
    return _projected(digits.judge(), seed), _projected(untrained, seed)


CASES = tuple(
    Case(
        method="projected_gan",
        name=name,
        question=(
            "Digits, hinge: heads on the frozen features of a digit classifier that saw other digits than the one that "
            f"measures, against {against}; {_STEPS} steps of 64."
        ),
        metric="Fréchet distance on the digit classifier",
        unit="",
        higher_is_better=False,
        card="converges in a third of the budget of a plain discriminator.",
        run=run,
    )
    for name, against, run in (
        ("trained features", "the same heads on the features of an untrained one", _against_untrained),
        ("plain", "a patch discriminator with spectral norm", _against_plain),
    )
)
