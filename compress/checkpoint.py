"""A checkpoint is weights + plans: safetensors beside JSON, and a rebuild that replays the plans on the base model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, fx, nn

from compress import quantize, rewrite
from compress.errors import InputError, WeightsError
from compress.files import write_bytes
from compress.graph.fold import fold_batch_norms
from compress.graph.surgery import apply_edits
from compress.types import edit_from_dict

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params_ema", "params")


@dataclass
class Student:
    """The model between two steps.

    `model` is the float student in traced form; once quantized, `folded` is its trained, norm-free form and
    `quantized` the same with standard quantize/dequantize ops. `plans` replays it from the base model.
    """

    model: fx.GraphModule
    plans: list[dict[str, Any]] = field(default_factory=list)
    folded: fx.GraphModule | None = None
    quantized: fx.GraphModule | None = None

    @property
    def final(self) -> fx.GraphModule:
        """What is shipped: the quantized model where there is one."""
        return self.quantized if self.quantized is not None else self.model

    def weights(self) -> dict[str, Tensor]:
        """All tensors a rebuild needs; the quantized form's are under `folded.`."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.folded is not None:
            tensors |= {f"folded.{k}": v for k, v in self.folded.state_dict().items()}
        return tensors


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save_tensors(plain))


def load_weights(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in a `.safetensors`, or in a `.pth`/`.pt` read without running code from it.

    Raises:
        InputError: there is no such file.
        WeightsError: it is damaged, holds more than plain tensors, or has no state dict under `key`.
    """
    if not path.is_file():
        raise InputError(f"teacher.weights: no file {path}; check the path")
    if path.suffix == ".safetensors":
        try:
            return load_tensors(path.read_bytes())
        except SafetensorError as error:
            raise WeightsError(f"{path}: damaged or truncated safetensors ({error}); fetch it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors come in many types
        reason = (
            "it holds more than plain tensors"
            if "Unsupported" in str(error) or "WeightsUnpickler" in str(error)
            else ("it is damaged or not a torch file")
        )
        raise WeightsError(f"{path}: refused, {reason}; save it again as model.state_dict() or safetensors") from error
    return _state_dict(content, path, key)


def _state_dict(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    if key is not None:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                raise WeightsError(f"{path}: has no key '{key}'; its keys are {_some(content)}")
            content = content[part]
    elif isinstance(content, Mapping):
        content = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), content)
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: no state dict in it (keys: {_some(content)}); name its place with teacher.key")
    return dict(content)


def _some(content: Any) -> str:
    keys = list(content) if isinstance(content, Mapping) else [type(content).__name__]
    return ", ".join(map(str, keys[:4])) + (", ..." if len(keys) > 4 else "")


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a model, all of them.

    Raises:
        WeightsError: names the first keys that are missing, unexpected or of another shape, or not finite.
    """
    # What wrapped the model when it was saved: data parallelism, or the weights of a run's own step.
    for prefix in ("module.", "model."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    own = model.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in weights and k not in optional]
    unexpected = [k for k in weights if k not in own and not k.endswith("num_batches_tracked")]
    shapes = [
        f"{k}: file {tuple(weights[k].shape)}, model {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    for what, names in (("lacks", missing), ("has unexpected", unexpected), ("has other shapes:", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(
                f"{source}: the weights do not fit the model: the file {what} {', '.join(names[:3])}{more}"
            )
    check_finite(weights, source)
    model.load_state_dict(dict(weights), strict=False)


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity, naming it."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise WeightsError(f"{source}: {name} holds {bad} NaN or infinite values; the weights are unusable")


def rebuild(
    base: fx.GraphModule,
    plans: Sequence[Mapping[str, Any]],
    weights: Mapping[str, Tensor],
    example_inputs: Sequence[Tensor],
) -> Student:
    """The student that `plans` and `weights` describe, made from the traced base model."""
    model = copy.deepcopy(base)
    quant_plan = None
    for plan in plans:
        if plan["kind"] == "quantize":
            quant_plan = quantize.QuantPlan.from_dict(plan)
        elif plan["kind"] == "rewrite":
            model = rewrite.apply(model, rewrite.RewritePlan.from_dict(plan), example_inputs)
        else:
            edits = [edit_from_dict(edit) for edit in plan["edits"]]
            model = apply_edits(model, edits, example_inputs, check=False)
    fit_weights(model, _under("model.", weights), "checkpoint")
    student = Student(model, [dict(plan) for plan in plans])
    if quant_plan is not None:
        student.folded = fold_batch_norms(model)
        fit_weights(student.folded, _under("folded.", weights), "checkpoint")
        student.quantized = quantize.apply(student.folded, quant_plan)
    return student


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
