"""Transposed convolutions in all forms: the layers that generators, segmenters and vocoders upsample with."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations

from compress.conformance.case import DIFFUSION, GENERATOR, SIGNAL, VISION, VOCODER, VOLUME, bare

_WIDE = (1, 8, 6, 9)
_PICTURES = (VISION, GENERATOR, DIFFUSION)

CASES = (
    bare("conv_transpose2d", lambda: nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), _WIDE, kinds=_PICTURES),
    bare("conv_transpose2d_stride_1", lambda: nn.ConvTranspose2d(8, 6, 3, padding=1), _WIDE, kinds=_PICTURES),
    bare("conv_transpose2d_unpadded", lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), _WIDE, kinds=_PICTURES),
    bare("conv_transpose2d_no_bias", lambda: nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), _WIDE, kinds=_PICTURES),
    bare(
        "conv_transpose2d_output_padding",
        lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1),
        _WIDE,
        kinds=_PICTURES,
    ),
    bare(
        "conv_transpose2d_grouped",
        lambda: nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1, groups=4),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv_transpose2d_grouped_output_padding",
        lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv_transpose2d_depthwise",
        lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1, groups=8, bias=False),
        _WIDE,
        kinds=(GENERATOR, VISION),
    ),
    bare(
        "conv_transpose2d_dilated",
        lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, padding=2, dilation=2),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv_transpose2d_kernel_4x2",
        lambda: nn.ConvTranspose2d(8, 6, (4, 2), stride=(2, 1), padding=(1, 0)),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare(
        "conv_transpose2d_batch_norm_relu",
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6, eps=1e-2), nn.ReLU()),
        _WIDE,
        kinds=_PICTURES,
    ),
    bare(
        "conv_transpose2d_grouped_batch_norm",
        lambda: nn.Sequential(nn.ConvTranspose2d(8, 12, 4, 2, 1, groups=4, bias=False), nn.BatchNorm2d(12, eps=1e-2)),
        _WIDE,
        kinds=(GENERATOR,),
    ),
    bare("conv_transpose1d", lambda: nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1), SIGNAL, kinds=(VOCODER,)),
    bare(
        "conv_transpose1d_output_padding",
        lambda: nn.ConvTranspose1d(8, 6, 5, stride=3, padding=1, output_padding=1),
        SIGNAL,
        kinds=(VOCODER,),
    ),
    bare(
        "conv_transpose1d_grouped",
        lambda: nn.ConvTranspose1d(8, 12, 4, stride=2, padding=1, groups=4),
        SIGNAL,
        kinds=(VOCODER,),
    ),
    bare(
        "conv_transpose1d_weight_norm",
        lambda: parametrizations.weight_norm(nn.ConvTranspose1d(8, 6, 16, stride=8, padding=4)),
        SIGNAL,
        kinds=(VOCODER,),
    ),
    bare(
        "conv_transpose3d",
        lambda: nn.ConvTranspose3d(4, 3, 4, stride=2, padding=1),
        VOLUME,
        kinds=(DIFFUSION,),
    ),
)
