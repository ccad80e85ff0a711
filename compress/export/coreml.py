"""Write a Core ML package (.mlpackage, ML Program), on any system: only running it needs a Mac or a phone.

A float32 model computes in float32. Every other one computes in float16 between its integers, and on weights that are
made float16 again: the Neural Engine takes nothing wider. Inputs and outputs are float32 either way. Packages ask for
iOS 17; 4-bit weights and palettes of several tables ask for iOS 18.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from compress.export.coreml_forms import is_refused_resize, spell_out
from compress.export.program import (
    constant_keys,
    float_compute_ops,
    has_ranges,
    output_names,
    user_inputs,
    without_unused,
)
from compress.export.resizes import as_products
from compress.export.weights import Weight, fold_weights, stored_weights

SUFFIX = ".mlpackage"
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's URL namespace


def write(program: ExportedProgram, scheme: str, path: Path) -> dict[str, Any]:
    """Writes the package and returns the Artifact fields that Core ML knows."""
    model = _convert(program, scheme)
    model.save(str(path))
    _tidy(path)
    spec = model.get_spec().description
    inputs = user_inputs(program)
    return {
        "input_names": tuple(entry.name for entry in spec.input),
        "output_names": tuple(entry.name for entry in spec.output),
        "input_shapes": tuple(shape for _, shape in inputs),
        "delegate": "Core ML: the device picks the Neural Engine, the GPU or the CPU",
        "float_ops": float_compute_ops(program) if has_ranges(program) else (),
        "tool_versions": {name: importlib.metadata.version(name) for name in ("torch", "coremltools")},
        "notes": _notes(program, scheme),
    }


def _notes(program: ExportedProgram, scheme: str) -> tuple[str, ...]:
    """What there is to say about the numbers and the systems of a package."""
    if scheme == "float32":
        return ()
    numbers = "between int8 values it computes in float16" if has_ranges(program) else "it computes in float16"
    return (numbers, "needs iOS 18 or macOS 15") if _is_new(stored_weights(program)) else (numbers,)


def _is_new(weights: list[Weight]) -> bool:
    """Whether a weight is stored in a form that came with iOS 18."""
    return any(weight.form.startswith("int4") or len(weight.tables) > 1 for weight in weights)


def _convert(program: ExportedProgram, scheme: str) -> Any:
    """The converted model, not loaded: loading compiles it, which only a Mac can."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct

    logging.getLogger("coremltools").setLevel(logging.ERROR)  # the import resets it
    precision = ct.precision.FLOAT32 if scheme == "float32" else ct.precision.FLOAT16
    system = ct.target.iOS18 if _is_new(stored_weights(program)) else ct.target.iOS17
    program = as_products(program, is_refused_resize)
    folded, weights = fold_weights(program, lambda weight: weight.kind != "integer" or weight.group > 0)
    lean = without_unused(folded).run_decompositions({})
    _describe(lean, weights)
    return ct.convert(
        spell_out(lean), convert_to="mlprogram", compute_precision=precision,
        minimum_deployment_target=system, skip_model_load=True,
        outputs=[ct.TensorType(name=name, dtype=np.float32) for name in output_names(program)],
    )  # fmt: skip


def _describe(program: ExportedProgram, weights: list[Weight]) -> None:
    """Tells coremltools, by the names it looks for in the state dict, how to store palettes and groups, in place."""
    names = {key: name for name, key in constant_keys(program).items()}
    for weight in weights:
        stem = f"_COREML_/{names[weight.key]}"
        if weight.kind == "palette":
            ones = [1] * (weight.codes.dim() - 1)
            tables = weight.tables.reshape(len(weight.tables), *ones, -1, 1)
            program.state_dict[f"{stem}/compression_type"] = torch.tensor([2])
            program.state_dict[f"{stem}/lut"] = tables
        elif weight.group:
            program.state_dict[f"{stem}/compression_type"] = torch.tensor([3])
            program.state_dict[f"{stem}/quantization_n_bits"] = torch.tensor(weight.bits)
            program.state_dict[f"{stem}/quantization_scale"] = weight.scales.reshape(len(weight.codes), -1)


def _tidy(package: Path) -> None:
    """Makes the package the same bytes on every conversion: no debug file, and names derived from contents."""
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text())
    entries: dict[str, Any] = {}
    renamed: dict[str, str] = {}
    for key, entry in manifest.get("itemInfoEntries", {}).items():
        item = package / "Data" / entry["path"]
        if "debug" in entry["path"]:
            shutil.rmtree(item, ignore_errors=True)
            item.unlink(missing_ok=True)
            continue
        renamed[key] = str(uuid.uuid5(_NAMESPACE, entry["path"])).upper()
        entries[renamed[key]] = entry
    manifest["itemInfoEntries"] = dict(sorted(entries.items()))
    root = manifest.get("rootModelIdentifier")
    manifest["rootModelIdentifier"] = renamed.get(root, root)
    manifest_path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")  # as coremltools rewrites it
    for stray in package.glob("*debug*.json"):
        stray.unlink()


def op_counts_of(spec: Any) -> Counter[str]:
    """How often each MIL op stands in a Core ML specification."""
    counts: Counter[str] = Counter()
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            counts.update(operation.type for operation in block.operations)
    return counts
