"""How far a convolutional graph looks: which input pixels an output pixel can depend on, and which ops see them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import Tensor, fx

from compress.errors import ModelError
from compress.graph.cost import propagate_shapes, where
from compress.rewrite.reaches import Axis, SeesAll, axes_of


@dataclass(frozen=True)
class ReceptiveField:
    """What a tile of the input needs around it, per spatial axis of the input, for its middle to come out right.

    Attributes:
        halo_px: input pixels on each side of a tile that its output does not count for.
        scale: output pixels per input pixel.
        multiple_px: tiles begin and end at multiples of this many input pixels, where strides begin.
        global_ops: the ops that see the whole picture, with the reason: with any of them tiling is not exact.
    """

    halo_px: tuple[int, ...]
    scale: tuple[Fraction, ...]
    multiple_px: tuple[int, ...]
    global_ops: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether tiles with this halo give what the whole picture gives."""
        return not self.global_ops


def receptive_field(model: fx.GraphModule, example_inputs: Sequence[Tensor]) -> ReceptiveField:
    """How far the outputs of a traced model look into its picture (N, C, *spatial), and what looks everywhere.

    An op that sees all is passed over as if it saw nothing more, so that `halo_px` is what all others need.

    Raises:
        ModelError: the model does not take one picture, or gives no picture.
    """
    if len(example_inputs) != 1 or example_inputs[0].dim() < 3:
        raise ModelError("tiles need a model with one picture (N, C, H, W) or signal (N, C, L) as its only input")
    values = propagate_shapes(model, example_inputs)
    dims = example_inputs[0].dim()
    seen: dict[fx.Node, tuple[Axis, ...]] = {}
    everywhere: dict[str, str] = {}
    for node in model.graph.nodes:
        if node.op == "placeholder":
            seen[node] = (Axis(),) * (dims - 2)
        sources = [source for source in node.all_input_nodes if source in seen]
        if node.op == "output" or not sources or not isinstance(values[node], (Tensor, tuple, list)):
            continue
        try:
            seen[node] = axes_of(model, node, sources, seen, values)
        except SeesAll as found:
            everywhere[node.name] = f"{where(node) or node.name}: {found}"
            if _dims(values[node]) == dims:
                seen[node] = seen[sources[0]]
    output = next(node for node in model.graph.nodes if node.op == "output")
    ends = [seen[node] for node in output.all_input_nodes if node in seen and _dims(values[node]) == dims]
    if len(ends) != len(output.all_input_nodes) or len({tuple(a.scale for a in end) for end in ends}) != 1:
        raise ModelError("tiles need a model whose outputs are pictures of one size that came from its input")
    return _summary(ends, seen, tuple(everywhere.values()))


def _summary(
    ends: Sequence[tuple[Axis, ...]], seen: dict[fx.Node, tuple[Axis, ...]], everywhere: tuple[str, ...]
) -> ReceptiveField:
    halos, scales, multiples = [], [], []
    for axis in range(len(ends[0])):
        scale = ends[0][axis].scale
        multiple = math.lcm(*(axes[axis].scale.denominator for axes in seen.values()))
        # The first output pixel behind a halo h of a tile that begins at t is scale * (t + h): it reads no pixel before
        # t if h > before - 1, and the last one before the other halo none behind the tile if h > after - 1 / scale.
        needed = max(max(end[axis].before - 1, end[axis].after - 1 / scale) for end in ends)
        halo = max(math.floor(needed) + 1, 0)
        halos.append(-(-halo // multiple) * multiple)
        scales.append(scale)
        multiples.append(multiple)
    return ReceptiveField(tuple(halos), tuple(scales), tuple(multiples), everywhere)


def _dims(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else -1
