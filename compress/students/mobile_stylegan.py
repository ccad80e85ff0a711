"""MobileStyleGAN: Belousov 2021, "A Lightweight Convolutional Neural Network for High-Fidelity Image Synthesis".

A StyleGAN2 for phones. It modulates what goes into a convolution instead of the convolution's weights, which then are
the same for all samples and separable; the demodulation is a constant that a trace folds into them; maps grow by the
inverse Haar transform, without weights; and the image comes out as wavelet coefficients. The noise that StyleGAN2 adds
to every map is left out: a file on a phone gives the same image for the same latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.errors import ModelError

SLOPE = 0.2
GAIN = 2**0.5  # what a leaky rectifier takes from the scale, given back by the convolution before it
EPS = 1e-8


def haar(x_NCHW: Tensor) -> Tensor:
    """The orthonormal Haar coefficients (N, 4 C, H / 2, W / 2) of maps with even sides.

    The first C channels are twice the means of 2x2 pixels; the others the differences along x, along y and along both.
    """
    a, b, c, d = F.pixel_unshuffle(x_NCHW, 2).unflatten(1, (-1, 4)).unbind(2)
    return torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], 1) * 0.5


def inverse_haar(coefficients_NCHW: Tensor) -> Tensor:
    """The maps (N, C / 4, 2 H, 2 W) that have these Haar coefficients: sums and differences, no weights."""
    mean, along_x, along_y, along_both = (coefficients_NCHW * 0.5).chunk(4, 1)
    left, right = mean + along_x, mean - along_x
    tilt, other = along_y + along_both, along_y - along_both
    pixels = torch.stack([left + tilt, right + other, left - tilt, right - other], 2)
    return F.pixel_shuffle(pixels.flatten(1, 2), 2)


class Modulated(nn.Module):
    """A depthwise-separable convolution whose input channels are scaled by the style, and a leaky rectifier.

    Scaling the input is scaling the weights along their input channels: without demodulation StyleGAN2 computes the
    same, with weights of its own for each sample. The demodulation divides by the norm of the weights at an average
    style, which is learned with them.
    """

    def __init__(self, before: int, after: int, latent: int, kernel: int = 3) -> None:
        super().__init__()
        self.style = _style(latent, before)
        self.average_style = nn.Parameter(torch.ones(before))
        self.depthwise = nn.Conv2d(before, before, kernel, padding=kernel // 2, groups=before, bias=False)
        self.pointwise = nn.Conv2d(before, after, 1)
        nn.init.normal_(self.depthwise.weight)
        nn.init.normal_(self.pointwise.weight)

    def demodulation(self) -> Tensor:
        """One factor per output channel (O, 1, 1, 1): white inputs at the average style give outputs of one size."""
        taps_I = self.depthwise.weight.square().sum((1, 2, 3))
        power_O = (self.pointwise.weight[:, :, 0, 0].square() * (self.average_style.square() * taps_I)).sum(1)
        return GAIN * torch.rsqrt(power_O + EPS).view(-1, 1, 1, 1)

    def forward(self, x_NCHW: Tensor, latent_NL: Tensor) -> Tensor:
        """Maps (N, O, H, W)."""
        y = self.depthwise(x_NCHW * self.style(latent_NL)[:, :, None, None])
        y = F.conv2d(y, self.pointwise.weight * self.demodulation(), self.pointwise.bias)
        return F.leaky_relu(y, SLOPE)


class Block(nn.Module):
    """Twice the side by the inverse Haar transform, which leaves a quarter of the channels; then two convolutions."""

    def __init__(self, before: int, after: int, latent: int) -> None:
        super().__init__()
        self.style = _style(latent, before)
        self.conv1 = Modulated(before // 4, after, latent)
        self.conv2 = Modulated(after, after, latent)

    def forward(self, x_NCHW: Tensor, latent_NL: Tensor) -> Tensor:
        """Maps of twice the side."""
        y = inverse_haar(x_NCHW * self.style(latent_NL)[:, :, None, None])
        y = self.conv1(y, latent_NL)
        y = self.conv2(y, latent_NL)
        return y


class Mapping(nn.Module):
    """StyleGAN's mapping network: a latent, brought to unit size, through layers that keep its width."""

    def __init__(self, latent: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(latent, latent) for _ in range(layers))

    def forward(self, z_NL: Tensor) -> Tensor:
        """The intermediate latents (N, L)."""
        w = z_NL * torch.rsqrt(z_NL.square().mean(1, keepdim=True) + EPS)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), SLOPE)
        return w


class MobileStyleGan(nn.Module):
    """Latents (N, latent) to images (N, colours, side, side) around [-1, 1], side = start_px * 2^len(channels).

    Args:
        latent: width of the latents, of the mapping network and of what modulates.
        channels: width at each resolution, from coarse to fine; all but the last are multiples of four.
        start_px: side of the learned map it begins with.
        mapping: layers of the mapping network; a teacher's own fits as `mapping.layers` (see the distillation method).
        colours: channels of the image.
    """

    def __init__(
        self,
        latent: int = 512,
        channels: Sequence[int] = (512, 512, 512, 512, 512, 256, 128, 64),
        start_px: int = 4,
        mapping: int = 8,
        colours: int = 3,
    ) -> None:
        super().__init__()
        for width in channels[:-1]:
            if width % 4:
                raise ModelError(
                    f"MobileStyleGan: {width} channels are not four parts of a transform; take multiples of 4"
                )
        self.mapping = Mapping(latent, mapping)
        self.constant = nn.Parameter(torch.randn(1, channels[0], start_px, start_px))
        self.first = Modulated(channels[0], channels[0], latent)
        self.blocks = nn.ModuleList(Block(before, after, latent) for before, after in pairwise(channels))
        self.style = _style(latent, channels[-1])
        self.to_wavelets = nn.Conv2d(channels[-1], 4 * colours, 1)

    def forward(self, z_NL: Tensor) -> Tensor:
        """The images, not clamped."""
        return inverse_haar(self.wavelets(z_NL))

    def wavelets(self, z_NL: Tensor) -> Tensor:
        """The images' Haar coefficients (N, 4 colours, side / 2, side / 2)."""
        w_NL = self.mapping(z_NL)
        y = self.first(self.constant, w_NL)
        for block in self.blocks:
            y = block(y, w_NL)
        coefficients: Tensor = self.to_wavelets(y * self.style(w_NL)[:, :, None, None])
        return coefficients


def _style(latent: int, channels: int) -> nn.Linear:
    """The layer from a latent to a factor per channel, which starts around 1."""
    layer = nn.Linear(latent, channels)
    nn.init.ones_(layer.bias)
    return layer
