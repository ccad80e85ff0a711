"""ML program operations that multiply matrices, attention among them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compress.runtimes.mil.given import flag


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x` times the transposed weight (out, in), plus bias."""
    product = x @ weight.T
    return product if bias is None else product + bias


def matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    """The matrix product over the last two axes; a vector is not transposed."""
    if flag(transpose_x) and x.dim() > 1:
        x = x.transpose(-1, -2)
    if flag(transpose_y) and y.dim() > 1:
        y = y.transpose(-1, -2)
    return x @ y


def einsum(values: list[Tensor], equation: str) -> Tensor:
    """The sum of products that the equation names."""
    return torch.einsum(equation.replace(" ", ""), *values)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(E) + mask) V; a mask of truths keeps where it holds."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        masked = attn_mask.dtype is torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask
    return torch.softmax(scores, -1) @ value


OPS: dict[str, Callable[..., Any]] = {
    "linear": linear, "matmul": matmul, "einsum": einsum,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}  # fmt: skip
