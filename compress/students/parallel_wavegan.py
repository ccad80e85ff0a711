"""Parallel WaveGAN: Yamamoto et al. 2020, "Parallel WaveGAN: A fast waveform generation model based on GANs".

A vocoder: a non-causal WaveNet that makes all samples at once. The published one shapes noise into sound; this one
starts from a rough wave that a linear layer makes of each frame, so that it gives one sound for one input, as its
teacher does. From nothing but stretched frames it could not: where they stand still, so would the sound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 3
_CONTEXT = 2  # frames to each side that the first convolution looks at


class Stretch(nn.Module):
    """Frames repeated `factor` times and smoothed along time, each channel by a filter of its own, at first a mean."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.smooth = nn.Conv1d(channels, channels, 2 * factor + 1, padding=factor, groups=channels, bias=False)
        nn.init.constant_(self.smooth.weight, 1 / (2 * factor + 1))

    def forward(self, x_NCT: Tensor) -> Tensor:
        """(N, C, factor T)."""
        smoothed: Tensor = self.smooth(F.interpolate(x_NCT, scale_factor=float(self.factor)))
        return smoothed


class Layer(nn.Module):
    """A gated dilated convolution that also hears the stretched frames; what it adds to the sound, and what goes on."""

    def __init__(self, channels: int, features: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(channels, 2 * channels, KERNEL, padding=dilation, dilation=dilation)
        self.condition = nn.Conv1d(features, 2 * channels, 1, bias=False)
        self.add, self.go_on = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x_NCS: Tensor, frames_NFS: Tensor) -> tuple[Tensor, Tensor]:
        """(the layer's share of the output, its input plus what it found)."""
        values, gates = (self.dilated(x_NCS) + self.condition(frames_NFS)).chunk(2, 1)
        found = values.tanh() * gates.sigmoid()
        return self.add(found), (x_NCS + self.go_on(found)) * math.sqrt(0.5)


class ParallelWaveGan(nn.Module):
    """Feature frames (N, features, T) to sound (N, 1, S), S = T times the product of `stretches`.

    Args:
        features: channels of a frame, such as mel bands.
        stretches: factors from frames to samples, one after the other.
        channels: width of the WaveNet.
        layers: how many there are; the dilation doubles from layer to layer and starts anew with each cycle.
        cycles: how often; it divides `layers`.
    """

    def __init__(
        self,
        features: int = 80,
        stretches: Sequence[int] = (4, 4, 4, 4),
        channels: int = 64,
        layers: int = 30,
        cycles: int = 3,
    ) -> None:
        super().__init__()
        self.dilations = [2 ** (layer % (layers // cycles)) for layer in range(layers)]
        self.look = nn.Conv1d(features, features, 2 * _CONTEXT + 1, padding=_CONTEXT, bias=False)
        self.stretch = nn.ModuleList(Stretch(features, factor) for factor in stretches)
        samples = math.prod(stretches)
        self.wave = nn.ConvTranspose1d(features, 1, samples, stride=samples)
        self.first = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(Layer(channels, features, dilation) for dilation in self.dilations)
        self.mix, self.last = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, 1, 1)
        self.apply(_start)

    @property
    def context_frames(self) -> int:
        """Frames on each side that a frame's sound depends on: what a stream has to keep and to wait for."""
        reach = sum(self.dilations) * (KERNEL // 2)
        for stretch in reversed(self.stretch):
            assert isinstance(stretch, Stretch)
            reach = math.ceil((reach + stretch.factor) / stretch.factor)
        return reach + _CONTEXT

    def forward(self, frames_NFT: Tensor) -> Tensor:
        """The sound, not clamped."""
        frames = self.look(frames_NFT)
        x = self.first(self.wave(frames))
        for stretch in self.stretch:
            frames = stretch(frames)
        total, x = self.layers[0](x, frames)
        for layer in self.layers[1:]:
            share, x = layer(x, frames)
            total = total + share  # one map is kept, not one per layer
        mean = total * math.sqrt(1 / len(self.layers))
        sound: Tensor = self.last(self.mix(mean.relu()).relu())
        return sound


def _start(module: nn.Module) -> None:
    """As published: full-size weights, no offsets; the stretching filters stay the means that they are."""
    if isinstance(module, nn.Conv1d) and module.groups == 1:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
