"""ML program operations element by element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.runtimes.mil.given import along, number, whole
from compress.runtimes.mil.values import WORDS, as_declared


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def op(x: Tensor) -> Tensor:
        return function(x)

    return op


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def op(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return op


def inverse(x: Tensor, epsilon: Any = 1e-4) -> Tensor:
    """1 / (x + epsilon)."""
    return 1.0 / (x + number(epsilon))


def log(x: Tensor, epsilon: Any = 1e-45) -> Tensor:
    """The natural logarithm of x + epsilon."""
    return torch.log(x + number(epsilon))


def rsqrt(x: Tensor, epsilon: Any = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + number(epsilon))


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """x, not below alpha and not above beta."""
    return torch.minimum(torch.maximum(x, alpha), beta)


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """x, not below alpha."""
    return torch.maximum(x, alpha)


def cast(x: Tensor, dtype: str) -> Tensor:
    """`x` in another type: rounded to halves for fp16, cut towards zero for integers."""
    return as_declared(x, WORDS[dtype])


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where cond holds, else b."""
    return torch.where(cond.to(torch.bool), a, b)


def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`x` above zero, alpha x below it, none of it above beta."""
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x` above zero, alpha (e^x - 1) below it."""
    return torch.where(x > 0, x, alpha * torch.expm1(x.clamp(max=0.0)))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """The Gaussian error linear unit, exact or in one of its two approximations."""
    if mode == "EXACT":
        return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return x * torch.sigmoid(1.702 * x)


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x` above zero, alpha x below it."""
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha` x + beta."""
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x` above zero, alpha x below it, one alpha per channel (axis 1)."""
    return torch.where(x > 0, x, along(alpha, x.dim(), 1) * x)


def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha` tanh(beta x)."""
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha` x + beta, within 0 and 1."""
    return (alpha * x + beta).clamp(0.0, 1.0)


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`alpha` log(1 + e^(beta x)), one alpha and beta per channel (axis 1)."""
    return along(alpha, x.dim(), 1) * F.softplus(along(beta, x.dim(), 1) * x)


def softmax(x: Tensor, axis: Any = -1) -> Tensor:
    """The softmax along one axis."""
    return torch.softmax(x, whole(axis))


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """`x` where it is at least alpha, else 0."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan, "atanh": torch.atanh,
    "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2,
    "floor": torch.floor, "logical_not": torch.logical_not, "round": torch.round, "sign": torch.sign,
    "sin": torch.sin, "sinh": torch.sinh, "sqrt": torch.sqrt, "square": torch.square, "tan": torch.tan,
    "tanh": torch.tanh, "relu": torch.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "silu": F.silu,
    "softplus": F.softplus, "softsign": F.softsign, "identity": lambda x: x,
}  # fmt: skip
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.true_divide,
    "floor_div": torch.floor_divide, "mod": torch.remainder, "pow": torch.pow, "maximum": torch.maximum,
    "minimum": torch.minimum, "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge,
    "less": torch.lt, "less_equal": torch.le, "logical_and": torch.logical_and, "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}  # fmt: skip
OPS: dict[str, Callable[..., Any]] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    "inverse": inverse, "log": log, "rsqrt": rsqrt, "clip": clip, "threshold": threshold, "cast": cast,
    "select": select, "clamped_relu": clamped_relu, "elu": elu, "gelu": gelu, "leaky_relu": leaky_relu,
    "linear_activation": linear_activation, "prelu": prelu, "scaled_tanh": scaled_tanh,
    "sigmoid_hard": sigmoid_hard, "softplus_parametric": softplus_parametric, "softmax": softmax,
    "thresholded_relu": thresholded_relu,
}  # fmt: skip
