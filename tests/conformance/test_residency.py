"""The residency check: a pure function of a model, the quantizer's rules and the table."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.conformance import Residence, Table, load_table, residency
from compress.conformance.residency import lines, reasons, summary
from compress.errors import UnknownName
from compress.graph.trace import trace
from compress.resources import data_folder
from tests.conformance.samples import result, table


class Net(nn.Module):
    """Convolution, batch norm, relu, group norm, convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm, self.last = nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(torch.relu(self.bn(self.first(x)))))


@pytest.fixture(scope="module")
def net() -> torch.fx.GraphModule:
    torch.manual_seed(0)
    return trace(Net(), [torch.randn(1, 3, 8, 8)])


def by_form(rows: list[Residence], format: str = "onnx") -> dict[str, Residence]:
    return {row.form: row for row in rows if row.format == format}


def test_what_the_rules_put_on_integers_and_the_format_takes_is_quantized(net: torch.fx.GraphModule) -> None:
    known = table(
        result("conv2d", "w8a8", "onnx"), result("conv2d_relu", "w8a8", "onnx"),
        result("group_norm", "w8a8", "onnx", "fell back", "InstanceNormalization at operator (no kernel)"),
    )  # fmt: skip
    rows = by_form(residency(net, "w8a8", ["onnx"], known))
    assert rows["conv2d"].state == rows["relu"].state == "quantized"
    assert rows["conv2d"].delegate == "onnx CPU" and rows["conv2d"].reason == ""
    assert rows["group_norm"].state == "float"
    assert rows["group_norm"].reason == "group norm has no int8 kernel"  # the quantizer's own, which comes first
    assert rows["group_norm"].where == "norm"
    assert "batch_norm" not in rows  # folded


def test_what_a_format_refuses_or_computes_wrong_is_said_with_its_reason(net: torch.fx.GraphModule) -> None:
    known = table(
        result("conv2d", "w8a8", "onnx", "fell back", "ConvInteger has no kernel"),
        result("group_norm", "w8a8", "onnx", "refused", "no such op"),
        result("conv2d", "w8a8", "litert", "wrong", "SQNR is 3.0 dB"),
    )
    rows = residency(net, "w8a8", ["onnx", "litert"], known)
    onnx, litert = by_form(rows), by_form(rows, "litert")
    assert (onnx["conv2d"].state, onnx["conv2d"].reason) == ("float", "ConvInteger has no kernel")
    assert (onnx["group_norm"].state, onnx["group_norm"].reason) == ("refused", "no such op")
    assert litert["conv2d"].state == "wrong" and "SQNR is 3.0 dB" in litert["conv2d"].reason
    assert litert["group_norm"].state == "unknown"


def test_the_worst_case_of_a_form_speaks_for_it(net: torch.fx.GraphModule) -> None:
    good = result("conv2d", "float32", "onnx")
    bad = copy.copy(good)
    bad = type(bad)(
        **{**bad.to_dict(), "case": "conv2d_strided", "verdict": "refused", "reason": "stride", "forms": ("conv2d",)}
    )
    assert by_form(residency(net, "float32", ["onnx"], table(good)))["conv2d"].state == "float"
    assert by_form(residency(net, "float32", ["onnx"], table(good, bad)))["conv2d"].state == "refused"


def test_a_case_of_several_ops_speaks_for_one_only_where_it_can(net: torch.fx.GraphModule) -> None:
    """It passes: all its ops do. It does not: the blame is relu's only if the convolution passes alone."""
    fell = result("conv2d_relu", "w8a8", "onnx", "fell back", "Relu at 1 (no kernel)")
    alone = result("conv2d", "w8a8", "onnx")
    assert by_form(residency(net, "w8a8", ["onnx"], table(fell, alone)))["relu"].state == "float"
    unsure = by_form(residency(net, "w8a8", ["onnx"], table(fell)))["relu"]
    assert unsure.state == "unknown" and "only tried together with other ops: case conv2d_relu" in unsure.reason


def test_without_a_table_all_is_unknown_and_says_how_to_make_one(net: torch.fx.GraphModule) -> None:
    rows = residency(net, "float32", ["onnx"], Table())
    assert {row.state for row in rows} == {"unknown"}
    assert "compress conformance" in rows[0].reason


def test_it_changes_nothing_and_gives_the_same_rows_again(net: torch.fx.GraphModule) -> None:
    before = {key: value.clone() for key, value in net.state_dict().items()}
    code, known = net.code, load_table()
    first = residency(net, "w8a8", ["onnx", "coreml"], known)
    assert first == residency(net, "w8a8", ["onnx", "coreml"], known)
    assert net.code == code and all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    json.dumps([row.to_dict() for row in first], allow_nan=False)


def test_an_unknown_scheme_is_refused(net: torch.fx.GraphModule) -> None:
    with pytest.raises(UnknownName, match="w8a8"):
        residency(net, "w8a9", ["onnx"], Table())


def test_rows_become_text(net: torch.fx.GraphModule) -> None:
    known = table(result("conv2d", "w8a8", "onnx"), result("group_norm", "w8a8", "onnx", "refused", "no such op"))
    rows = residency(net, "w8a8", ["onnx"], known)
    assert summary(rows) == [["w8a8", "onnx", "2", "0", "1", "0", "1"]]
    assert next(line[3:] for line in lines(rows, ["onnx"])) == ["conv2d", "quantized"]
    assert ["w8a8", "onnx", "refused", "", "norm", "no such op"] in reasons(rows)


needs_table = pytest.mark.skipif(
    not (data_folder("profiles") / "conformance" / "conformance.json").exists(),
    reason="profiles/conformance holds no table yet; `compress conformance` makes it (about an hour)",
)


@needs_table
def test_the_shipped_table_knows_a_plain_network(net: torch.fx.GraphModule) -> None:
    """What the artifacts of such a network really do: convolutions on integers, the group norm in float."""
    rows = residency(net, "w8a8", ["onnx", "litert", "executorch"], load_table())
    for format in ("onnx", "litert", "executorch"):
        found = by_form(rows, format)
        assert found["conv2d"].state == "quantized", found["conv2d"]
        assert found["group_norm"].state == "float"


def test_the_dry_run_of_export_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compress.cli import main

    assert main(["init", str(tmp_path / "mine")]) == 0
    recipe = str(tmp_path / "mine" / "recipe.yaml")
    capsys.readouterr()
    assert main(["export", recipe, "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["residency"]
    assert {"op", "form", "format", "state", "reason"} <= set(rows[0])
    assert {row["scheme"] for row in rows} == {"float32", "w8a8"}
    assert main(["export", recipe, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "Residency: what each op will run as" in shown and "QUANTIZED" in shown
    assert not (tmp_path / "runs").exists()
