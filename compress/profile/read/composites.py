"""Ops of other formats that stand for many: what torch makes of them at the same shapes, as the op tables have them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.profile.read.calls import Calls
from compress.types import OpRecord

# An input: its shape, and whether it is a weight; None where it is left out.
Given = tuple[tuple[int, ...], bool] | None
_CALLS = {"LSTM": torch.ops.aten.lstm.input, "GRU": torch.ops.aten.gru.input, "RNN": torch.ops.aten.rnn_tanh.input}


def einsum(equation: str, given: Sequence[Given], name: str, at: str) -> list[OpRecord]:
    """The products of matrices that an Einsum is."""
    calls = Calls()
    tensors = [_tensor(calls, *each) for each in given if each is not None]
    calls.add(torch.ops.aten.einsum.default, (equation, tensors), {}, _any(), name, at)
    return calls.records


def recurrent(kind: str, given: Sequence[Given], name: str, at: str) -> list[OpRecord]:
    """The steps of an ONNX LSTM, GRU or RNN: inputs X (steps, batch, features), W and R by direction, and a bias."""
    calls = Calls()
    (steps, batch, features), held = given[0] or ((1, 1, 1), False)
    (directions, gates, hidden), _ = given[2] or ((1, 1, 1), True)
    source = _tensor(calls, (steps, batch, features), held)
    state = _tensor(calls, (directions, batch, hidden), True)
    biased = len(given) > 3 and given[3] is not None
    shapes = [(gates, features), (gates, hidden), *([(gates,)] * 2 if biased else [])]
    weights = [_tensor(calls, shape, True) for _ in range(directions) for shape in shapes]
    states = [state, _tensor(calls, (directions, batch, hidden), True)] if kind == "LSTM" else state
    args = (source, states, weights, biased, 1, 0.0, False, directions == 2, False)
    calls.add(_CALLS[kind], args, {}, _any(), name, at)
    return calls.records


def _tensor(calls: Calls, shape: Sequence[int], held: bool) -> Tensor:
    """A tensor of that shape without values, noted where it is a weight."""
    tensor = torch.empty(tuple(shape), device="meta")
    if held:
        calls.hold(tensor)
    return tensor


def _any() -> Tensor:
    """A result whose shape nothing reads: the ops inside have their own."""
    return torch.empty((1,), device="meta")
