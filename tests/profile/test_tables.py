"""Published tables become ops and latencies; what runtimes fuse, rewrite or leave out counts so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compress.errors import DataError
from compress.profile import tables
from compress.profile.lowering import fuse, lowered
from compress.profile.tables import families_of, family_of, read_graphs, read_latencies
from compress.types import OpRecord
from tests.profile.stated import conv, plain

EMPTY: dict[str, object] = {
    "weight_elems": 0, "macs": 0, "kernel": None, "cin": None, "cout": None, "stride": None, "groups": None,
}  # fmt: skip


def op(name: str, in_shapes: str = "1x16x8x8", out_shape: str = "1x16x8x8", **given: object) -> dict[str, object]:
    """One row of a table of ops."""
    return EMPTY | {"op": name, "in_shapes": in_shapes, "out_shape": out_shape} | given


def layer(macs: int, **given: object) -> dict[str, object]:
    """The row of a 3x3 convolution from 8 to 16 channels."""
    shape: dict[str, object] = {"weight_elems": 1152, "macs": macs, "kernel": "3x3", "cin": 8, "cout": 16, "groups": 1}
    return op("convolution.default", "1x8x8x8", **(shape | {"stride": "1x1"} | given))


def write_graphs(path: Path, graphs: dict[tuple[str, str], list[dict[str, object]]], source: str = "ours") -> None:
    """Writes op tables, keyed by model and component, as published."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = [{**row, "source": source, "model": model, "component": component, "i": i}
            for (model, component), ops in graphs.items() for i, row in enumerate(ops)]  # fmt: skip
    table = pandas.DataFrame(rows)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.drop(columns="source").to_csv(path, index=False)


def write_latencies(path: Path, rows: list[dict[str, object]]) -> None:
    pytest.importorskip("pandas").DataFrame(rows).to_csv(path, index=False)


def write_tables(folder: Path) -> None:
    """Tables as published: networks of three ops, measured on two devices."""
    graphs: dict[tuple[str, str], list[dict[str, object]]] = {}
    latencies: list[dict[str, object]] = []
    for i, family in enumerate(("alpha", "beta", "gamma", "delta", "epsilon", "zeta")):
        macs = 16 * 8 * 9 * 64 * (i + 1)
        graphs[f"{family}_1", ""] = [
            layer(macs), op("empty.memory_format", "", "0"), op("native_batch_norm.default"),
            op("unheard.of", "1x16x8x8;1x16x8x8"),
        ]  # fmt: skip
        latencies += [{"model": f"{family}_1", "device": device, "latency_ms": macs * 1e-6 * factor}
                      for device, factor in (("a", 1.0), ("a", 3.0), ("b", 9.0))]  # fmt: skip
    write_graphs(folder / "graph_ops.parquet", graphs)
    write_latencies(folder / "latency.csv", latencies)


def read_one(folder: Path, *rows: dict[str, object]) -> tuple[OpRecord, ...]:
    """The ops of a network of these rows."""
    write_graphs(folder / "graph_ops.parquet", {("net", ""): list(rows)})
    return read_graphs(folder, "ours")["net"]


def test_tables_become_ops_and_latencies(tmp_path: Path) -> None:
    write_tables(tmp_path)
    graphs = read_graphs(tmp_path, "ours")
    kernel, norm, other = graphs["alpha_1"]
    assert (kernel.kind, kernel.channels, kernel.kernel, kernel.macs) == ("conv", (8, 16), (3, 3), 73728)
    assert norm.fused_into == kernel.name
    assert (other.kind, other.macs, other.input_shapes) == ("other", None, ((1, 16, 8, 8), (1, 16, 8, 8)))
    latency = read_latencies(tmp_path, "latency.csv", {"device": "a"})
    assert latency["alpha_1"] == pytest.approx(73728e-6 * 2), "the median of the two rows"
    for wrong, said in (({"device": "c"}, "no row has"), ({"phone": "a"}, "no column 'phone'")):
        with pytest.raises(DataError, match=said):
            read_latencies(tmp_path, "latency.csv", wrong)
    with pytest.raises(DataError, match="no graph has source 'theirs'"):
        read_graphs(tmp_path, "theirs")
    with pytest.raises(DataError, match="no such table"):
        read_latencies(tmp_path, "none.csv", {})


def test_convolutions_keep_what_they_are(tmp_path: Path) -> None:
    rows = [layer(1, stride="2x2", dilation="2x2"), layer(1, groups=8), layer(1, groups=2), layer(1, transposed=1)]
    first, *others = read_one(tmp_path, *rows)
    assert (first.stride, first.dilation) == ((2, 2), 2)
    assert [found.kind for found in others] == ["depthwise_conv", "grouped_conv", "conv_transpose"]


@pytest.mark.parametrize("clamp", ["hardtanh", "hardtanh_"])
def test_a_hardswish_that_is_spelled_out_becomes_one_op(tmp_path: Path, clamp: str) -> None:
    spelled = [op(f"{name}.Tensor") for name in ("add", clamp, "mul", "div")]
    shorter = [op(f"{name}.Tensor") for name in ("add", clamp, "div")]
    found = read_one(tmp_path, layer(1), *spelled, layer(1), *shorter, layer(1), *spelled[:2])
    assert [one.op for one in found] == [
        "convolution",
        "hardswish",
        "convolution",
        "hardsigmoid",
        "convolution",
        "add",
        clamp,
    ]
    assert {one.kind for one in found if one.op.startswith("hards")} == {"activation"}
    assert not any(one.fused_into for one in found[1:4]), "neither is a clamp that a kernel takes in"


