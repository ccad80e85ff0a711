"""The slicing last layer (Takida et al. 2024, SAN): the direction and the features of a discriminator learn apart.

A logit is <w, h>. An ordinary loss makes w good enough to separate the two sets, not the direction in which they
differ most. Here w is a scale times a direction of length 1; the loss trains the features along the direction as it
stands, and a Wasserstein term trains the direction on the features as they stand. The generator follows the logits
themselves, whatever the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from compress.adversarial.discriminators.base import Discriminator


class SlicedHead(nn.Module):
    """A last layer with one output whose weight has length 1; made of a convolution or a linear layer as it stands."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if parametrize.is_parametrized(layer, "weight"):
            # A spectral or weight norm of a weight that has length 1 anyway would only hide it.
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        weight, bias = layer.get_parameter("weight").detach(), getattr(layer, "bias", None)
        self.scale = nn.Parameter(weight.norm())
        self.offset = nn.Parameter(torch.zeros(()) if bias is None else bias.detach().reshape(()))
        layer.register_parameter("bias", None)
        self.layer = layer

    @property
    def direction(self) -> Tensor:
        """The weight over its length."""
        weight = self.layer.get_parameter("weight")
        return weight / weight.norm()

    def forward(self, hidden: Tensor) -> Tensor:
        """The logits."""
        return self.scale * self._slice(hidden, self.direction) + self.offset

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The logits twice: with gradient to all but the direction, and with gradient to the direction only."""
        function = self.scale * self._slice(hidden, self.direction.detach()) + self.offset
        return function, self.scale.detach() * self._slice(hidden.detach(), self.direction)

    def _slice(self, hidden: Tensor, direction: Tensor) -> Tensor:
        sliced: Tensor = functional_call(self.layer, {"weight": direction}, (hidden,))
        return sliced


def slice_heads(discriminator: Discriminator) -> None:
    """Replace every head of the discriminator by a sliced one, in place; its logits stay what they were."""
    discriminator.heads = nn.ModuleList(SlicedHead(head) for head in discriminator.heads)


def split_logits(discriminator: Discriminator, samples: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The logits of a sliced discriminator twice, per head: for the loss, and for the direction's Wasserstein term."""
    pairs = zip(discriminator.heads, discriminator.hidden(samples), strict=True)
    splits = [head.split(hidden) for head, hidden in pairs]  # type: ignore[operator]
    return [function for function, _ in splits], [direction for _, direction in splits]
