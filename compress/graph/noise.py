"""Randomness inside a model: a generator that draws noise as it runs gives another answer each time.

Nothing can be verified, quantized or compared that way, and runtimes on phones have no random ops. Every draw is thus
made once, from a fixed seed, and becomes part of the model: all samples of a batch get the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from compress.errors import ModelError

aten = torch.ops.aten
PREFIX = "fixed_noise_"
Make = Callable[[tuple[int, ...], torch.Generator], Tensor]


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


# Dropout and attention are told to be random too, but are not in eval mode.
_RANDOM = {"bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal", "poisson", "rand",
           "rand_like", "randint", "randint_like", "randn", "randn_like", "random", "randperm", "uniform"}  # fmt: skip
_DRAWS: dict[Any, Make] = {
    aten.randn.default: _normal, aten.randn_like.default: _normal,
    aten.rand.default: _uniform, aten.rand_like.default: _uniform,
}  # fmt: skip


def fix_noise(graph_module: fx.GraphModule) -> list[str]:
    """Replace every random op by one draw of it, a buffer named `fixed_noise_<n>`, in place; the names of the buffers.

    Raises:
        ModelError: a draw of another kind than normal or uniform noise, or one whose size follows the input's.
    """
    made: list[str] = []
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or not _is_random(node):
            continue
        shape = _shape(node)
        name = f"{PREFIX}{len(made)}"
        drawn = _DRAWS[node.target]((1, *shape[1:]), torch.Generator().manual_seed(len(made)))
        graph_module.register_buffer(name, drawn)
        _replace(graph_module, node, name, shape)
        made.append(name)
    if made:
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
    return made


def noise_of(graph_module: torch.nn.Module) -> list[str]:
    """The names of the draws that `fix_noise` made part of a traced model."""
    return [name for name, _ in graph_module.named_buffers() if name.startswith(PREFIX)]


def _is_random(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.name.removeprefix("aten::") not in _RANDOM:
        return False
    if node.target not in _DRAWS:
        raise ModelError(f"the model draws random numbers with {node.target}, which cannot be fixed; draw them outside")
    return True


def _shape(node: fx.Node) -> tuple[Any, ...]:
    shape = tuple(node.meta["val"].shape)
    if not all(isinstance(size, int) for size in shape[1:]):
        raise ModelError(f"the size of the noise {node.name} follows the input's; only its batch size may be free")
    return shape


def _replace(graph_module: fx.GraphModule, node: fx.Node, name: str, shape: tuple[Any, ...]) -> None:
    graph = graph_module.graph
    with graph.inserting_before(node):
        drawn = graph.get_attr(name)
        drawn.meta["val"] = node.meta["val"].new_empty((1, *shape[1:]))
        if isinstance(shape[0], int):
            batch: Any = shape[0]
        else:
            batch = node.args[0][0] if isinstance(node.args[0], (list, tuple)) else _batch_of(graph, node.args[0])
        spread = graph.call_function(aten.expand.default, (drawn, [batch, *shape[1:]]))
    spread.meta = dict(node.meta)
    node.replace_all_uses_with(spread)
    graph.erase_node(node)


def _batch_of(graph: fx.Graph, like: Any) -> fx.Node:
    size = graph.call_function(aten.sym_size.int, (like, 0))
    size.meta["val"] = like.meta["val"].shape[0]
    return size
