"""Pads: zeros, constants, mirrored, repeated and wrapped borders; unequal sides; cropping."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, VISION, VOCODER, VOLUME, Case, case


def _pad(name: str, shape: tuple[int, ...], sides: tuple[int, ...], kinds: tuple[str, ...], **how: Any) -> Case:
    return case(name, partial(F.pad, pad=sides, **how), shape, kinds=kinds)


_PICTURES = (VISION, GENERATOR, DIFFUSION)

CASES = (
    _pad("pad_zero", IMAGE, (1, 1, 1, 1), _PICTURES),
    _pad("pad_zero_unequal", IMAGE, (0, 1, 2, 3), _PICTURES),
    _pad("pad_constant", IMAGE, (1, 1, 1, 1), (GENERATOR,), value=-1.0),
    _pad("pad_channels", IMAGE, (0, 0, 0, 0, 2, 2), (VISION,)),
    _pad("pad_reflect", IMAGE, (3, 3, 3, 3), (GENERATOR,), mode="reflect"),
    _pad("pad_reflect_unequal", IMAGE, (0, 1, 2, 3), (GENERATOR,), mode="reflect"),
    _pad("pad_replicate", IMAGE, (1, 2, 1, 2), (GENERATOR, VISION), mode="replicate"),
    _pad("pad_circular", IMAGE, (2, 2, 2, 2), (GENERATOR, DIFFUSION), mode="circular"),
    _pad("pad_crop", IMAGE, (-1, -2, -1, -1), (GENERATOR, VISION)),
    _pad("pad_zero_1d", SIGNAL, (4, 0), (VOCODER,)),
    _pad("pad_reflect_1d", SIGNAL, (3, 3), (VOCODER,), mode="reflect"),
    _pad("pad_replicate_1d", SIGNAL, (5, 5), (VOCODER,), mode="replicate"),
    _pad("pad_zero_3d", VOLUME, (1, 1, 1, 1, 2, 0), (DIFFUSION,)),
)
