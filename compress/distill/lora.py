"""Low-rank changes of a network's weights (Hu et al., 2022), to train few weights and merge them at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.errors import ModelError


class Lora(nn.Module):
    """W + B A, with W (rows, ...) seen as a matrix; B starts at 0, and so does the change."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        rank = min(rank, rows, columns)
        self.a = nn.Parameter(torch.randn(rank, columns, device=weight.device) / columns**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        return weight + (self.b @ self.a).view_as(weight)


def add_lora(model: nn.Module, layers: Sequence[str], rank: int) -> None:
    """Put a low-rank change on the weights of layers, in place; the model computes what it did."""
    for path in layers:
        layer: Any = model.get_submodule(path)
        parametrize.register_parametrization(layer, "weight", Lora(layer.weight, rank))


def adapt(model: nn.Module, rank: int) -> None:
    """Put low-rank changes on all convolutions and linear layers, in place; they alone are trained.

    Raises:
        ModelError: the model has no such layer.
    """
    layers = [path for path, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    if not layers:
        raise ModelError("low-rank changes are of convolutions and linear layers, and the network has none")
    add_lora(model, layers, rank)
    train_loras(model)


def train_loras(model: nn.Module) -> None:
    """Let a model's low-rank changes learn, and nothing else in it."""
    model.requires_grad_(False)
    for change in loras(model):
        change.requires_grad_(True)


def merge_lora(model: nn.Module) -> None:
    """Turn weights with low-rank changes into plain ones, in place; the model computes what it did."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def loras(model: nn.Module) -> list[Lora]:
    """The low-rank changes in a model."""
    return [module for module in model.modules() if isinstance(module, Lora)]
