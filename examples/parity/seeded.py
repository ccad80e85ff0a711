"""Models with random weights that are the same on every machine, with norms that do something."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def seeded(make: Callable[[], Model], seed: int = 0) -> Model:
    """The model that `make` gives from a fixed seed, in eval mode; norms get other weights than one and zero.

    With their usual start a norm that loses its scale or shift on the way to a file would not be noticed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return model.eval()
