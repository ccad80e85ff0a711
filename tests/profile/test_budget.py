"""Figures a budget may limit: the largest format decides the size, and limits add up to one excess."""

from __future__ import annotations

import pytest
import torch

from compress.errors import InputError
from compress.graph.cost import cost_of
from compress.graph.trace import trace
from compress.profile.budget import CostModel, Limits, artifact_bytes
from tests.fakes import FakeLatencyModel
from tests.models import TinyResNet


def _ops(width: int = 16):  # type: ignore[no-untyped-def]
    x = torch.randn(1, 1, 8, 8)
    return cost_of(trace(TinyResNet(width), (x,)), (x,)).ops


def test_size_is_that_of_the_largest_format_and_falls_with_the_scheme() -> None:
    ops = _ops()
    one_by_one = [artifact_bytes(ops, "w8a8", (name,)) for name in ("onnx", "litert", "executorch", "coreml")]
    assert artifact_bytes(ops, "w8a8") == max(one_by_one)
    assert len(set(one_by_one)) == 4
    weights = sum(op.weight_count for op in ops if not op.fused_into)
    assert 4 * weights < artifact_bytes(ops, "float32", ("onnx",)) < 4 * weights + 10_000
    assert artifact_bytes(_ops(64), "w8a8") < artifact_bytes(_ops(64), "float32") / 2


def test_excess_is_the_sum_of_relative_excesses_and_the_worst_is_named() -> None:
    limits = Limits({"latency_ms": 2.0, "macs": 100.0})
    assert limits.excess({"latency_ms": 2.0, "macs": 100.0}) == 0.0
    assert limits.excess({"latency_ms": 3.0, "macs": 200.0}) == 0.5 + 1.0
    assert limits.worst({"latency_ms": 3.0, "macs": 200.0}).startswith("macs 200 (limit 100")
    assert limits.worst({"latency_ms": 1.0, "macs": 1.0}) == ""


def test_figures_come_from_the_latency_model() -> None:
    cost = CostModel(FakeLatencyModel(ms_per_mmac=1.0, overhead_ms=0.0, channel_multiple=1), "float32")
    figures = cost.figures(_ops())
    assert figures["macs"] == sum(op.macs or 0 for op in _ops())
    assert abs(figures["latency_ms"] - figures["macs"] * 1e-6) < 1e-9
    assert cost.latency_of(_ops()).origin == "predicted"


def test_fewer_bits_make_smaller_files_and_formats_that_cannot_hold_a_scheme_do_not_count() -> None:
    ops = _ops(64)
    sizes = [artifact_bytes(ops, scheme, ("onnx",)) for scheme in ("float32", "float16", "w8a8", "w4")]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.2 * sizes[0]
    assert artifact_bytes(ops, "palette4", ("onnx", "coreml")) == artifact_bytes(ops, "palette4", ("coreml",))
    with pytest.raises(InputError, match="none of onnx, litert can hold palette6; add coreml to"):
        artifact_bytes(ops, "palette6", ("onnx", "litert"))
