"""Reading a TensorFlow.js model folder (model.json and its binary shards) into arrays; TensorFlow is not needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import WeightsError

STORED = {"float32": np.float32, "float16": np.float16, "int32": np.int32, "uint8": np.uint8, "uint16": np.uint16}


def read_weights(model_json: Path) -> dict[str, np.ndarray]:
    """Every float weight of the model by its name, as float32; quantized ones are brought back to floats."""
    description = json.loads(model_json.read_text(encoding="utf-8"))
    found: dict[str, np.ndarray] = {}
    for group in description["weightsManifest"]:
        shards = b"".join((model_json.parent / name).read_bytes() for name in group["paths"])
        found.update(_unpack(group["weights"], shards, model_json))
    return found


def _unpack(entries: list[dict[str, Any]], shards: bytes, source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array): the entries lie in the shards one behind the other."""
    start = 0
    for entry in entries:
        packing = entry.get("quantization", {})
        kind = packing.get("dtype", entry["dtype"])
        if kind not in STORED:
            raise WeightsError(f"{source}: {entry['name']} is stored as {kind}, which this reader does not know")
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(shards, STORED[kind], count, start).reshape(entry["shape"])
        start += values.nbytes
        if entry["dtype"] == "float32":
            values = values.astype(np.float32)
            if "scale" in packing:
                values = values * np.float32(packing["scale"]) + np.float32(packing["min"])
            yield entry["name"], values
    if start != len(shards):
        raise WeightsError(f"{source}: its shards hold {len(shards)} bytes where its manifest describes {start}")
