"""Heads that read a denoiser's own features: discriminators that know the data at every noise level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.errors import ModelError


class NoisedHead(nn.Module):
    """A denoiser with a small head on its deepest features; called, it is the denoiser.

    Args:
        network: a traced denoiser.
        example_inputs: its inputs, to size the head.
        width: channels inside the head.
    """

    def __init__(self, network: nn.Module, example_inputs: Sequence[Tensor], width: int = 64) -> None:
        super().__init__()
        self.network = network
        self.layer, shape = deepest_layer(network, example_inputs)
        self.head = nn.Sequential(
            nn.Conv2d(shape[1], width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
            nn.Conv2d(width, width, 3, 2, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
            nn.Conv2d(width, 1, 1),
        )  # fmt: skip

    def forward(self, *inputs: Tensor) -> Tensor:
        """The denoiser's raw output."""
        output: Tensor = self.network(*inputs)
        return output

    def logits(self, *inputs: Tensor) -> Tensor:
        """How real the network's inputs look: (N,), larger for real ones."""
        caught: list[Tensor] = []
        layer = self.network.get_submodule(self.layer)
        handle = layer.register_forward_hook(lambda module, given, output: caught.append(output))
        try:
            self.network(*inputs)
        finally:
            handle.remove()
        logits: Tensor = self.head(caught[0]).mean((1, 2, 3))
        return logits


def deepest_layer(network: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[str, torch.Size]:
    """The last convolution at a network's lowest resolution, and the shape of its output.

    Raises:
        ModelError: there is none.
    """
    shapes: dict[str, torch.Size] = {}
    handles = [
        layer.register_forward_hook(lambda module, given, output, path=path: shapes.__setitem__(path, output.shape))
        for path, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            network(*(x.to(next(network.parameters()).device) for x in example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        raise ModelError("the denoiser has no convolution whose features a discriminator could read")
    smallest = min(shape[-1] for shape in shapes.values())
    path = [path for path, shape in shapes.items() if shape[-1] == smallest][-1]
    return path, shapes[path]
