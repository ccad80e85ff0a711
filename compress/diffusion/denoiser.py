"""A network and what its output means, as one function: from a noised sample to the clean one that it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from compress.diffusion.preconditioning import Preconditioning, per_sample

Network = Callable[..., Tensor]
"""(scaled samples (N, ...), times (N,), conditions ...) to raw outputs (N, ...)."""


class Denoiser:
    """The clean sample that a network expects behind x = x0 + level e.

    Args:
        network: a module, or a function such as a device runtime's.
        preconditioning: what its output means.
    """

    def __init__(self, network: Network, preconditioning: Preconditioning) -> None:
        self.network, self.preconditioning = network, preconditioning

    def __call__(self, x: Tensor, level: Tensor, *condition: Any) -> Tensor:
        """The expected clean samples (N, ...) behind x (N, ...) at noise levels (N,) or ()."""
        factors = self.preconditioning(level.to(x.dtype).expand(len(x)))
        raw = self.network(per_sample(factors.scale, x) * x, factors.time, *condition)
        return per_sample(factors.skip, x) * x + per_sample(factors.out, x) * raw.to(x.dtype)

    def noise(self, x: Tensor, level: Tensor, *condition: Any) -> Tensor:
        """The noise e that the network sees in x; also dx / dlevel along the probability flow."""
        return (x - self(x, level, *condition)) / per_sample(level.to(x.dtype).expand(len(x)), x)

    @property
    def module(self) -> nn.Module:
        """The network as a module."""
        assert isinstance(self.network, nn.Module)
        return self.network


def guided(denoiser: Network, weight: float, nothing: Callable[[Tensor], Tensor]) -> Network:
    """Classifier-free guidance (Ho and Salimans, 2022): D_nothing + weight (D_condition - D_nothing).

    Args:
        denoiser: x, level and a condition to the clean sample.
        weight: 1 is no guidance, and asks the network once.
        nothing: a batch of conditions to those that ask for nothing.
    """

    def denoise(x: Tensor, level: Tensor, *condition: Tensor) -> Tensor:
        asked = denoiser(x, level, *condition)
        if weight == 1:
            return asked
        free = denoiser(x, level, *map(nothing, condition))
        return free + weight * (asked - free)

    return denoise
