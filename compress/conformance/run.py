"""One case in one scheme and one format: traced, quantized, written, run in its real runtime, compared, judged."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import fx, nn

from compress import quantize
from compress.conformance.case import FRAME, Case
from compress.conformance.cases import CASES
from compress.conformance.forms import forms_of
from compress.errors import CheckFailed, CompressError, ToolError, UnknownName
from compress.export import export
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.quantize.schemes import precision
from compress.runtimes import available, load_to_check
from compress.types import Artifact
from compress.verify.gate import describe, judge
from compress.verify.parity import compare
from compress.verify.structure import check
from compress.verify.thresholds import Threshold, threshold_of

Word = Literal["pass", "wrong", "refused", "fell back"]
WORDS: tuple[Word, ...] = ("pass", "fell back", "refused", "wrong")  # the better first
SCHEMES = ("float32", "float16", "w8a8", "w8a16")
NUMBERS, STRUCTURE = "numbers", "structure"

_SAMPLES, _CALIBRATION_SAMPLES = 2, 4
_REASON_CHARACTERS = 220
_OUTSIDE = "on the portable kernels: "  # how an ExecuTorch artifact notes what its delegate left behind
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+@-]+/)+")
_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case: the verdict, why, how close, and what ran it.

    `verdict`: "pass"; "wrong": it ran and computes something else; "refused": no file, or one its runtime does not
    take; "fell back": right, but in float where integers were asked for, or outside the runtime's delegate.
    `checked` is "numbers" where outputs were compared, "structure" where the runtime is not on this machine, ""
    where there was nothing to check. `sqnr_db` and `max_error` are against the float model, or against its
    fake-quantized form. `forms` are those of the ops in the case (see `forms`).
    """

    case: str
    scheme: str
    format: str
    verdict: Word
    reason: str = ""
    sqnr_db: float | None = None
    max_error: float | None = None
    ran_on: str = ""
    delegate: str = ""
    checked: str = ""
    forms: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The result back from plain JSON data."""
        return cls(**{**record, "forms": tuple(record.get("forms", ()))})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A case ready for the exporters: its program, what it must compute on `samples`, and the forms in it.

    `floats` names each op that the quantizer itself leaves in float, with its reason.
    """

    program: Any
    reference: Callable[..., np.ndarray]
    samples: tuple[tuple[np.ndarray, ...], ...]
    forms: tuple[str, ...]
    floats: tuple[str, ...] = ()


def run(case: Case | str, scheme: str, format: str) -> Result:
    """The result of a case; whatever goes wrong is part of it, only a crash of native code ends the process."""
    name = case if isinstance(case, str) else case.name
    one = CASES[case] if isinstance(case, str) else case

    forms: tuple[str, ...] = ()

    def result(verdict: Word, reason: str = "", **more: Any) -> Result:
        return Result(name, scheme, format, verdict, plain(reason), forms=forms, **more)

    try:
        prepared = prepare(one, scheme)
        forms = prepared.forms
        with tempfile.TemporaryDirectory() as scratch:
            artifact = export(prepared.program, format, scheme, scratch, "case")
            return _judged(result, artifact, Path(scratch) / artifact.path, prepared)
    except UnknownName as error:
        return result("refused", "scheme not built" if error.kind == "scheme" else str(error))
    except CompressError as error:
        return result("refused", str(error))
    except Exception as error:
        return result("refused", f"{type(error).__name__}: {error}")


@lru_cache(maxsize=1)
def prepare(case: Case, scheme: str) -> Prepared:
    """The case traced, folded and quantized as the scheme asks; the last one is kept for the next format.

    Raises:
        CompressError: it cannot be traced, or there is no such scheme.
    """
    module, inputs = case.module(), case.inputs(_CALIBRATION_SAMPLES)
    traced = trace(module, inputs[0])
    forms = forms_of(traced, without=FRAME)
    model: nn.Module = module
    graph: fx.GraphModule = traced
    floats: tuple[str, ...] = ()
    if precision(scheme).name != "float32":
        folded = fold_batch_norms(traced)
        plan = quantize.plan(folded, scheme, inputs)
        model = graph = quantize.apply(folded, plan)
        floats = tuple(f"{name}: {reason}" for name, reason in plan.float_ops.items())
    program = export_static(graph, inputs[0])
    samples = tuple(tuple(value.numpy() for value in sample) for sample in inputs[:_SAMPLES])
    return Prepared(program, _reference(model), samples, forms, floats)


