"""Saved Core ML packages in the reference evaluator: they agree with torch, and a fault planted on disk is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress import quantize
from compress.errors import CheckFailed, InputError, ToolError
from compress.export import available as can_export
from compress.export import export
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import export_static, trace
from compress.runtimes import available, load, load_to_check
from compress.runtimes import intermediates as look_inside
from compress.runtimes.coreml import open_reference
from compress.runtimes.session import Session
from compress.verify import compare
from tests.runtimes.mil_nets import SIZES, Attention, Decoder, Encoder, Resizing, constant, edit, first, made

pytestmark = pytest.mark.skipif(can_export("coreml") is not None, reason=f"{can_export('coreml')}")

# Against torch, as a share of the output's range. float16: each op rounds once, to 5e-4 of its value.
FLOAT32, FLOAT16 = 1e-3, 1e-2
W8A8_DB = 30.0  # roundings that fall the other way because the package computes in float16 in between


@cache
def model(kind: type[nn.Module], scheme: str) -> tuple[nn.Module, torch.Tensor]:
    net, x = made(kind)
    if scheme == "float32":
        return net, x
    folded = fold_batch_norms(trace(net, (x,)))
    return quantize.apply(folded, quantize.plan(folded, scheme, [(torch.randn_like(x),) for _ in range(4)])), x


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[type[nn.Module], str], Path]:
    folder = tmp_path_factory.mktemp("packages")

    @cache
    def written(kind: type[nn.Module], scheme: str) -> Path:
        net, x = model(kind, scheme)
        return folder / export(export_static(net, (x,)), "coreml", scheme, folder, f"{kind.__name__}-{scheme}").path

    return written


@pytest.fixture
def package(packages: Callable[[type[nn.Module], str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a package that a test may spoil."""
    return lambda kind, scheme="float32": Path(shutil.copytree(packages(kind, scheme), tmp_path / "net.mlpackage"))


