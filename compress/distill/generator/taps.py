"""Features inside a network: several layers at once, and which layers two networks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from torch import Tensor, fx, nn

from compress.errors import ModelError
from compress.graph.layers import LAYERS

COUNT = 4


class Features:
    """Catches the outputs of several layers, by path, while a model runs; called, it runs the model."""

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        self.model, self.layers = model, list(layers)
        self.caught: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for path in self.layers:
            layer = self.model.get_submodule(path)
            self._handles.append(layer.register_forward_hook(self._keeper(path)))
        return self

    def _keeper(self, path: str) -> Any:
        def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            self.caught[path] = output

        return keep

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The model's output, its features caught."""
        with self:
            output: Tensor = self.model(*inputs)
        return output


def chosen_taps(teacher: fx.GraphModule, student: fx.GraphModule, asked: Sequence[str]) -> list[str]:
    """The layers to compare: those asked for, or `COUNT` that both networks have, spread over the depth.

    Raises:
        ModelError: a layer that was asked for is missing, or the networks share none.
    """
    theirs, ours = _layers(teacher), _layers(student)
    for path in asked:
        for who, paths in (("teacher", theirs), ("student", ours)):
            if path not in paths:
                raise ModelError(f"distill.options.taps: the {who} has no layer '{path}'; it has {', '.join(paths)}")
    shared = [path for path in theirs if path in set(ours)]
    if not asked and not shared:
        raise ModelError("distill.options.feature: teacher and student share no layer; name some in taps")
    # The first layer sees the input and the last gives the output: what can be compared lies between.
    between = shared[1:-1] or shared
    count = min(COUNT, len(between))
    return list(asked) or [between[round((i + 0.5) * len(between) / count - 0.5)] for i in range(count)]


def _layers(model: fx.GraphModule) -> list[str]:
    """Convolutions and linear layers in the order they run."""
    order = dict.fromkeys(str(n.target) for n in model.graph.nodes if n.op == "call_module")
    return [path for path in order if isinstance(model.get_submodule(path), LAYERS)]
