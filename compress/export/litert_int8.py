"""Make a TFLite file with stored weights and quantized values whose every scale and code is the program's own.

litert-torch cannot lower per-channel dequantize ops, so the program is taken apart: its float twin (weights are the
values their codes stand for) is converted, each TFLite tensor is paired with the program value it holds, the program's
ranges go to ai-edge-quantizer in place of a calibration, and what it rounded differently is set back: the scales to the
last bit, the weights to the program's codes, the biases to integers at the product of the two.

Each operator gets the treatment that its own values and weight ask for, so one file may mix them:

    values 8 or 16 bits, weight 8 or 4 bits    static: integers in and out
    float values, weight 8 or 4 bits           the weight made float again by a DEQUANTIZE op
    float values, weight 4 bits in groups      XNNPACK's kernel, which rounds its input to 8 bits as it runs
    float16 weight                             made float again by a DEQUANTIZE op
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
from compress.export.litert_exact import WEIGHTED, match_weights, set_exactly
from compress.export.litert_forms import prepared
from compress.export.match import Match, match
from compress.export.program import has_ranges, input_dtypes, tally, user_inputs
from compress.export.qdq import Range, Recorder, Stripped, strip
from compress.export.weights import Weight

# Ops whose output is a choice among their input's values: it has the input's range.
_KEEPS_RANGE = ("TRANSPOSE", "RESHAPE", "PAD", "PADV2", "SQUEEZE", "EXPAND_DIMS", "SLICE", "STRIDED_SLICE", "GATHER",
                "MAX_POOL_2D", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "RESIZE_NEAREST_NEIGHBOR", "SPLIT", "UNPACK",
                "MIRROR_PAD", "GATHER_ND", "BROADCAST_TO")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a quantization left in float, what there is to say about it, and what executes the file."""

    float_ops: tuple[str, ...]
    notes: tuple[str, ...]
    delegate: str


@dataclass(frozen=True, slots=True)
class Job:
    """What one operator is to become: `bits` of its values (0: float) and its stored weight, if it has one.

    `scope` is the operator's name to ai-edge-quantizer, `outputs` the names of what it computes.
    """

    scope: str
    title: str
    outputs: tuple[str, ...]
    bits: int = 0
    weight: Weight | None = None


def quantized(program: ExportedProgram) -> tuple[bytes, Outcome]:
    """The TFLite bytes of a program with stored weights, and what stayed float.

    Raises:
        Exception: whatever the converter or the quantizer raises; `compress.export.export` makes it one line.
    """
    program = prepared(program)
    stripped = strip(program)
    samples = _samples(program, stripped)
    model = tflite.read(convert(stripped.module, samples))
    tflite.shorten_names(model)
    content = tflite.to_bytes(model)
    found = _match(content, stripped, samples)
    graph = model.subgraphs[0]
    _spread(model, found)
    codes = match_weights(model, stripped.weights)
    lost = [value.name for value in stripped.weights if value.name not in {entry.name for entry in codes.values()}]
    jobs, float_ops = _split(model, found, codes, certain=not lost)
    result = tflite.read(_quantize(content, jobs, _statistics(model, found, stripped)))
    names = {tflite.name_of(graph.tensors[index]): value for index, value in found.ranges.items()}
    unset = set_exactly(result, model, [*names.values(), *stripped.reads.values()], codes)
    notes = [f"{name}: its weight is stored as float32 or rounded anew (the converter takes it apart)" for name in lost]
    notes += [f"{name}: {reason}" for name, reason in unset.items()]
    if not has_ranges(program):
        float_ops = []  # weights alone: every operator is meant to compute on floats
    lines = tally(float_ops + _refused(result, jobs, codes))
    return tflite.to_bytes(result), Outcome(lines, tally(notes + _asides(jobs)), _delegate(jobs))


