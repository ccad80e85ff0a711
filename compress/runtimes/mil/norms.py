"""ML program operations that normalize, and the reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.runtimes.mil.given import along, axes_of, flag, number, whole
from compress.runtimes.mil.values import WORDS, as_declared


def _scaled(x: Tensor, gamma: Tensor | None, beta: Tensor | None, shape: Sequence[int]) -> Tensor:
    """`x` gamma + beta, both spread to `shape`."""
    if gamma is not None:
        x = x * gamma.reshape(*shape)
    return x if beta is None else x + beta.reshape(*shape)


def _normalized(x: Tensor, axes: list[int], epsilon: Any) -> Tensor:
    """`x` with mean 0 and variance 1 over `axes`; the variance is that of the values, not an estimate of it."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + number(epsilon))


def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None,
    epsilon: Any = 1e-5,
) -> Tensor:  # fmt: skip
    """`x` normalized by stored statistics, one each per channel (axis 1)."""
    rank = x.dim()
    spread = along(torch.sqrt(variance + number(epsilon)), rank, 1)
    return _scaled((x - along(mean, rank, 1)) / spread, gamma, beta, (-1, *[1] * (rank - 2)))


def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5) -> Tensor:
    """`x` normalized over the spatial axes, each sample and channel by itself."""
    axes = list(range(2, x.dim()))
    return _scaled(_normalized(x, axes, epsilon), gamma, beta, (-1, *[1] * len(axes)))


def layer_norm(
    x: Tensor, axes: Any = None, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: Any = 1e-5
) -> Tensor:
    """`x` normalized over `axes` (all of them by default); gamma and beta have the shape of these axes."""
    over = axes_of(axes, x.dim())
    shape = [size if axis in over else 1 for axis, size in enumerate(x.shape)]
    return _scaled(_normalized(x, over, epsilon), gamma, beta, shape)


def l2_norm(x: Tensor, epsilon: Any = 1e-6) -> Tensor:
    """`x` over the root of the sum of squares of its last three axes plus epsilon."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + number(epsilon))


def local_response_norm(x: Tensor, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Tensor:
    """`x` over (k + alpha / size times the squares of `size` neighbouring channels) to the power of beta."""
    return F.local_response_norm(x, whole(size), number(alpha), number(beta), number(k))


def _over(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    """A reduction over `axes`, all of them by default."""

    def op(x: Tensor, axes: Any = None, keep_dims: Any = False) -> Tensor:
        return function(x, axes_of(axes, x.dim()), flag(keep_dims))

    return op


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = torch.prod(x, axis, keepdim=keep)
    return x


def _place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Where along one axis the extreme lies."""

    def op(x: Tensor, axis: Any = -1, keep_dims: Any = False, output_dtype: str = "int32") -> Tensor:
        return as_declared(function(x, whole(axis), flag(keep_dims)), WORDS[output_dtype])

    return op


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep) / math.prod(x.shape[axis] for axis in axes)


OPS: dict[str, Callable[..., Any]] = {
    "batch_norm": batch_norm, "instance_norm": instance_norm, "layer_norm": layer_norm, "l2_norm": l2_norm,
    "local_response_norm": local_response_norm,
    "reduce_sum": _over(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep)),
    "reduce_mean": _over(_mean),
    "reduce_max": _over(lambda x, axes, keep: torch.amax(x, axes, keepdim=keep)),
    "reduce_min": _over(lambda x, axes, keep: torch.amin(x, axes, keepdim=keep)),
    "reduce_prod": _over(_product),
    "reduce_l1_norm": _over(lambda x, axes, keep: torch.sum(x.abs(), axes, keepdim=keep)),
    "reduce_l2_norm": _over(lambda x, axes, keep: torch.sum(x.square(), axes, keepdim=keep).sqrt()),
    "reduce_sum_square": _over(lambda x, axes, keep: torch.sum(x.square(), axes, keepdim=keep)),
    "reduce_log_sum": _over(lambda x, axes, keep: torch.sum(x, axes, keepdim=keep).log()),
    "reduce_log_sum_exp": _over(lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep)),
    "reduce_argmax": _place(torch.argmax),
    "reduce_argmin": _place(torch.argmin),
}  # fmt: skip
