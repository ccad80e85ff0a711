"""Make an int8 TFLite file whose every scale and code is the quantized program's own.

litert-torch cannot lower per-channel dequantize ops, so the program is taken apart: its float twin (weights are the
values their int8 codes stand for) is converted, each TFLite tensor is paired with the program value it holds, the
program's ranges go to ai-edge-quantizer in place of a calibration, and what it rounded differently is set back: the
scales to the last bit, the weights to the program's codes, the biases to int32 at the product of the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from compress.export import tflite
from compress.export.litert import convert
from compress.export.litert_exact import match_weights, set_exactly
from compress.export.match import Match, match
from compress.export.program import tally, user_inputs
from compress.export.qdq import Recorder, Stripped, strip

# Ops whose output is a choice among their input's values: it has the input's range.
_KEEPS_RANGE = ("TRANSPOSE", "RESHAPE", "PAD", "PADV2", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "GATHER",
                "MAX_POOL_2D", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "RESIZE_NEAREST_NEIGHBOR", "SPLIT", "UNPACK",
                "MIRROR_PAD", "GATHER_ND", "BROADCAST_TO")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a quantization left in float, and what there is to say about it."""

    float_ops: tuple[str, ...]
    notes: tuple[str, ...]


def quantized(program: ExportedProgram) -> tuple[bytes, Outcome]:
    """The int8 TFLite bytes of a quantized program, and what stayed float.

    Raises:
        Exception: whatever the converter or the quantizer raises; `compress.export.export` makes it one line.
    """
    stripped = strip(program)
    samples = _samples(program, stripped)
    model = tflite.read(convert(stripped.module, samples))
    tflite.shorten_names(model)
    content = tflite.to_bytes(model)
    found = _match(content, stripped, samples)
    graph = model.subgraphs[0]
    _spread(model, found)
    int8_ops, float_ops = _split(model, found)
    codes = match_weights(model, stripped.weights)
    result = tflite.read(_quantize(content, model, found, int8_ops))
    ranges = {tflite.name_of(graph.tensors[index]): value for index, value in found.ranges.items()}
    unset = set_exactly(result, model, ranges, codes)
    lost = [value.name for value in stripped.weights if value.name not in {entry.name for entry in codes.values()}]
    notes = [f"{name}: its weight was rounded anew (not found in the converted model)" for name in lost]
    notes += [f"{name}: {reason}" for name, reason in unset.items()]
    return tflite.to_bytes(result), Outcome(tally(float_ops), tally(notes))


def _samples(program: ExportedProgram, stripped: Stripped) -> tuple[torch.Tensor, ...]:
    """One random input per argument, spread over the range the program quantizes it to (over -1..1 without one)."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name, shape in user_inputs(program):
        value = next(iter(stripped.ranges.get(name, ())), None)
        low, high = (value.low, value.high) if value else (-1.0, 1.0)
        inputs.append(torch.rand(shape, generator=generator) * (high - low) + low)
    return tuple(inputs)


def _match(content: bytes, stripped: Stripped, samples: tuple[torch.Tensor, ...]) -> Match:
    """Runs both float models on the samples and pairs their values."""
    recorder = Recorder(stripped.module)
    with torch.no_grad():
        recorder.run(*samples)
    values = {name: value.numpy() for name, value in recorder.values.items()}
    tensors = tflite.run_tensors(content, [sample.numpy() for sample in samples])
    return match(tensors, values, stripped.ranges)


def _spread(model: Any, found: Match) -> None:
    """Gives the tensors around ops that only move values the range of the tensor on the other side."""
    graph = model.subgraphs[0]
    movers = [operator for operator in graph.operators if tflite.op_of(model, operator) in _KEEPS_RANGE]
    for operator in movers:
        source = _data_inputs(model, operator)[:1]
        for output in operator.outputs:
            if source and source[0] in found.ranges:
                found.ranges.setdefault(int(output), found.ranges[source[0]])
    for operator in reversed(movers):
        source = _data_inputs(model, operator)[:1]
        known = [found.ranges[int(output)] for output in operator.outputs if int(output) in found.ranges]
        if source and known:
            found.ranges.setdefault(source[0], known[0])


def _data_inputs(model: Any, operator: Any) -> list[int]:
    """The float tensors an operator reads that are computed at run time."""
    tensors = model.subgraphs[0].tensors
    read = [int(index) for index in operator.inputs if index >= 0]
    floats = [index for index in read if tflite.is_type(tensors[index], "FLOAT32")]
    return [index for index in floats if tflite.constant_of(model, tensors[index]) is None]


def _split(model: Any, found: Match) -> tuple[list[str], list[str]]:
    """(scopes of the operators whose tensors all have ranges, a line for each operator that stays float)."""
    tensors = model.subgraphs[0].tensors
    scopes, lines = [], []
    for operator in model.subgraphs[0].operators:
        name = tflite.op_of(model, operator)
        outputs = [int(index) for index in operator.outputs]
        around = _data_inputs(model, operator) + [i for i in outputs if tflite.is_type(tensors[i], "FLOAT32")]
        blank = [index for index in around if index not in found.ranges]
        if not blank:
            scopes.append(";".join(tflite.name_of(tensors[index]) for index in outputs))
            continue
        place = tflite.name_of(tensors[outputs[0]]).split("#")[0] or tflite.name_of(tensors[outputs[0]])
        lines.append(f"{name} at {place} ({_blank_reason(tensors, found, blank[0])})")
    return scopes, lines


def _blank_reason(tensors: list[Any], found: Match, index: int) -> str:
    name = tflite.name_of(tensors[index])
    if index in found.ambiguous:
        return f"tensor {name} agrees with values of different range: {', '.join(found.ambiguous[index][:4])}"
    return f"the program gives no range for tensor {name}"


def _quantize(content: bytes, model: Any, found: Match, scopes: list[str]) -> bytes:
    """The bytes after ai-edge-quantizer, with `scopes` in static int8 and all else, and the border, in float."""
    from ai_edge_quantizer import quantizer as aeq
    from ai_edge_quantizer.qtyping import TFLOperationName as Op

    worker = aeq.Quantizer(content)
    for scope in scopes:
        worker.add_static_config(f"^{re.escape(scope)};?$", Op.ALL_SUPPORTED, 8, 8)
    for border in (Op.INPUT, Op.OUTPUT):
        worker.update_quantization_recipe(".*", border, algorithm_key=aeq.AlgorithmName.NO_QUANTIZE)
    result = worker.quantize(_statistics(model, found), enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    return bytes(result.quantized_model)


def _statistics(model: Any, found: Match) -> dict[str, dict[str, np.ndarray]]:
    """Tensor name -> min and max, as a calibration would have given them."""
    table = {}
    for index, value in found.ranges.items():
        tensor = model.subgraphs[0].tensors[index]
        shape = (1,) * max(len(tflite.shape_of(tensor)), 1)
        low, high = (np.full(shape, bound, np.float32) for bound in (value.low, value.high))
        table[tflite.name_of(tensor)] = {"min": low, "max": high}
    return table
