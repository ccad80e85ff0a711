"""Write a LiteRT file (.tflite): float by litert-torch, else by quantizing that file with the program's own numbers."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from compress.export.litert_forms import prepared
from compress.export.program import float_compute_ops, output_count, sample_inputs, user_inputs

SUFFIX = ".tflite"
_TOOLS = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the file and returns the Artifact fields that LiteRT knows."""
    from compress.export import tflite

    float_ops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    delegate = "LiteRT CPU, XNNPACK"
    if scheme != "float32":
        from compress.export.litert_int8 import quantized

        content, outcome = quantized(program)
        float_ops = (*float_compute_ops(program), *outcome.float_ops)
        notes, delegate = outcome.notes, outcome.delegate
    else:
        ready = prepared(program)
        model = tflite.read(convert(ready.module(check_guards=False), sample_inputs(ready)))
        tflite.shorten_names(model)
        content = tflite.to_bytes(model)
    path.write_bytes(content)
    return {
        "input_names": tuple(f"args_{index}" for index in range(len(user_inputs(program)))),
        "output_names": tuple(f"output_{index}" for index in range(output_count(program))),
        "input_shapes": tuple(shape for _, shape in user_inputs(program)),
        "delegate": delegate,
        "float_ops": float_ops,
        "tool_versions": {name: importlib.metadata.version(name) for name in _TOOLS},
        "notes": notes,
    }


def convert(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    """The float TFLite bytes of a module of ATen ops."""
    import litert_torch

    return bytes(litert_torch.convert(module, inputs).model_content())
