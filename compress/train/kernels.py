"""Whether this machine multiplies a network's convolutions rightly in bfloat16: tried, not believed.

oneDNN 3.12, which torch 2.13 has, computes some of them wrongly on processors with AMX, without a word: those of few
channels and kernels of 8 or more, and of kernels as long as their stride. A vocoder's gradients pass through such.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ALIKE = 0.99
"""Cosine of right results to those in float32; rounding to 8 bits leaves more than .9999."""
SIDES = {1: 64, 2: 20, 3: 8}
"""Of the inputs that are tried, by dimensions: as small as a real one may be."""


def wrong_in_bfloat16(networks: Iterable[nn.Module]) -> list[str]:
    """The convolutions of networks whose output or gradient is wrong in bfloat16 on this CPU, in words."""
    found = []
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, (*_PLAIN, *_TRANSPOSED)) and _is_wrong(_key(layer)):
                words = f"{type(layer).__name__}({layer.in_channels}, {layer.out_channels}, {layer.kernel_size}"
                found.append(f"{words}, stride {layer.stride})")
    return list(dict.fromkeys(found))


def _key(layer: Any) -> tuple[Any, ...]:
    """All that decides which kernel computes a layer, but the size of its input."""
    channels = (layer.in_channels, layer.out_channels, layer.groups)
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return isinstance(layer, _TRANSPOSED), *channels, *window, getattr(layer, "output_padding", None)


@lru_cache(maxsize=4096)
def _is_wrong(key: tuple[Any, ...]) -> bool:
    """Whether a convolution's output or its input's gradient differ from those in float32, on random values."""
    transposed, inputs, outputs, groups, kernel, stride, padding, dilation, more = key
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    settings |= {"output_padding": more} if transposed else {}
    generator = torch.Generator().manual_seed(0)
    sides = [
        max(SIDES[len(kernel)], 2 * (size - 1) * spread + 3) for size, spread in zip(kernel, dilation, strict=True)
    ]
    name = f"conv_transpose{len(kernel)}d" if transposed else f"conv{len(kernel)}d"
    shape = (inputs, outputs // groups) if transposed else (outputs, inputs // groups)
    x = torch.randn(2, inputs, *sides, generator=generator)
    weight = torch.randn(*shape, *kernel, generator=generator)

    def run(kind: torch.dtype) -> list[Tensor]:
        given = x.to(kind).requires_grad_()
        with torch.autocast("cpu", enabled=False), torch.enable_grad():
            made = getattr(F, name)(given, weight.to(kind), **settings)
            wanted = torch.randn(made.shape, generator=torch.Generator().manual_seed(1)).to(kind)
            (gradient,) = torch.autograd.grad(made, given, wanted)
        return [made.detach().float(), gradient.float()]

    pairs = zip(run(torch.float32), run(torch.bfloat16), strict=True)
    return any(float(F.cosine_similarity(right.flatten(), other.flatten(), dim=0)) < ALIKE for right, other in pairs)
