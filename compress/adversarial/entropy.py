"""Against dropped modes: the generator is paid for the entropy of what it makes (Liu et al. 2022, MEE).

Entropy is estimated where samples are near if they look alike: in the discriminator's code, the mean of what its heads
read. The penalty `manifold` keeps that code smooth enough to measure distances in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REPLAY = 1024
_FLOOR = 1e-12


def code(hidden: list[Tensor]) -> Tensor:
    """One row per sample out of what the heads read: the means over positions, tower by tower."""
    return torch.cat([h.flatten(2).mean(2) if h.dim() > 2 else h for h in hidden], dim=1).float()


class ReplayEntropy(nn.Module):
    """The estimate of the nearest neighbour, against the codes of the last 1024 samples, which it keeps as a buffer."""

    codes_RC: Tensor
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("codes_RC", torch.zeros(REPLAY, width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, codes_NC: Tensor) -> Tensor:
        """The entropy, up to a factor and a constant: log E min d^2 to the codes kept; 0 while none are kept."""
        kept = self.codes_RC[: int(self.seen.clamp(max=REPLAY))]
        if not len(kept):
            return codes_NC.new_zeros(())
        squared = (codes_NC[:, None] - kept).square().sum(2)
        return (squared.amin(1).mean() + _FLOOR).log()

    @torch.no_grad()
    def remember(self, codes_NC: Tensor) -> None:
        """Keep the codes in place of the oldest."""
        rows = (self.seen + torch.arange(len(codes_NC), device=codes_NC.device)) % REPLAY
        self.codes_RC[rows] = codes_NC
        self.seen += len(codes_NC)
