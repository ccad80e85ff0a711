"""Reductions over height and width, over channels, over the last axis."""

from __future__ import annotations

import torch
from torch.linalg import vector_norm

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, TOKENS, VISION, VOCODER, case

_PICTURES = (VISION, GENERATOR, DIFFUSION)
_PLANE = (2, 3)

CASES = (
    case("mean_plane", lambda x: x.mean(_PLANE), IMAGE, kinds=_PICTURES),
    case("mean_plane_kept", lambda x: x.mean(_PLANE, keepdim=True), IMAGE, kinds=_PICTURES),
    case("mean_channels", lambda x: x.mean(1, keepdim=True), IMAGE, kinds=_PICTURES),
    case("mean_tokens", lambda x: x.mean(1), TOKENS, kinds=(VISION,), tokens=True),
    case("mean_last", lambda x: x.mean(-1, keepdim=True), TOKENS, kinds=_PICTURES, tokens=True),
    case("mean_time", lambda x: x.mean(2), SIGNAL, kinds=(VOCODER,)),
    case("sum_plane", lambda x: x.sum(_PLANE, keepdim=True), IMAGE, kinds=_PICTURES),
    case("sum_channels", lambda x: x.sum(1, keepdim=True), IMAGE, kinds=_PICTURES),
    case("amax_plane", lambda x: x.amax(_PLANE, keepdim=True), IMAGE, kinds=(VISION,)),
    case("amax_channels", lambda x: x.amax(1, keepdim=True), IMAGE, kinds=(VISION,)),
    case("amin_channels", lambda x: x.amin(1, keepdim=True), IMAGE, kinds=(VISION,)),
    case("max_last", lambda x: x.max(-1).values, TOKENS, kinds=(VISION,), tokens=True),
    case("var_plane", lambda x: x.var(_PLANE, keepdim=True, unbiased=False), IMAGE, kinds=(GENERATOR,)),
    case("var_plane_unbiased", lambda x: x.var(_PLANE, keepdim=True), IMAGE, kinds=(GENERATOR,)),
    case("std_channels", lambda x: x.std(1, keepdim=True), IMAGE, kinds=(GENERATOR,)),
    case("vector_norm", lambda x: vector_norm(x, dim=-1, keepdim=True), TOKENS, kinds=(VISION,), tokens=True),
    case("logsumexp", lambda x: torch.logsumexp(x, -1, keepdim=True), TOKENS, kinds=(VISION,), tokens=True),
    case("cumsum", lambda x: torch.cumsum(x, 2), SIGNAL, kinds=(VOCODER,)),
)
