"""Measures a file on a device of AI Hub, a cloud of real phones: uploads it, so only where the user asked for that."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.errors import CompressError, InputError, ToolError, ToolMissing, UnknownName
from compress.profile.rows import figures_of, of_times

_TAKES = {".onnx": "ONNX Runtime", ".tflite": "TensorFlow Lite"}
_UNITS = ("cpu", "gpu", "npu")
_NOT_LISTED = "AI Hub's profile does not list its single runs"


def measure_remotely(path: Path, device: str, unit: str, sha256: str, say: Callable[[str], None]) -> dict[str, Any]:
    """What a `Row` says of a file on a device of AI Hub's; its model, date and command are the caller's.

    `say` is told what is uploaded before it is.

    Raises:
        ToolMissing: the client is not installed. ToolError: AI Hub refuses, or the job fails there.
        InputError: it does not take such files. UnknownName: it has no such device or unit.
    """
    if unit and unit not in _UNITS:
        raise UnknownName("unit", unit, _UNITS)
    if path.suffix not in _TAKES:
        raise InputError(f"{path}: AI Hub profiles {' and '.join(_TAKES)} files here")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if importlib.util.find_spec("qai_hub") is None:
        raise ToolMissing("AI Hub's client qai-hub", "ai-hub")
    try:
        return _measure(importlib.import_module("qai_hub"), path, device, unit, sha256, say)
    except CompressError:
        raise
    except Exception as error:  # the client raises types of its own, and those of its network library
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ToolError(f"{path}: AI Hub refuses: {lines[0][:200]}") from error


def _measure(hub: Any, path: Path, name: str, unit: str, sha256: str, say: Callable[[str], None]) -> dict[str, Any]:
    found = hub.get_devices(name=name)
    if not found:
        raise UnknownName("AI Hub device", name, sorted({each.name for each in hub.get_devices()}))
    device = found[-1]
    options = f"--compute_unit {unit}" if unit else ""
    say(
        f"uploading {path} ({path.stat().st_size:,} bytes, sha256 {sha256[:12]}) to AI Hub, with the account that "
        f"qai-hub is set up for, to be profiled on {device.name} (OS {device.os})"
    )
    job = hub.submit_profile_job(model=str(path), device=device, name=path.stem, options=options)
    say(f"job {job.job_id}: {getattr(job, 'url', '')}")
    status = job.wait()
    if not status.success:
        raise ToolError(
            f"{path}: AI Hub's job {job.job_id} failed: {getattr(status, 'message', '') or 'no reason given'}"
        )
    profile = job.download_profile()
    try:
        summary = profile["execution_summary"]
        times_ms = [float(time_us) * 1e-3 for time_us in summary.get("all_inference_times") or ()]
        known = _known(summary, times_ms)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ToolError(f"{path}: AI Hub's profile of job {job.job_id} cannot be read: {error!r}") from error
    attributes = list(getattr(device, "attributes", ()) or ())
    count = len(times_ms) or None
    return {
        "device": device.name,
        "soc": next((each.split(":", 1)[1] for each in attributes if each.startswith("chipset:")), ""),
        "os": f"{next((each.split(':', 1)[1] for each in attributes if each.startswith('os:')), 'OS')} {device.os}",
        "unit": unit or _unit_of(profile.get("execution_detail") or ()),
        "runtime": _TAKES[path.suffix],
        "runtime_version": f"AI Hub's, job {job.job_id}",
        "threads": None,
        "n": count,
        "figures": figures_of(known, count),
        "notes": "a hosted device: its temperature and clocks are not known",
    }


def _known(summary: Mapping[str, Any], times_ms: Sequence[float]) -> dict[str, tuple[float | None, str]]:
    """Figures and their sources; times in a profile are microseconds, memory is bytes."""
    if times_ms:
        known: dict[str, tuple[float | None, str]] = {
            name: (value, f"of {len(times_ms)} runs on AI Hub") for name, value in of_times(times_ms).items()
        }
    else:
        names = ("latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "latency_min_ms")
        known = {name: (None, _NOT_LISTED) for name in names}
        known["latency_mean_ms"] = (
            float(summary["estimated_inference_time"]) * 1e-3,
            "AI Hub's estimated_inference_time",
        )
    load_us = summary.get("first_load_time")
    known["load_ms"] = (load_us * 1e-3, "AI Hub's first_load_time") if load_us else (None, "AI Hub did not report it")
    known["first_ms"] = (None, "AI Hub does not tell the first run apart")
    peak = summary.get("estimated_inference_peak_memory")
    if peak:
        known["peak_memory_bytes"] = (float(peak), "AI Hub's estimated_inference_peak_memory")
    elif span := summary.get("inference_memory_peak_range"):
        known["peak_memory_bytes"] = (float(span[1]), "the upper end of AI Hub's inference_memory_peak_range")
    return known


def _unit_of(layers: Sequence[Mapping[str, Any]]) -> str:
    """The unit that ran most layers, in our words; "" where the profile does not say."""
    named = [str(layer.get("compute_unit", "")).lower() for layer in layers]
    counted = {unit: named.count(unit) for unit in _UNITS if unit in named}
    return max(counted, key=lambda unit: counted[unit]) if counted else ""
