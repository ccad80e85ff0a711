"""Ops that move values: joins, splits, slices, look-ups, permutations, repeats."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, SIGNAL, TOKENS, VISION, VOCODER, Made, case

_PICTURES = (VISION, GENERATOR, DIFFUSION)
_KINDS = (VISION, DIFFUSION)


class Lookup(nn.Module):
    """Values picked by constant numbers: `how` is "index_select", "gather" or "index"."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("places", torch.tensor([3, 0, 7, 7, 1]))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> (1, 5, H, W)."""
        places = self.get_buffer("places")
        if self.how == "index_select":
            return x.index_select(1, places)
        if self.how == "gather":
            return x.gather(1, places.reshape(1, 5, 1, 1).expand(x.shape[0], 5, x.shape[2], x.shape[3]))
        return x[:, places]


class Slots(nn.Module):
    """Values written into a part of a tensor of zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> (1, 8, H + 2, W + 2)."""
        canvas = x.new_zeros(x.shape[0], 8, x.shape[2] + 2, x.shape[3] + 2)
        canvas[:, :, 1:-1, 1:-1] = x
        return canvas


CASES = (
    case("cat", lambda x, y: torch.cat([x, y], 1), IMAGE, IMAGE),
    case("cat_three", lambda x, y, z: torch.cat([x, y, z], 1), IMAGE, (1, 4, 12, 12), (1, 2, 12, 12), kinds=_PICTURES),
    case("cat_width", lambda x, y: torch.cat([x, y], 3), IMAGE, IMAGE, kinds=(GENERATOR,)),
    case("cat_with_itself", lambda x: torch.cat([x, x.relu()], 1), IMAGE, kinds=(GENERATOR,)),
    case("stack", lambda x, y: torch.stack([x, y], 1).flatten(1, 2), IMAGE, IMAGE, kinds=(GENERATOR, VOCODER)),
    case("split", lambda x: torch.add(*x.split(4, 1)), IMAGE),
    case("split_unequal", lambda x: x.split([3, 5], 1)[1], IMAGE, kinds=_PICTURES),
    case("chunk", lambda x: torch.mul(*x.chunk(2, 1)), IMAGE),
    case("unbind", lambda x: x.reshape(-1, 2, 4, 12, 12).unbind(1)[1], IMAGE, kinds=_KINDS),
    case("slice", lambda x: x[:, 2:6], IMAGE),
    case("slice_pixels", lambda x: x[:, :, 1:-1, 2:], IMAGE, kinds=_PICTURES),
    case("slice_step", lambda x: x[:, :, ::2, 1::2], IMAGE, kinds=(VISION,)),
    case("narrow", lambda x: x.narrow(2, 3, 6), IMAGE, kinds=_PICTURES),
    case("select", lambda x: x[:, 0], TOKENS, kinds=(VISION,), tokens=True),
    case("index_select", Made(lambda: Lookup("index_select")), IMAGE, kinds=_PICTURES),
    case("gather", Made(lambda: Lookup("gather")), IMAGE, kinds=_KINDS),
    case("index", Made(lambda: Lookup("index")), IMAGE, kinds=_KINDS),
    case("roll", lambda x: torch.roll(x, 3, 2), IMAGE, kinds=(VISION,)),
    case("flip", lambda x: torch.flip(x, (3,)), IMAGE, kinds=(VISION, VOCODER)),
    case("permute", lambda x: x.permute(0, 2, 3, 1).reshape(-1, 144, 8), IMAGE, kinds=_PICTURES, tokens=True),
    case("transpose", lambda x: x.transpose(1, 2), SIGNAL, kinds=(VOCODER,)),
    case("reshape", lambda x: x.reshape(-1, 4, 24, 12), IMAGE),
    case("flatten", lambda x: x.flatten(1), IMAGE, kinds=(VISION,)),
    case("unflatten", lambda x: x.unflatten(1, (2, 4)).flatten(1, 2), IMAGE, kinds=_PICTURES),
    case("squeeze", lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1), IMAGE, kinds=(VISION,)),
    case("unsqueeze", lambda x: x.unsqueeze(-1), SIGNAL, kinds=(VOCODER,)),
    case("expand", lambda x: x.expand(-1, -1, 6, 5), (1, 8, 1, 1), kinds=_PICTURES),
    case("repeat", lambda x: x.repeat(1, 2, 1, 1), IMAGE, kinds=(GENERATOR,)),
    case("repeat_interleave", lambda x: x.repeat_interleave(2, 2), IMAGE, kinds=(GENERATOR, VOCODER)),
    case("unfold", lambda x: F.unfold(x, 3, padding=1), IMAGE, kinds=(VISION, GENERATOR)),
    case("fold", lambda x: F.fold(x, (12, 12), 2, stride=2), (1, 8, 36), kinds=(VISION, GENERATOR)),
    case("write_into_zeros", Made(Slots), IMAGE, kinds=(GENERATOR,)),
    case("tril", lambda x: torch.tril(x), (1, 8, 12, 12), kinds=(DIFFUSION,)),
    case("topk", lambda x: x.topk(3, -1).values, TOKENS, kinds=(VISION,), tokens=True),
    case("sort", lambda x: x.sort(-1).values, TOKENS, kinds=(VISION,), tokens=True),
)
