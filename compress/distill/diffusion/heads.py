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
        self.head = head_of(shape[1], width)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The denoiser's raw output."""
        output: Tensor = self.network(*inputs)
        return output

    def logits(self, *inputs: Tensor) -> Tensor:
        """How real the network's inputs look: (N,), larger for real ones."""
        logits: Tensor = self.head(self.features(*inputs)).mean((1, 2, 3))
        return logits

    def features(self, *inputs: Tensor) -> Tensor:
        """What the head reads."""
        return outputs_of(self.network, [self.layer], inputs)[0]


def head_of(channels: int, width: int) -> nn.Sequential:
    """A small head: features (N, channels, H, W) to a map of logits (N, 1, H', W')."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
        nn.Conv2d(width, width, 3, 2, padding=1), nn.GroupNorm(8, width), nn.SiLU(),
        nn.Conv2d(width, 1, 1),
    )  # fmt: skip


def outputs_of(network: nn.Module, layers: Sequence[str], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What layers of a network say to its inputs, in the layers' order."""
    caught: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda module, given, output, path=path: caught.__setitem__(path, output)
        )
        for path in layers
    ]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [caught[path] for path in layers]


def deepest_layer(network: nn.Module, example_inputs: Sequence[Tensor]) -> tuple[str, torch.Size]:
    """The last convolution at a network's lowest resolution, and the shape of its output.

    Raises:
        ModelError: there is none.
    """
    shapes = convolution_shapes(network, example_inputs)
    smallest = min(shape[-1] for shape in shapes.values())
    path = [path for path, shape in shapes.items() if shape[-1] == smallest][-1]
    return path, shapes[path]


def encoder_layers(network: nn.Module, example_inputs: Sequence[Tensor]) -> list[str]:
    """The last convolution of each resolution on a network's way down."""
    found: dict[int, str] = {}
    for path, shape in convolution_shapes(network, example_inputs).items():
        if not found or shape[-1] <= min(found):
            found[shape[-1]] = path
    return [*found.values()]


def convolution_shapes(network: nn.Module, example_inputs: Sequence[Tensor]) -> dict[str, torch.Size]:
    """The shape of each convolution's output, in the order of their use.

    Raises:
        ModelError: the network has no convolution.
    """
    layers = [path for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    shapes: dict[str, torch.Size] = {}
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda module, given, output, path=path: shapes.__setitem__(path, output.shape)
        )
        for path in layers
    ]
    try:
        with torch.no_grad():
            network(*(x.to(next(network.parameters()).device) for x in example_inputs))
    finally:
        for handle in handles:
            handle.remove()
    if not shapes:
        raise ModelError("the denoiser has no convolution whose features a discriminator could read")
    return shapes
