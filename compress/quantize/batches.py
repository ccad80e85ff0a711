"""Calibration batches run through a network, and what its layers take in and give out meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import DataError

Predict = Callable[[fx.GraphModule, Any], Any]
Watch = Callable[[str, Tensor, Tensor], None]
"""Called as watch(path, input, output) after each call of a watched layer."""


def run_batch(network: fx.GraphModule, batch: Any) -> Any:
    """The network's output on a batch: a tensor (N, ...), or a sequence that begins with the network's inputs.

    Raises:
        DataError: the batch holds fewer tensors than the network takes.
    """
    count = sum(node.op == "placeholder" for node in network.graph.nodes)
    parts = [batch] if isinstance(batch, Tensor) else list(batch)[:count]
    if len(parts) < count:
        raise DataError(f"a calibration batch holds {len(parts)} tensors where the model takes {count}")
    parameter = next(network.parameters())
    return network(*(part.to(parameter.device) for part in parts))


@contextmanager
def watched(network: nn.Module, paths: Iterable[str], watch: Watch) -> Iterator[None]:
    """While it lasts, `watch` sees the first input and the output of every call of the named modules."""

    def hook_of(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            watch(path, inputs[0].detach(), output.detach())

        return hook

    handles = [network.get_submodule(path).register_forward_hook(hook_of(path)) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def watch_batches(
    network: fx.GraphModule, batches: Iterable[Any], paths: Iterable[str], watch: Watch, predict: Predict | None = None
) -> None:
    """Run the network on the batches, in eval mode and without gradients, while `watch` sees the named layers."""
    run, was_training = predict or run_batch, network.training
    network.eval()
    with watched(network, paths, watch):
        for batch in batches:
            run(network, batch)
    network.train(was_training)


def channel_axis_of(layer: nn.Module, value: Tensor) -> int:
    """The axis of a layer's input or output on which its channels lie: the last for a linear layer, else axis 1."""
    return value.dim() - 1 if isinstance(layer, nn.Linear) else 1


def over_channels(value: Tensor, axis: int) -> list[int]:
    """All axes of `value` but the channels' own."""
    return [d for d in range(value.dim()) if d != axis % value.dim()]
