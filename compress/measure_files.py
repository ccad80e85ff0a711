"""Files measured on this machine, on a phone, on a Mac or on a hosted device: the door behind `profile --measure`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from compress.errors import CompressError, DeviceLost, InputError, RecipeError, RunFolderError, ToolError, UnknownName
from compress.files import sha256_of
from compress.profile import rows
from compress.profile.ai_hub import measure_remotely
from compress.profile.android.executorch import ExecutorchTool
from compress.profile.android.litert import LitertTool
from compress.profile.android.onnxruntime import OnnxruntimeTool
from compress.profile.android.run import Bench, Effort, Measured, bench, find_program, stamp
from compress.profile.android.tool import Tool
from compress.profile.apple import REPORT, measure_package, refuse_report
from compress.profile.host_files import measure_file
from compress.profile.rows import FIGURES, HOST, Row, figures_of
from compress.runtimes.adb import Phone, connect
from compress.types import Scheme

TOOLS_VARIABLE = "COMPRESS_TOOLS"  # names the folder of the phone's benchmark programs where --tools does not
_FORMATS = {".onnx": "onnx", ".tflite": "litert", ".pte": "executorch", ".mlpackage": "coreml"}
_TOOLS: dict[str, Tool] = {tool.format: tool for tool in (LitertTool(), ExecutorchTool(), OnnxruntimeTool())}
_PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.soc.manufacturer", "ro.soc.model",
               "ro.board.platform", "ro.build.version.release", "ro.build.fingerprint")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Where:
    """What to measure on: a phone (its serial, or "adb" for the only one), a device of AI Hub's, else this machine.

    `tools` is the folder of the phone's benchmark programs. `target`, `unit` and `scheme` are noted in the rows;
    `unit` also chooses where the file runs, as far as the runtime lets it.
    """

    phone: str = ""
    ai_hub: str = ""
    tools: Path | None = None
    target: str = ""
    unit: str = ""
    scheme: str = ""


@dataclass(slots=True)
class Outcome:
    """The rows that came, how many of them were added to the file, and the error of each file that has one."""

    rows: list[Row] = field(default_factory=list)
    added: int = 0
    failed: dict[str, CompressError] = field(default_factory=dict)


def measure_files(
    models: Sequence[str],
    where: Where,
    effort: Effort,
    command: str,
    out: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Measures each file, one after another, and writes each row to `out` as soon as it is there.

    A file that cannot be measured does not stop the others; a phone that goes away does, and rows that cannot be saved.

    Args:
        models: paths of .onnx, .tflite, .pte files or .mlpackage folders.
        where: what to measure on.
        effort: how many runs, rounds and threads, and how long to cool down.
        command: the command line, noted in the rows.
        out: a CSV file that rows are added to.
        say: is told what is going on, line by line.

    Raises:
        RecipeError: what was asked contradicts itself. UnknownName: there is no such scheme.
        InputError: `out` cannot take the rows.
        ToolError: there is no phone, or it does not let this computer in.
    """
    if where.phone and where.ai_hub:
        raise RecipeError("--device and --ai-hub: name one of them")
    if where.scheme and where.scheme not in get_args(Scheme):
        raise UnknownName("scheme", where.scheme, get_args(Scheme))
    if out is not None:
        rows.check(out)
    done = Outcome()
    with contextlib.ExitStack() as stack:
        one = _measurer(where, effort, stack, say)
        for model in models:
            try:
                done.rows.append(_row(model, where, command, one))
                if out is not None:
                    rows.append(out, done.rows[-1])
                    done.added += 1
            except (DeviceLost, RunFolderError) as error:  # nothing that comes after it can do better
                done.failed[model] = error
                break
            except CompressError as error:
                done.failed[model] = error
    return done


def _row(model: str, where: Where, command: str, one: Callable[[Path], dict[str, Any]]) -> Row:
    """The row of one file."""
    path = Path(model)
    if path.suffix == REPORT:
        raise refuse_report(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"{model}: --measure takes {', '.join(_FORMATS)} files")
    if not path.exists():
        raise InputError(f"{model}: no such file")
    found = one(path)
    target = where.target or ("host" if found["device"] == HOST else found["device"])
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Row(
        model=model, sha256=sha256_of(path), target=target, scheme=where.scheme, date=date, command=command, **found
    )