def _samples(program: ExportedProgram, stripped: Stripped) -> tuple[torch.Tensor, ...]:
    """One random input per argument, spread over the range the program quantizes it to (over -1..1 without one).

    Integers are 0 or 1, which are legal indices of any table.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for (name, shape), dtype in zip(user_inputs(program), input_dtypes(program), strict=True):
        if not dtype.is_floating_point:
            inputs.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
            continue
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


def _split(model: Any, found: Match, codes: dict[str, Weight], certain: bool) -> tuple[list[Job], list[str]]:
    """(what each operator is to become, a line for each operator that computes on floats).

    Where not every weight was found (`certain` is False), a weight that is none of the program's is taken for one.
    """
    tensors = model.subgraphs[0].tensors
    jobs, lines = [], []
    for operator in model.subgraphs[0].operators:
        outputs = [int(index) for index in operator.outputs]
        around = _data_inputs(model, operator) + [i for i in outputs if tflite.is_type(tensors[i], "FLOAT32")]
        blank = [index for index in around if index not in found.ranges]
        held, weight = _weight(model, operator, codes)
        names = tuple(tflite.name_of(tensors[index]) for index in outputs)
        place = names[0].split("#")[0] or names[0]
        job = Job(";".join(names), f"{tflite.op_of(model, operator)} at {place}", names, 0, weight)
        is_float = held and certain and (weight is None or weight.kind != "integer")
        turned = _has_constant_on_the_left(model, operator)
        if not blank and around and not is_float and not turned:
            jobs.append(Job(job.scope, job.title, names, found.ranges[around[-1]].bits, weight))
            continue
        if weight is not None:
            jobs.append(job)
        form = weight.form if weight is not None else "float32"
        reason = _blank_reason(tensors, found, blank[0]) if blank else f"its weight is {form}"
        if turned and not blank:
            reason = "LiteRT's quantizer takes a constant matrix on the right alone"
        if around:
            lines.append(f"{job.title} ({reason})")
    return jobs, lines


def _has_constant_on_the_left(model: Any, operator: Any) -> bool:
    """Whether an operator multiplies a constant matrix with a value: quantized, it computes something else."""
    left = model.subgraphs[0].tensors[int(operator.inputs[0])] if len(operator.inputs) else None
    is_product = tflite.op_of(model, operator) == "BATCH_MATMUL"
    return is_product and tflite.constant_of(model, left) is not None


def _weight(model: Any, operator: Any, codes: dict[str, Weight]) -> tuple[bool, Weight | None]:
    """(whether an operator is a layer with a constant weight, the program's stored weight that it is)."""
    places = WEIGHTED.get(tflite.op_of(model, operator))
    if places is None:
        return False, None
    tensor = model.subgraphs[0].tensors[int(operator.inputs[places[1]])]
    return tflite.constant_of(model, tensor) is not None, codes.get(tflite.name_of(tensor))


def _blank_reason(tensors: list[Any], found: Match, index: int) -> str:
    name = tflite.name_of(tensors[index])
    if index in found.ambiguous:
        return f"tensor {name} agrees with values of different range: {', '.join(found.ambiguous[index][:4])}"
    return f"the program gives no range for tensor {name}"


def _quantize(content: bytes, jobs: list[Job], statistics: dict[str, dict[str, np.ndarray]]) -> bytes:
    """The bytes after ai-edge-quantizer, with the jobs done and all else, and the border, in float."""
    from ai_edge_quantizer import quantizer as aeq
    from ai_edge_quantizer.qtyping import TFLOperationName as Op

    worker = aeq.Quantizer(content)
    for job in jobs:
        _order(worker, job)
    for border in (Op.INPUT, Op.OUTPUT):
        worker.update_quantization_recipe(".*", border, algorithm_key=aeq.AlgorithmName.NO_QUANTIZE)
    result = worker.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    assert result.quantized_model is not None
    return bytes(result.quantized_model)


def _order(worker: Any, job: Job) -> None:
    """Tells ai-edge-quantizer what one operator is to become."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer import quantizer as aeq

    everything, scope, weight = qtyping.TFLOperationName.ALL_SUPPORTED, f"^{re.escape(job.scope)};?$", job.weight
    if job.bits:
        worker.add_static_config(scope, everything, job.bits, weight.bits if weight else 8)
    elif weight is not None and weight.kind == "float16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        worker.update_quantization_recipe(scope, everything, config, aeq.AlgorithmName.FLOAT_CASTING)
    elif weight is not None and weight.group:
        blocks = getattr(qtyping.QuantGranularity, f"BLOCKWISE_{weight.group}")
        worker.add_dynamic_config(scope, everything, weight.bits, blocks)
    elif weight is not None:
        worker.add_weight_only_config(scope, everything, weight.bits)


def _refused(result: Any, jobs: list[Job], codes: dict[str, Weight]) -> list[str]:
    """A line for each job that the finished file does not bear out: the quantizer passes over what it cannot do."""
    tensors = {tflite.name_of(tensor): tensor for tensor in result.subgraphs[0].tensors}
    floats = {weight.name for name, weight in codes.items() if tflite.is_type(tensors[name], "FLOAT32")}
    lines = []
    for job in jobs:
        if job.bits and any(tflite.is_type(tensors[name], "FLOAT32") for name in job.outputs):
            lines.append(f"{job.title} (LiteRT's quantizer has no {job.bits}-bit rule for it)")
        elif job.weight is not None and job.weight.name in floats:
            lines.append(f"{job.title} (its {job.weight.form} weight is stored as float32: the quantizer has no rule)")
    return lines


def _asides(jobs: list[Job]) -> list[str]:
    grouped = any(job.weight is not None and job.weight.group for job in jobs)
    return ["layers with weights in groups round their inputs to 8 bits as they run"] if grouped else []


def _delegate(jobs: list[Job]) -> str:
    """What executes the file, and on what numbers."""
    wide = any(job.bits == 16 for job in jobs)
    restored = sorted({job.weight.form for job in jobs if job.weight and not job.bits and not job.weight.group})
    parts = ["LiteRT CPU, XNNPACK"]
    if wide:
        parts.append("16-bit values on LiteRT's own kernels, for XNNPACK has none")
    if restored:
        parts.append(f"{' and '.join(restored)} weights are made float32 again")
    return "; ".join(parts)


def _statistics(model: Any, found: Match, stripped: Stripped) -> dict[str, dict[str, np.ndarray]]:
    """Tensor name -> min and max, as a calibration would have given them.

    A value that is read on a second range has that one's ends where it is the 8-bit one: the 16-bit range, which is
    symmetric, follows from them, and not the other way round.
    """
    narrow = {_key(stripped.ranges[name][0]): value for name, value in stripped.reads.items() if value.bits == 8}
    table = {}
    for index, given in found.ranges.items():
        value = narrow.get(_key(given), given)
        tensor = model.subgraphs[0].tensors[index]
        shape = (1,) * max(len(tflite.shape_of(tensor)), 1)
        low, high = (np.full(shape, bound, np.float32) for bound in (value.low, value.high))
        table[tflite.name_of(tensor)] = {"min": low, "max": high}
    return table


def _key(value: Range) -> tuple[float, int]:
    return value.scale, value.bits
