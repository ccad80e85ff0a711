"""Discriminators of sound (N, 1, T): HiFi-GAN's (Kong et al. 2020) and Parallel WaveGAN's (Yamamoto et al. 2020).

Weight norm throughout, as in both papers. Their paddings reflect, written as slices, whose gradients add up in the
same order everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from compress.adversarial.discriminators.base import Discriminator, activated
from compress.errors import DataError, RecipeError

PERIODS = (2, 3, 5, 7, 11)
_POOLINGS = 3

# Multi-scale: width (times the first layer's 4), kernel, stride, groups; HiFi-GAN's 128..1024 at width 32.
_SCALE_LAYERS = (
    (4, 15, 1, 1),
    (4, 41, 2, 4),
    (8, 41, 2, 16),
    (16, 41, 4, 16),
    (32, 41, 4, 16),
    (32, 41, 1, 16),
    (32, 5, 1, 1),
)
_DILATIONS = (1, 1, 2, 3, 4, 5, 6, 7, 8)


class MultiPeriod(Discriminator):
    """Each tower sees every p-th sample as a column: (N, 1, T / p, p) with kernels along time only, p in PERIODS.

    Args:
        in_channels: 1.
        width: channels of a tower's first layer; the widest has 32 times as many.
    """

    def __init__(self, in_channels: int, width: int = 32, classes: int = 0, timed: bool = False) -> None:
        widths = [width, 4 * width, 16 * width, 32 * width, 32 * width]
        towers, heads = [], []
        for _ in PERIODS:
            convolutions = [
                weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), padding=(2, 0)))
                for before, after, stride in zip([in_channels, *widths], widths, (3, 3, 3, 3, 1), strict=False)
            ]
            towers.append(nn.Sequential(*map(activated, convolutions)))
            heads.append(weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))))
        super().__init__(towers, heads, [widths[-1]] * len(PERIODS), classes, timed)

    def inputs(self, x: Tensor) -> list[Tensor]:
        """The waveform folded at each period."""
        return _folded(x)


class MultiScale(Discriminator):
    """Three towers: on the waveform (spectral norm), and on it pooled by 2 and by 4 (weight norm); width times 32."""

    def __init__(self, in_channels: int, width: int = 32, classes: int = 0, timed: bool = False) -> None:
        if width % 4:
            raise RecipeError(f"adversary.width {width} does not divide by 4, as the groups of this discriminator need")
        towers, heads = [], []
        for tower in range(_POOLINGS):
            norm = weight_norm if tower else spectral_norm
            layers, before = [], in_channels
            for times, kernel, stride, groups in _SCALE_LAYERS:
                layer = nn.Conv1d(before, times * width, kernel, stride, padding=kernel // 2, groups=groups)
                layers.append(activated(norm(layer)))
                before = times * width
            towers.append(nn.Sequential(*layers))
            heads.append(norm(nn.Conv1d(before, 1, 3, padding=1)))
        super().__init__(towers, heads, [before] * _POOLINGS, classes, timed)

    def inputs(self, x: Tensor) -> list[Tensor]:
        """The waveform, and twice its pooled self."""
        return _pooled(x)


class HiFi(Discriminator):
    """The multi-period and the multi-scale discriminators together, as HiFi-GAN trains with them."""

    def __init__(self, in_channels: int, width: int = 32, classes: int = 0, timed: bool = False) -> None:
        periods = MultiPeriod(in_channels, width, classes, timed)
        pooled = MultiScale(in_channels, width, classes, timed)
        towers = [*periods.towers, *pooled.towers]
        super().__init__(towers, [*periods.heads, *pooled.heads], [32 * width] * len(towers), classes, timed)  # type: ignore[arg-type]

    def inputs(self, x: Tensor) -> list[Tensor]:
        """The folded waveforms, then the pooled ones."""
        return _folded(x) + _pooled(x)


class Dilated(Discriminator):
    """Parallel WaveGAN's: ten non-causal convolutions of kernel 3, dilations 1 to 8, one logit per sample of sound."""

    def __init__(self, in_channels: int, width: int = 64, classes: int = 0, timed: bool = False) -> None:
        befores = [in_channels] + [width] * (len(_DILATIONS) - 1)
        convolutions = [
            weight_norm(nn.Conv1d(before, width, 3, padding=dilation, dilation=dilation))
            for before, dilation in zip(befores, _DILATIONS, strict=True)
        ]
        head = weight_norm(nn.Conv1d(width, 1, 3, padding=1))
        super().__init__([nn.Sequential(*map(activated, convolutions))], [head], [width], classes, timed)


def fold(x_NCT: Tensor, period: int) -> Tensor:
    """The waveform as (N, C, ceil(T / p), p): reflected at its end up to a whole number of periods.

    Raises:
        DataError: the samples are no waveforms, or are shorter than a period.
    """
    if x_NCT.dim() != 3 or x_NCT.shape[2] < 2 * period:
        raise DataError(f"a multi-period discriminator takes (N, 1, T), T at least {2 * period}, not {x_NCT.shape}")
    missing = -x_NCT.shape[2] % period
    end = x_NCT[..., -1 - missing : -1].flip(-1)
    padded = torch.cat([x_NCT, end], dim=-1) if missing else x_NCT
    return padded.unflatten(2, (-1, period))


def _folded(x: Tensor) -> list[Tensor]:
    return [fold(x, period) for period in PERIODS]


def _pooled(x: Tensor) -> list[Tensor]:
    views = [x]
    while len(views) < _POOLINGS:
        views.append(F.avg_pool1d(views[-1], 4, 2, padding=2))
    return views
