"""LadaGAN: is additive attention as good as that of all pairs of positions, in a small GAN of digits?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.adversarial import AdversarySettings, make_adversary
from compress.bench.beds import digits
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import train_gan
from compress.students import LadaGan
from compress.students.ladagan import AdditiveAttention

_STEPS, _LATENT, _HEADS = 300, 16, 2


class _AllPairs(nn.Module):
    """Attention of all pairs, with as many weights in its layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Tokens of the same shape."""
        query, key, value = (
            layer(x_NTD).unflatten(2, (_HEADS, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def _distance(seed: int, additive: bool) -> float:
    real = digits.digits()[0].images
    with seeded(seed):
        generator = LadaGan(_LATENT, (64, 32), _HEADS, start_px=4, colours=1)
        for block in generator.blocks if not additive else ():
            assert isinstance(block.attention, AdditiveAttention)
            block.attention = _AllPairs(block.attention.out.in_features)
        train_gan(
            generator,
            make_adversary(AdversarySettings(width=16, depth=1), 1, digits.SIDE),
            lambda count, randomness: real[torch.randint(len(real), (count,), generator=randomness)],
            seed=seed,
            steps=_STEPS,
            latent=_LATENT,
            batch_size=32,
            average=0.95,
        )
        with torch.no_grad():
            return digits.distance(generator(torch.randn(digits.HELD_OUT, _LATENT)))


CASES = (
    Case(
        method="ladagan",
        name="additive attention",
        question=(
            "A small LadaGAN learns to draw digits against R3GAN's discriminator: with additive attention, against "
            f"attention of all pairs with the same layers, whose cost grows with the square; {_STEPS} steps."
        ),
        metric="Fréchet distance to held-out digits, on a classifier's features",
        unit="",
        higher_is_better=False,
        card="at least as good as attention of all pairs at equal cost.",
        run=lambda seed: (_distance(seed, True), _distance(seed, False)),
    ),
)
