"""The reference run op by op on the artifact's own tensors, so that each op is judged by itself.

Each value the model computes is looked for among the artifact's tensors. Where one holds it, the run goes on with what
the artifact held: what earlier ops rounded otherwise does not count against later ones, at any depth. A value that no
tensor holds was either fused into the op behind it, or is wrong in the artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from compress.export.program import DEQUANTIZE, DEQUANTIZE_CHANNEL, QUANTIZE, op_name, where_of
from compress.verify.layouts import Counterpart, Pool, Shape

_WEIGHT_LEAST_DB = 60.0  # a weight is copied, not computed: float16 keeps 66 dB of it, a wrong scale 40 at best


class Replay(fx.Interpreter):
    """Runs a module and pairs its values with an artifact's tensors.

    After `run`: `values` holds what each op gives on the artifact's inputs to it; `found` the tensors that hold the
    same, best first, for the model's inputs too; `weights` the SQNR of each dequantized weight (None: not in the
    file). Values without information (integers, one number everywhere, NaN) are in none of them. `granted` values
    are taken from the artifact as they are, however wrong.
    """

    def __init__(
        self, module: fx.GraphModule, pool: Pool, least_db: float, granted: Mapping[str, np.ndarray] | None = None
    ) -> None:
        super().__init__(module)
        self.constants = constant_nodes(module.graph)
        self.values: dict[str, np.ndarray] = {}
        self.shapes: dict[str, list[Shape]] = {}
        self.found: dict[str, list[Counterpart]] = {}
        self.weights: dict[str, float | None] = {}
        self.granted = dict(granted or {})
        self._pool, self._least_db = pool, least_db

    def run_node(self, n: fx.Node) -> Any:
        """The node's result, or what the artifact holds in its place."""
        result = super().run_node(n)
        value = None if n.op in ("get_attr", "output") else informative(n, result)
        if value is None:
            return result
        if n.name in self.constants:
            self._note_weight(n, value)
            return result
        self.shapes[n.name] = self._shapes(n, value)
        if n.op != "placeholder":
            self.values[n.name] = value
        if n.name in self.granted:
            return torch.from_numpy(self.granted[n.name])
        held = self._pool.find(value, self.shapes[n.name], self._least_db)
        if op_name(n) in (QUANTIZE, DEQUANTIZE):  # the value before rounding is near, too, and not it
            held = [one for one in held if on_grid(one.tensor.value, float(n.args[1]), int(n.args[2]))]  # type: ignore[arg-type]
        if not held:
            return result
        self.found[n.name] = held
        if op_name(n) == QUANTIZE:
            return result  # its codes go on; the dequantize ops behind it take the artifact's value
        return torch.from_numpy(held[0].value(value.shape)).to(result.dtype)

    def _shapes(self, node: fx.Node, value: np.ndarray) -> list[Shape]:
        """The shapes under which a value's layout is looked for: its own, and those of what it may be a view of."""
        found: list[Shape] = [value.shape]
        for source in node.all_input_nodes[:1]:
            found += [shape for shape in self.shapes.get(source.name, []) if np.prod(shape) == value.size]
        return found

    def _note_weight(self, node: fx.Node, value: np.ndarray) -> None:
        if op_name(node) in (DEQUANTIZE, DEQUANTIZE_CHANNEL):
            held = self._pool.find(value, [value.shape], _WEIGHT_LEAST_DB, constant=True)
            self.weights[node.name] = held[0].sqnr_db if held else None


def informative(node: fx.Node, result: Any) -> np.ndarray | None:
    """A node's result as float32, codes as the numbers they stand for; None where it says nothing about the op."""
    if not isinstance(result, Tensor) or result.numel() == 0:
        return None
    if op_name(node) == QUANTIZE:
        scale, zero_point = float(node.args[1]), int(node.args[2])  # type: ignore[arg-type]
        result = (result.to(torch.float32) - zero_point) * scale
    if not result.is_floating_point():
        return None
    value: np.ndarray = result.detach().to(torch.float32).numpy()
    if not np.isfinite(value).all() or (value.size > 1 and np.ptp(value) == 0.0) or not value.any():
        return None
    return value


def on_grid(values: np.ndarray, scale: float, zero_point: int) -> bool:
    """Whether values are integer codes times the scale, to a quarter of a code: float16 may have stood between."""
    codes = values.astype(np.float64) / scale + zero_point
    return bool((np.abs(codes - np.rint(codes)) < 0.25).all())


def constant_nodes(graph: fx.Graph) -> set[str]:
    """The names of the nodes that do not depend on the model's inputs."""
    found: set[str] = set()
    for node in graph.nodes:
        inputs = {source.name for source in node.all_input_nodes}
        if node.op == "get_attr" or (node.op == "call_function" and inputs <= found):
            found.add(node.name)
    return found


def op_of(module: fx.GraphModule, node: fx.Node) -> str:
    """The op of a node: "aten.relu", or the class of the layer it calls ("Conv2d")."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return op_name(node) or str(node.target)


def place_of(node: fx.Node) -> str:
    """The module path of a node in the user's model, or of the nearest op before it that has one."""
    if node.op == "call_module":
        return str(node.target)
    where = where_of(node)
    if not where and node.all_input_nodes:
        return place_of(node.all_input_nodes[0])
    return where
