"""Attention as one op and written out, with and without masks; embeddings; products of matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.conformance.case import DIFFUSION, GENERATOR, IMAGE, TOKENS, VISION, VOCODER, Made, bare, case

_HEADS = (1, 2, 12, 8)
_MASK = (1, 1, 12, 12)
_LONGER = (1, 2, 20, 8)
_CONTEXT = (1, 5, 16)
_KINDS = (VISION, DIFFUSION)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


def written_out_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As `written_out`, where scores at a negative mask are set to a large negative number."""
    scores = q @ k.transpose(-2, -1) * 0.35
    return torch.where(mask > 0, scores, -1e4).softmax(-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in einsum notation."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.35
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention without a softmax over pairs (Katharopoulos et al., 2020), with relu features."""
    q, k = q.relu(), k.relu()
    context = k.transpose(-2, -1) @ v
    norm = q @ k.sum(-2, keepdim=True).transpose(-2, -1)
    return (q @ context) / (norm + 1e-3)


class ImageAttention(nn.Module):
    """Self-attention over the pixels of an image, as in the UNets of diffusion models."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, H, W) -> the same shape."""
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(n, 3, 2, c // 2, h * w).transpose(-2, -1).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(-2, -1).reshape(n, c, h, w))


class CrossAttention(nn.Module):
    """Tokens that look at a context of another length, by torch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """X (1, L, 16), context (1, M, 16) -> (1, L, 16)."""
        y: Tensor = self.attention(x, context, context, need_weights=False)[0]
        return y


class WindowAttention(nn.Module):
    """Attention inside shifted windows of 4 x 4 pixels (Swin, Liu et al., 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 8, 12, 12) -> the same shape."""
        x = torch.roll(x, (-2, -2), (2, 3))
        windows = x.reshape(-1, 8, 3, 4, 3, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 8)
        y = written_out(windows, windows, windows)
        y = y.reshape(-1, 3, 3, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).reshape(-1, 8, 12, 12)
        return torch.roll(y, (2, 2), (2, 3))


class Rotary(nn.Module):
    """Rotary position embedding (Su et al., 2021) with its tables as buffers."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(12.0)[:, None] * 0.3 ** torch.arange(4.0)
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, heads, 12, 8) -> the same shape."""
        turned = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return x * self.get_buffer("cos") + turned * self.get_buffer("sin")


class TokenEmbedding(nn.Module):
    """A table looked up by numbers; the file takes float32, so the numbers are cast inside."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """X (1, L) -> (1, L, 4)."""
        index = (x.abs() * 3).clamp(max=9.0).to(torch.int64)
        y: Tensor = self.head(self.table(index))
        return y


class TimeEmbedding(nn.Module):
    """The sines and cosines of a diffusion step, and the two layers behind them (Ho et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", torch.exp(-math.log(100.0) * torch.arange(8.0) / 8))
        self.layers = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 8))

    def forward(self, t: Tensor) -> Tensor:
        """T (1, 1) -> (1, 8)."""
        angle = t * self.get_buffer("rates")
        y: Tensor = self.layers(torch.cat([angle.sin(), angle.cos()], -1))
        return y


class Positions(nn.Module):
    """A learned table added to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 12, 16))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 12, 16) -> the same shape."""
        return x + self.table


class Product(nn.Module):
    """A constant matrix times tokens: a mel filter bank, a fixed projection."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(6, 12))

    def forward(self, x: Tensor) -> Tensor:
        """X (1, 12, 16) -> (1, 6, 16)."""
        return torch.matmul(self.get_buffer("matrix"), x)


_sdpa = F.scaled_dot_product_attention

CASES = (
    case("attention", lambda q, k, v: _sdpa(q, k, v), _HEADS, _HEADS, _HEADS, kinds=_KINDS),
    case("attention_cross", lambda q, k, v: _sdpa(q, k, v), _HEADS, _LONGER, _LONGER, kinds=(DIFFUSION,)),
    case(
        "attention_causal", lambda q, k, v: _sdpa(q, k, v, is_causal=True), _HEADS, _HEADS, _HEADS, kinds=(DIFFUSION,)
    ),
    case("attention_masked", lambda q, k, v, m: _sdpa(q, k, v, m), _HEADS, _HEADS, _HEADS, _MASK, kinds=_KINDS),
    case(
        "attention_masked_by_bool",
        lambda q, k, v, m: _sdpa(q, k, v, m > -1.0),
        _HEADS,
        _HEADS,
        _HEADS,
        _MASK,
        kinds=_KINDS,
    ),
    case("attention_scaled", lambda q, k, v: _sdpa(q, k, v, scale=0.5), _HEADS, _HEADS, _HEADS, kinds=_KINDS),
    case("attention_written_out", written_out, _HEADS, _HEADS, _HEADS, kinds=_KINDS),
    case("attention_written_out_masked", written_out_masked, _HEADS, _HEADS, _HEADS, _MASK, kinds=_KINDS),
    case("attention_by_einsum", by_einsum, _HEADS, _HEADS, _HEADS, kinds=_KINDS),
    case("attention_linear", linear_attention, _HEADS, _HEADS, _HEADS, kinds=(DIFFUSION,)),
    case("attention_over_pixels", Made(ImageAttention), IMAGE, kinds=(DIFFUSION, GENERATOR)),
    case("attention_module_cross", Made(CrossAttention), TOKENS, _CONTEXT, kinds=(DIFFUSION,), tokens=True),
    case("attention_in_windows", Made(WindowAttention), IMAGE, kinds=(VISION,)),
    case("rotary_embedding", Made(Rotary), _HEADS, kinds=(DIFFUSION,)),
    bare("embedding", TokenEmbedding, (1, 12), kinds=(DIFFUSION, VOCODER)),
    bare("time_embedding", TimeEmbedding, (1, 1), kinds=(DIFFUSION,)),
    case("position_embedding", Made(Positions), TOKENS, kinds=_KINDS, tokens=True),
    case("matmul", torch.matmul, _HEADS, (1, 2, 8, 6), kinds=_KINDS),
    case("matmul_broadcast", torch.matmul, _HEADS, (1, 1, 8, 6), kinds=_KINDS),
    case("matmul_constant", Made(Product), TOKENS, kinds=(VOCODER,), tokens=True),
    case("bmm", torch.bmm, (1, 12, 8), (1, 8, 6), kinds=_KINDS, tokens=True),
    case("einsum_outer", lambda x, y: torch.einsum("bi,bj->bij", x, y), (1, 16), (1, 12), kinds=(GENERATOR,)),
    case("einsum_contract", lambda x, y: torch.einsum("bchw,bcd->bdhw", x, y), IMAGE, (1, 8, 6), kinds=(GENERATOR,)),
    case("gram_matrix", lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)), IMAGE, kinds=(GENERATOR,)),
)