def _reference(model: nn.Module) -> Callable[..., np.ndarray]:
    def compute(*inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            output: torch.Tensor = model(*(torch.from_numpy(value) for value in inputs))
        return output.float().numpy()

    return compute


def _judged(result: Callable[..., Result], artifact: Artifact, path: Path, prepared: Prepared) -> Result:
    """The result of an artifact: run in its runtime or in a reference evaluator, else looked into."""
    try:
        return _by_numbers(result, artifact, path, prepared)
    except ToolError as error:
        if available(artifact.format) is None:
            raise
        return _by_structure(result, artifact, path, prepared, str(error))
    except CheckFailed as error:
        return result("wrong", str(error), delegate=delegate_of(artifact), checked=STRUCTURE)


def _by_numbers(result: Callable[..., Result], artifact: Artifact, path: Path, prepared: Prepared) -> Result:
    """The result of a run on the samples; raises ToolError where nothing here can compute the file."""
    session = load_to_check(path, artifact.format)
    try:
        pairs = [(prepared.reference(*sample), session.run(*sample)[0]) for sample in prepared.samples]
        ran_on = describe(session)
    finally:
        session.close()
    told: dict[str, Any] = {"ran_on": ran_on, "delegate": delegate_of(artifact), "checked": NUMBERS}
    try:
        for wanted, given in pairs:
            compare(wanted, given)
    except CheckFailed as error:
        return result("wrong", str(error), **told)
    parity = compare(*(np.concatenate([side.ravel() for side in sides]) for sides in zip(*pairs, strict=True)))
    told |= {"sqnr_db": round(parity.sqnr_db, 1), "max_error": float(f"{parity.max_error:.3g}")}
    amiss = judge(parity, limits_of(artifact.scheme))
    if amiss:
        return result("wrong", amiss, **told)
    return _by_residence(result, artifact, prepared, told)


def _by_structure(
    result: Callable[..., Result], artifact: Artifact, path: Path, prepared: Prepared, absent: str
) -> Result:
    """The result of a file whose runtime is not here: right ops, interface and weights, or not."""
    told: dict[str, Any] = {
        "ran_on": f"not run here: {plain(absent)}",
        "delegate": delegate_of(artifact),
        "checked": STRUCTURE,
    }
    if artifact.format != "coreml":
        return result("refused", absent, **told)
    wrong = [str(finding) for finding in check(path, artifact, prepared.program) if not finding.passed]
    if wrong:
        return result("wrong", "; ".join(wrong), **told)
    return _by_residence(result, artifact, prepared, told)


def _by_residence(
    result: Callable[..., Result], artifact: Artifact, prepared: Prepared, told: Mapping[str, Any]
) -> Result:
    """Pass, or "fell back": by the quantizer's account, or the artifact's of what stayed float or left its delegate."""
    outside = [note.removeprefix(_OUTSIDE) for note in artifact.notes if note.startswith(_OUTSIDE)]
    left = [*prepared.floats, *artifact.float_ops, *outside]
    return result("fell back", "; ".join(left), **told) if left else result("pass", **told)


def limits_of(scheme: str) -> Threshold:
    """What one op must keep in a scheme: stricter than a whole model's threshold."""
    return Threshold(min_sqnr_db=threshold_of(scheme).op_sqnr_db)


def delegate_of(artifact: Artifact) -> str:
    """What executes the artifact, without how many parts it fell into."""
    return artifact.delegate.partition(" (")[0]


def plain(reason: str) -> str:
    """A reason on one line that says the same on every machine: no folders, no addresses, no length without end."""
    text = _ADDRESS.sub("0x...", _FOLDERS.sub("", " ".join(reason.split())))
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 3] + "..."