def wanted(kind: type[nn.Module], scheme: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    net, x = model(kind, scheme)
    with torch.no_grad():
        return x.numpy(), net(x).numpy()


@pytest.mark.parametrize("kind", SIZES)
def test_float_packages_compute_what_torch_computes(kind: type[nn.Module], packages: Any) -> None:
    x, right = wanted(kind)
    session = open_reference(packages(kind, "float32"))
    assert isinstance(session, Session) and "not Core ML itself" in session.name
    (found,) = session.run(x)
    assert compare(right, found).max_relative_error < FLOAT32
    kept = found.copy()
    session.run(x * 2 + 1)
    assert np.array_equal(found, kept)
    session.close()
    with pytest.raises(CheckFailed, match="closed"):
        session.run(x)


@pytest.mark.parametrize("kind", [Decoder, Attention])
def test_quantized_packages_compute_what_their_fake_quantized_model_computes(
    kind: type[nn.Module], packages: Any
) -> None:
    x, right = wanted(kind, "w8a8")
    found = compare(right, open_reference(packages(kind, "w8a8")).run(x)[0])
    floats = compare(right, wanted(kind)[1])
    assert found.sqnr_db > W8A8_DB and found.sqnr_db > floats.sqnr_db  # its codes, not merely its floats


@pytest.mark.parametrize("scheme", ["float16", "palette4"])
def test_halves_and_palettes_keep_to_half_precision(scheme: str, packages: Any) -> None:
    x, right = wanted(Decoder, scheme)
    assert 0.0 < compare(right, open_reference(packages(Decoder, scheme)).run(x)[0]).max_relative_error < FLOAT16


def shift_pad(operations: Any) -> None:
    constant(operations, first(operations, "conv"), "pad").ints.values[:] = [0, 2, 1, 1]


def wrong_eps(operations: Any) -> None:
    constant(operations, first(operations, "instance_norm"), "epsilon").floats.values[0] = 0.1


def drop_clamp(operations: Any) -> None:
    clamp = first(operations, "relu6")
    source, name = clamp.inputs["x"].arguments[0].name, clamp.outputs[0].name
    for operation in operations:
        for argument in operation.inputs.values():
            for binding in argument.arguments:
                if binding.name == name:
                    binding.name = source


def swap_strides(operations: Any) -> None:
    constant(operations, first(operations, "conv", 2), "strides").ints.values[:] = [1, 2]


def stale_scale(operations: Any) -> None:
    held = constant(operations, first(operations, "dequantize", -1), "scale").bytes
    held.values = (np.frombuffer(held.values, np.float16) * np.float16(1.5)).tobytes()


def aligned_corners(operations: Any) -> None:
    held = constant(operations, first(operations, "upsample_bilinear"), "align_corners").bools
    held.values[0] = not held.values[0]


FLOAT_FAULTS = [(Encoder, shift_pad), (Decoder, wrong_eps), (Encoder, drop_clamp), (Resizing, aligned_corners)]


@pytest.mark.parametrize(("kind", "fault"), FLOAT_FAULTS)
def test_a_fault_planted_on_disk_is_seen(kind: type[nn.Module], fault: Any, package: Callable[..., Path]) -> None:
    path = package(kind)
    x, right = wanted(kind)
    assert compare(right, open_reference(path).run(x)[0]).max_relative_error < FLOAT32
    edit(path, fault)
    assert compare(right, open_reference(path).run(x)[0]).max_relative_error > FLOAT32


def test_swapped_strides_contradict_the_declared_shape(package: Callable[..., Path]) -> None:
    path = package(Encoder)
    edit(path, swap_strides)
    with pytest.raises(CheckFailed, match=r"says shape .* of conv at .*; computed, it is"):
        open_reference(path).run(wanted(Encoder)[0])


def test_a_stale_scale_is_seen(package: Callable[..., Path]) -> None:
    path = package(Decoder, "w8a8")
    x, right = wanted(Decoder, "w8a8")
    before = compare(right, open_reference(path).run(x)[0]).sqnr_db
    edit(path, stale_scale)
    assert compare(right, open_reference(path).run(x)[0]).sqnr_db < min(20.0, before - 10.0)


def test_an_unknown_op_is_refused_by_name_and_place(package: Callable[..., Path]) -> None:
    path = package(Encoder)
    places: list[str] = []

    def rename(operations: Any) -> None:
        for kind, name in (("relu6", "mystery"), ("elu", "riddle")):
            operation = first(operations, kind)
            operation.type = name
            places.append(f"{name} at {operation.outputs[0].name}")

    edit(path, rename)
    with pytest.raises(ToolError) as caught:
        load_to_check(path, "coreml") if available("coreml") else open_reference(path)
    assert all(place in str(caught.value) for place in places)


def test_a_broken_package_is_an_input_error(package: Callable[..., Path], tmp_path: Path) -> None:
    path = package(Encoder)
    next(path.rglob("weight.bin")).unlink()
    with pytest.raises(InputError, match=r"weight\.bin"):
        open_reference(path)
    next(path.rglob("model.mlmodel")).write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match="cannot be read as a Core ML model"):
        open_reference(path)
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(InputError, match="no Core ML package"):
        open_reference(tmp_path / "empty.mlpackage")


def test_every_named_value_can_be_seen(packages: Any) -> None:
    x, _ = wanted(Decoder, "w8a8")
    path = packages(Decoder, "w8a8")
    found = {value.name: value for value in look_inside(path, "coreml", [x])}
    (out,) = open_reference(path).run(x)
    values = list(found.values())
    assert np.array_equal(values[0].value, x) and values[0].op == "input"
    assert any(np.array_equal(value.value, out) for value in values) and {v.value.dtype for v in values} == {x.dtype}
    codes = next(value for value in values if value.op == "quantize")
    step = next(value for value in values if value.op == "dequantize" and codes.name in value.reads)
    assert np.allclose(codes.value, step.value, rtol=1e-3) and not codes.constant
    assert any(value.op == "constexpr_affine_dequantize" and value.constant for value in values)


@pytest.mark.skipif(available("coreml") is None, reason="Core ML runs here")
def test_it_is_for_checks_alone(packages: Any) -> None:
    path = packages(Encoder, "float32")
    assert available("coreml") == "Core ML runs on macOS only"
    with pytest.raises(ToolError, match="macOS only"):
        load(path, "coreml")  # what is timed goes through `load`
    assert load_to_check(path, "coreml").name.startswith("Core ML program, reference evaluator")
