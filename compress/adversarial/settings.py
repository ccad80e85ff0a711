"""The settings of an adversary: plain values that a recipe gives, checked where they are made."""

from __future__ import annotations

from dataclasses import dataclass

from compress.adversarial.augment import OPERATIONS
from compress.adversarial.controller import LEAK_FREE
from compress.adversarial.discriminators import DISCRIMINATORS
from compress.adversarial.losses import LOSSES
from compress.adversarial.regularizers import PENALTIES
from compress.errors import RecipeError, UnknownName

NO_PENALTY = "none"


@dataclass(frozen=True, slots=True)
class AdversarySettings:
    """Who judges and how. The defaults are R3GAN: its network, the relativistic loss, R1 and R2 at every step.

    Args:
        discriminator: a name in DISCRIMINATORS.
        width: channels of its first layer.
        depth: halvings (patch) or blocks per resolution (r3gan); None for the paper's.
        spectral: spectral norm on every layer (patch).
        classes: number of classes it is told, 0 for none.
        loss: a name in LOSSES.
        sliced: the last layer of SAN, whose direction learns by itself.
        penalty: a name in PENALTIES, or "none".
        penalty_weight: gamma, halved as in the papers, of squared gradients; lambda of gradient_penalty. R3GAN: 0.05
            for photos of 32 pixels, 2 for faces of 64, 150 for faces of 256, less late in the training.
        penalty_every: steps from one penalty to the next, which is as many times as heavy.
        entropy_weight: what the generator is paid for new samples (see `entropy`), 0 for nothing.
        weight_clip: largest absolute weight, 0 for no limit. WGAN: 0.01.
        augment: names in OPERATIONS, applied to what the discriminator sees.
        augment_probability: of each; where it adapts, where it starts.
        adaptive: whether the probability follows the discriminator's confidence.
        noise: Diffusion-GAN's noise, whose length follows the same.
        target: mean sign of real samples' margins that augmentation and noise hold.
        ramp_images: images over which either would go from nothing to full.
    """

    discriminator: str = "r3gan"
    width: int = 64
    depth: int | None = None
    spectral: bool = False
    classes: int = 0
    loss: str = "relativistic"
    sliced: bool = False
    penalty: str = "zero_centered"
    penalty_weight: float = 1.0
    penalty_every: int = 1
    entropy_weight: float = 0.0
    weight_clip: float = 0.0
    augment: tuple[str, ...] = ()
    augment_probability: float = 0.0
    adaptive: bool = False
    noise: bool = False
    target: float = 0.6
    ramp_images: int = 500_000

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("discriminator", self.discriminator, set(DISCRIMINATORS)),
            ("adversarial loss", self.loss, set(LOSSES)),
            ("penalty", self.penalty, {*PENALTIES, NO_PENALTY}),
            *(("augmentation", name, set(OPERATIONS)) for name in self.augment),
        ):
            if name not in known:
                raise UnknownName(kind, name, known)
        self._check_numbers()
        if self.sliced and (self.classes or self.noise):
            raise RecipeError(
                "adversary.sliced has one direction for all samples; leave adversary.classes and adversary.noise out"
            )
        if self.augment_probability and not self.augment:
            raise RecipeError("adversary.augment_probability is set, but adversary.augment names nothing to apply")
        if self.adaptive and not self.augment:
            raise RecipeError("adversary.adaptive moves a probability, but adversary.augment names nothing to apply")
        if self.augment and not self.adaptive and not self.augment_probability:
            raise RecipeError(
                "adversary.augment is never applied: set adversary.augment_probability or adversary.adaptive"
            )

    def _check_numbers(self) -> None:
        for key, value, low, high in (
            ("width", self.width, 1, None),
            ("classes", self.classes, 0, None),
            ("penalty_weight", self.penalty_weight, 0, None),
            ("penalty_every", self.penalty_every, 1, None),
            ("entropy_weight", self.entropy_weight, 0, None),
            ("weight_clip", self.weight_clip, 0, None),
            # Above this what is augmented leaks into what the generator makes.
            ("augment_probability", self.augment_probability, 0, LEAK_FREE),
            ("target", self.target, -1, 1),
            ("ramp_images", self.ramp_images, 1, None),
        ):
            if not (low <= value and (high is None or value <= high)):
                limits = f"{low} or more" if high is None else f"within {low} and {high}"
                raise RecipeError(f"adversary.{key} is {value:g}; it has to be {limits}")
