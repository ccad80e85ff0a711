"""Diffusion-GAN (Wang et al. 2023): real and fake samples are noised alike before the discriminator sees them.

With noise of many strengths the two sets overlap, so that the generator has a gradient even where they are disjoint.
The longest chain T follows the controller from 10 to 1000 steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.adversarial.controller import SignController

SHORTEST, LONGEST = 10, 1000
SLOTS, CLEAN_SLOTS = 64, 32
_FIRST_BETA, _LAST_BETA = 1e-4, 2e-2


class DiffusionNoise(nn.Module):
    """Noises samples by a random number of steps t; the times come from 64 slots, half of which say "no noise".

    Half the samples stay clean on average, so that the discriminator goes on seeing what the generator must make. The
    other slots are drawn in proportion to t: the hard cases first.

    Args:
        controller: its value in [0, 1] says where T stands between 10 and 1000.
        deviation: standard deviation of the noise at the end of an endless chain, for samples in [-1, 1].
    """

    slots: Tensor

    def __init__(self, controller: SignController, deviation: float = 0.05) -> None:
        super().__init__()
        self.controller, self.deviation = controller, deviation
        self.register_buffer("slots", torch.zeros(SLOTS, dtype=torch.long))
        self.draw_slots()

    @property
    def length(self) -> int:
        """T, the largest number of steps, within [10, 1000]."""
        return SHORTEST + round(float(self.controller.value) * (LONGEST - SHORTEST))

    @torch.no_grad()
    def draw_slots(self, generator: torch.Generator | None = None) -> None:
        """Fill the noisy slots with times in 1..T, P(t) proportional to t."""
        weights_T = torch.arange(1, self.length + 1, dtype=torch.float, device=self.slots.device)
        drawn = torch.multinomial(weights_T, SLOTS - CLEAN_SLOTS, replacement=True, generator=generator)
        self.slots[CLEAN_SLOTS:] = drawn + 1

    def update(self, margins: Tensor, images: int) -> None:
        """Let the controller see a batch's margins of real samples, and draw new times where it moved."""
        if self.controller.update(margins, images):
            self.draw_slots()

    def draw_times(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """A number of steps for each of `count` samples: (count,), 0 for no noise."""
        picks = torch.randint(SLOTS, (count,), device=self.slots.device, generator=generator)
        return self.slots[picks]

    def forward(self, samples: Tensor, times_N: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The samples after their numbers of steps: sqrt(a_t) x + sqrt(1 - a_t) deviation eps."""
        betas_T = torch.linspace(_FIRST_BETA, _LAST_BETA, self.length, device=samples.device)
        kept_T = torch.cat([torch.ones(1, device=samples.device), (1 - betas_T).cumprod(0)])
        kept = kept_T[times_N].view(-1, *[1] * (samples.dim() - 1))
        noise = torch.randn(samples.shape, device=samples.device, dtype=samples.dtype, generator=generator)
        return kept.sqrt() * samples + (1 - kept).sqrt() * self.deviation * noise