def test_ops_of_other_shapes_are_not_spelled_out() -> None:
    names = ("add", "hardtanh", "mul", "div")
    ops = [replace(plain("elementwise"), op=name) for name in names]
    assert [one.op for one in lowered(ops)] == ["hardswish"]
    ops[2] = replace(ops[2], output_shape=(1, 8, 16, 16))
    assert [one.op for one in lowered(ops)] == list(names)


def test_a_gather_reads_only_what_it_gives(tmp_path: Path) -> None:
    (found,) = read_one(tmp_path, op("embedding.default", "1x128", "1x128x768", weight_elems=23_445_504))
    assert (found.kind, found.weight_count, found.output_shape, found.macs) == ("gather", 0, (1, 128, 768), 0)


def test_what_folds_away_is_no_op(tmp_path: Path) -> None:
    found = read_one(tmp_path, layer(1), op("arange.default", "", "8"), op("_to_copy.default"))
    assert [one.op for one in found] == ["convolution"]


def test_components_go_by_model_and_component(tmp_path: Path) -> None:
    net = [layer(1)]
    write_graphs(tmp_path / "graph_ops.parquet", {("ear", "encoder"): net, ("ear", "decoder"): net, ("eye", ""): net})
    assert set(read_graphs(tmp_path, "ours")) == {"ear/encoder", "ear/decoder", "eye"}
    rows: list[dict[str, object]] = [
        {"model_id": model, "component": component, "unit": "npu", "latency_ms": i + 1.0}
        for i, (model, component) in enumerate((("ear", "encoder"), ("ear", "decoder"), ("eye", "Eye")))
    ]
    write_latencies(tmp_path / "latency.csv", rows)
    assert read_latencies(tmp_path, "latency.csv", {"unit": "npu"}) == {"ear/encoder": 1, "ear/decoder": 2, "eye": 3}
    assert families_of(["ear/encoder", "ear/decoder", "eye"]) == {
        "ear/encoder": "ear",
        "ear/decoder": "ear",
        "eye": "eye",
    }


def test_rows_that_fell_back_are_left_out_and_their_siblings_stay_components(tmp_path: Path) -> None:
    columns = ("model_id", "component", "unit", "latency_ms", "layers_cpu", "layers_total")
    rows: list[tuple[object, ...]] = [
        ("ear", "encoder", "npu", 1.0, 5, 100), ("ear", "decoder", "npu", 2.0, 6, 100),
        ("eye", "Eye", "npu", 3.0, None, 100), ("nose", "Nose", "npu", 4.0, 100, 100),
        ("ear", "decoder", "cpu", 5.0, 0, 100),
    ]  # fmt: skip
    write_latencies(tmp_path / "latency.csv", [dict(zip(columns, row, strict=True)) for row in rows])
    assert read_latencies(tmp_path, "latency.csv", {"unit": "npu"}) == {"ear/encoder": 1.0, "eye": 3.0}


def test_graphs_built_again_come_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graphs(tmp_path / "graph_ops.parquet", {("old", ""): [layer(1)], ("kept", ""): [layer(2)]})
    (tmp_path / "shipped" / "graphs").mkdir(parents=True)
    again = {("old", ""): [layer(3, dilation="2x2")], ("new", ""): [layer(4)]}
    write_graphs(tmp_path / "shipped" / "graphs" / "ours.csv.gz", again)
    monkeypatch.setattr(tables, "data_folder", lambda name: tmp_path / "shipped")
    graphs = read_graphs(tmp_path, "ours")
    assert {name: ops[0].macs for name, ops in graphs.items()} == {"old": 3, "kept": 2, "new": 4}
    assert graphs["old"][0].dilation == 2
    with pytest.raises(DataError, match="no graph has source"):
        read_graphs(tmp_path, "theirs")


@pytest.mark.parametrize(("model", "family"), [
    ("mobilenetv2b_w1", "mobilenetv2"), ("mobilenetv2_wd4", "mobilenetv2"), ("mobilenet_w1", "mobilenet"),
    ("mobilenetb_wd2", "mobilenet"), ("sepreresnet18", "resnet"), ("preresnet18_wd4", "resnet"),
    ("resnetbc26b", "resnet"), ("resnext14_16x4d", "resnext"), ("segformer_base", "segformer"), ("yolov11_det", "yolo"),
    ("yolo26_seg", "yolo"), ("fastsam_s", "yolo"), ("squeezenet_v1_0", "squeezenet"),
])  # fmt: skip
def test_families(model: str, family: str) -> None:
    assert family_of(model) == family


def test_norms_and_clamps_fuse_into_the_kernel_before_them() -> None:
    kernel = replace(conv(8, 8), name="k", op="convolution")
    norm, clamp = (replace(plain(kind), op=op, name=op) for kind, op in
                   (("norm", "native_batch_norm"), ("activation", "relu_")))  # fmt: skip
    add = replace(plain("elementwise"), op="add", input_shapes=((1, 8, 8, 8),) * 2, name="add")
    fused = fuse([kernel, norm, clamp, norm, add, clamp, clamp])
    assert [op.fused_into for op in fused] == ["", "k", "k", "", "", "add", ""]
    sigmoid = replace(plain("activation"), op="sigmoid")
    assert fuse([kernel, sigmoid])[1].fused_into == ""
