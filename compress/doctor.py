"""What is installed, what is missing and how to get it: looked up in package metadata, nothing heavy is imported."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.runtimes.arm64 import root as arm64

# tool (as pip names it) -> the extra that brings it ("" for the core), and what it is for
TOOLS: dict[str, tuple[str, str]] = {
    "torch": ("", "models and trainings"),
    "torch-pruning": ("", "prune"),
    "lightning-fabric": ("", "training on several processes or devices"),
    "optuna": ("", "search"),
    "onnx": ("", "export: onnx"),
    "onnxscript": ("", "export: onnx"),
    "onnxruntime": ("", "verify and profile: onnx"),
    "litert-torch": ("litert", "export: litert"),
    "ai-edge-quantizer": ("litert", "export: litert in int8"),
    "ai-edge-litert": ("litert", "verify and profile: litert"),
    "executorch": ("executorch", "export, verify and profile: executorch"),
    "torchao": ("executorch", "export: executorch in int8"),
    "coremltools": ("coreml", "export: coreml"),
    "nncf": ("nncf", "quantization algorithms of NNCF"),
    "timm": ("timm", "teachers named timm:NAME"),
    "qai-hub": ("ai-hub", "profile --measure --ai-hub"),
    "scikit-learn": ("examples", "examples/digits"),
    "pillow": ("examples", "examples/cifar10 and pictures in reports"),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """One package: its version, or "" and the line that installs it."""

    name: str
    purpose: str
    version: str
    install: str

    @property
    def present(self) -> bool:
        """Whether it is installed."""
        return bool(self.version)


def list_tools() -> tuple[Tool, ...]:
    """Every package that a verb may need, installed or not."""
    return tuple(_tool(name, extra, purpose) for name, (extra, purpose) in TOOLS.items())


def _tool(name: str, extra: str, purpose: str) -> Tool:
    try:
        return Tool(name, purpose, importlib.metadata.version(name), "")
    except importlib.metadata.PackageNotFoundError:
        return Tool(name, purpose, "", f"pip install -e '.[{extra}]'" if extra else "pip install -e .")


def examine(folder: Path | None = None) -> dict[str, Any]:
    """The state of this machine as plain JSON data; disk space (bytes) is that of `folder`, default the working one."""
    disk = shutil.disk_usage(folder or Path.cwd())
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu": cpu_name(),
        "cpu_threads": usable_threads(),
        "disk_free_bytes": disk.free,
        arm64.ARCH: arm64.state(),
        "tools": [
            {"name": tool.name, "purpose": tool.purpose, "version": tool.version, "install": tool.install}
            for tool in list_tools()
        ],
    }


def usable_threads() -> int:
    """How many CPU threads this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's name as the system gives it, or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
