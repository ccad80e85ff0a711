"""One controller for augmentation strength and for noise length: it holds the discriminator at a set confidence.

Karras et al. (2020, StyleGAN2-ADA) and Wang et al. (2023, Diffusion-GAN): E sign D(real) near 1 means that the
discriminator knows the training samples by heart; then its task is made harder, else easier.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Up to this probability the generator cannot gain by producing augmented samples itself; above it they leak into what
# it makes (Karras et al. 2020).
LEAK_FREE = 0.8


class SignController(nn.Module):
    """Holds `value` in [0, limit]: up while E sign(margin of real samples) is above the target, down while below.

    Args:
        target: the mean sign to hold, 0.6 in both papers.
        ramp_images: images over which the value would go from 0 to 1 if it only rose.
        every: batches whose signs are averaged before each move.
        limit: the largest value.
        start: the value before the first move.
    """

    value: Tensor
    sum_of_signs: Tensor
    images: Tensor
    batches: Tensor

    def __init__(
        self, target: float = 0.6, ramp_images: int = 500_000, every: int = 4, limit: float = 1.0, start: float = 0.0
    ) -> None:
        super().__init__()
        self.target, self.ramp_images, self.every, self.limit = target, ramp_images, every, limit
        for name, first in (("value", min(start, limit)), ("sum_of_signs", 0.0), ("images", 0.0), ("batches", 0.0)):
            # Buffers, so that a resumed training goes on from where it was.
            self.register_buffer(name, torch.tensor(first))

    @torch.no_grad()
    def update(self, margins: Tensor, images: int) -> bool:
        """Take note of one batch's margins of real samples; True where the value was due to move."""
        self.sum_of_signs += margins.float().sign().mean()
        self.images += images
        self.batches += 1
        if int(self.batches) < self.every:
            return False
        direction = (self.sum_of_signs / self.batches - self.target).sign()
        self.value.add_(direction * self.images / self.ramp_images).clamp_(0.0, self.limit)
        for total in (self.sum_of_signs, self.images, self.batches):
            total.zero_()
        return True