def _measurer(
    where: Where, effort: Effort, stack: contextlib.ExitStack, say: Callable[[str], None]
) -> Callable[[Path], dict[str, Any]]:
    """What measures one file there; a phone is looked for once, and cleaned up when the stack closes."""
    if where.ai_hub:
        return lambda path: _hosted(path, where, say)
    if not where.phone:
        return lambda path: _here(path, where, effort)
    folder = where.tools or Path(os.environ.get(TOOLS_VARIABLE) or ".")
    phone = connect(where.phone)
    facts = _facts(phone)
    say(f"measuring on {facts['device']} ({facts['os']}), serial {phone.serial}")
    place = stack.enter_context(bench(phone, say))
    return lambda path: _on_phone(path, place, facts, folder, where.unit or "cpu", effort)


def _hosted(path: Path, where: Where, say: Callable[[str], None]) -> dict[str, Any]:
    """A file on a device of AI Hub's."""
    if beside := _beside(path):
        raise InputError(
            f"{path}: keeps weights in {beside[0].name}: save it as one file to have it measured on AI Hub"
        )
    return measure_remotely(path, where.ai_hub, where.unit, sha256_of(path), say)


def _here(path: Path, where: Where, effort: Effort) -> dict[str, Any]:
    """A file on this machine."""
    if path.suffix == ".mlpackage":
        return measure_package(path, where.unit, effort.runs, effort.warm_up)
    if where.unit not in ("", "cpu"):
        raise UnknownName("unit of this machine", where.unit, ("cpu",))
    return measure_file(path, _FORMATS[path.suffix], effort.runs, effort.warm_up, effort.threads)


def _on_phone(
    path: Path, place: Bench, facts: dict[str, str], folder: Path, unit: str, effort: Effort
) -> dict[str, Any]:
    """A file on a phone, by its runtime's benchmark program."""
    tool = _TOOLS.get(_FORMATS[path.suffix])
    if tool is None:
        raise ToolError(f"{path}: Core ML runs on Apple's devices only; export the model as LiteRT, ExecuTorch or ONNX")
    if unit not in tool.units:
        raise UnknownName(f"unit of {tool.program}", unit, tool.units)
    program = find_program(tool, folder)
    measured = place.measure(path, tool, program, unit, effort, _beside(path))
    reasons = measured.throttled()
    first, last = measured.states[0], measured.states[-1]
    return facts | {
        "unit": unit,
        "runtime": tool.runtime,
        "runtime_version": stamp(program),
        "threads": effort.threads,
        "n": measured.n,
        "figures": figures_of({name: measured.figure(name) for name in FIGURES}, measured.n),
        "throttled": bool(reasons),
        "throttled_why": "; ".join(reasons),
        "governor": first.governor,
        "temperature_before_c": first.temperature_c,
        "temperature_after_c": last.temperature_c,
        "notes": "; ".join([*measured.notes, *_unwatched(measured)]),
        "environment": {"phone_command": measured.command, "states": [state.to_dict() for state in measured.states]},
    }


def _beside(path: Path) -> list[Path]:
    """The files that hold an ONNX file's weights where it does not hold them itself; raises InputError without them."""
    if path.suffix != ".onnx":
        return []
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except Exception:  # protobuf's own; whoever runs the file says what is wrong with it
        return []
    names = dict.fromkeys(ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor))
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or not (path.parent / name).is_file():
            raise InputError(f"{path}: its weights are in {name}, and that file is not beside it")
    return [path.parent / name for name in names]


def _unwatched(measured: Measured) -> list[str]:
    """What of the phone's state could not be seen, so that "not throttled" is not taken for more than it is."""
    first = measured.states[0]
    unseen = {"thermal status": first.status is None, "clocks": not first.caps_khz, "temperature": not first.sensor}
    names = [name for name, is_unseen in unseen.items() if is_unseen]
    return [f"the phone does not show its {', '.join(names)}"] if names else []


def _facts(phone: Phone) -> dict[str, str]:
    """Device, SoC and OS of a phone, as it names itself."""
    answers = phone.shell("; ".join(f"getprop {name}" for name in _PROPERTIES)).output.splitlines()
    maker, model, soc_maker, soc, board, release, fingerprint = (
        answer.strip() for answer in (answers + [""] * len(_PROPERTIES))[: len(_PROPERTIES)]
    )
    return {
        "device": f"{maker} {model}".strip() or phone.serial,
        "soc": f"{soc_maker} {soc}".strip() or board,
        "os": f"Android {release}, {fingerprint}",
    }
