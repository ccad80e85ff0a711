"""The fit: it finds stated constants again, judges itself on families it never saw, and reads the tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.errors import DataError
from compress.profile.constants import Profile, read_profile
from compress.profile.fit import fit_scheme, main
from compress.profile.regression import Design, Unknowns, predict, solve
from compress.profile.roofline import Roofline
from compress.profile.tables import family_of, fuse, read_graphs, read_latencies
from compress.targets import load_target
from compress.types import OpRecord
from tests.profile.test_roofline import conv, linear, plain, stated

pytest.importorskip("scipy")
UNKNOWNS = Unknowns(block=4, bytes_per_value=4)


def networks() -> dict[str, tuple[OpRecord, ...]]:
    """Networks of five families that differ in width, depth and kind of layer."""
    made: dict[str, tuple[OpRecord, ...]] = {}
    for width in (8, 16, 24, 32, 48, 64):
        plain_conv = [conv(width, width, 28), conv(width, 2 * width, 14)]
        pointwise = [conv(width, 4 * width, 28, 1), conv(4 * width, width, 28, 1)]
        depthwise = [conv(width, width, 56, groups=width), conv(width, width, 28, 5, width)]
        made[f"stack_{width}"] = tuple(plain_conv * 3 + [linear(width, 1000)])
        made[f"mobile_{width}"] = tuple((pointwise + depthwise) * 3 + [linear(width, 1000)])
        made[f"mix_{width}"] = tuple(plain_conv + pointwise + depthwise)
        made[f"deep_{width}"] = tuple((plain_conv + pointwise) * 6)
        made[f"wide_{width}"] = tuple([*depthwise, conv(2 * width, 2 * width, 28), plain("pool", (1, width, 56, 56))])
    return made


def true_model() -> Roofline:
    rates = {"conv": 16.0, "pointwise_conv": 18.0, "depthwise_conv": 3.0, "linear": 12.0}
    return stated(gmacs_per_s=rates, gbytes_per_s={"default": 10.0}, overhead_ms={"default": 0.004}, invoke_ms=0.05)


def test_the_regression_predicts_what_the_roofline_predicts() -> None:
    nets = networks()
    design = Design.of(list(nets.values()), [1.0] * len(nets), UNKNOWNS)
    assert design.kinds == ("conv", "depthwise_conv", "linear", "pointwise_conv")
    solution = np.log([16.0, 3.0, 12.0, 18.0, 10.0, 0.004, 0.05, 1e-9])
    expected = [true_model().predict(ops, "float32").latency.value for ops in nets.values()]
    assert predict(design, solution, overlap=1.0) == pytest.approx(expected)


def test_stated_constants_are_found_again() -> None:
    nets = networks()
    measured = {name: true_model().predict(ops, "float32").latency.value or 0.0 for name, ops in nets.items()}
    families = {name: family_of(name) for name in nets}
    fitted = fit_scheme(nets, measured, families, UNKNOWNS, "made up")
    assert fitted.gmacs_per_s["conv"] == pytest.approx(16.0, rel=0.1)
    assert fitted.gmacs_per_s["depthwise_conv"] == pytest.approx(3.0, rel=0.2)
    assert fitted.fitted_mape < 0.02
    assert (fitted.held_out.families, fitted.n) == (5, 30)
    assert fitted.overlap == 1.0
    assert fitted.held_out.spearman > 0.99


def test_the_fit_is_deterministic() -> None:
    nets = networks()
    design = Design.of(list(nets.values()), [0.1 * (i + 1) for i in range(len(nets))], UNKNOWNS)
    assert (solve(design, UNKNOWNS) == solve(design, UNKNOWNS)).all()


def test_errors_are_on_families_that_no_fit_saw() -> None:
    """One family five times slower than its ops say: rows held out singly would hide that, whole families do not."""
    nets = networks()
    measured = {name: true_model().predict(ops, "float32").latency.value or 0.0 for name, ops in nets.items()}
    odd = {name: value * (5 if name.startswith("wide") else 1) for name, value in measured.items()}
    by_family = fit_scheme(nets, odd, {name: family_of(name) for name in nets}, UNKNOWNS, "made up")
    by_row = fit_scheme(nets, odd, {name: name for name in nets}, UNKNOWNS, "made up")
    assert by_family.held_out.mape > by_row.held_out.mape
    assert by_family.interval[1] > 3, "an unseen family may be five times slower, and the interval must say so"


def test_without_models_there_is_nothing_to_fit() -> None:
    with pytest.raises(DataError, match="no model has both"):
        fit_scheme(networks(), {"another": 1.0}, {}, UNKNOWNS, "made up")


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


def write_tables(folder: Path) -> None:
    """Tables as published: one network of three ops, measured on two devices."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    empty: dict[str, object] = {"weight_elems": 0, "macs": 0, "kernel": None, "cin": None, "cout": None, "groups": None}
    rows: list[dict[str, object]] = []
    for i, family in enumerate(("alpha", "beta", "gamma", "delta", "epsilon", "zeta")):
        macs = 16 * 8 * 9 * 64 * (i + 1)
        layer: dict[str, object] = {
            "weight_elems": 1152,
            "macs": macs,
            "kernel": "3x3",
            "cin": 8,
            "cout": 16,
            "groups": 1,
        }
        ops: list[dict[str, object]] = [
            {"op": "convolution.default", "in_shapes": "1x8x8x8", "out_shape": "1x16x8x8", **layer},
            {"op": "empty.memory_format", "in_shapes": "", "out_shape": "0", **empty},
            {"op": "native_batch_norm.default", "in_shapes": "1x16x8x8", "out_shape": "1x16x8x8", **empty},
            {"op": "unheard.of", "in_shapes": "1x16x8x8;1x16x8x8", "out_shape": "1x16x8x8", **empty},
        ]
        rows += [{**op, "source": "ours", "model": f"{family}_1", "component": "", "i": n} for n, op in enumerate(ops)]
    pandas.DataFrame(rows).to_parquet(folder / "graph_ops.parquet")
    latencies = [{"model": row["model"], "device": device, "latency_ms": float(str(row["macs"])) * 1e-6 * factor}
                 for row in rows if row["macs"] for device, factor in (("a", 1.0), ("a", 3.0), ("b", 9.0))]  # fmt: skip
    pandas.DataFrame(latencies).to_csv(folder / "latency.csv", index=False)


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


def test_the_command_writes_a_profile_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tables(tmp_path)
    target = load_target("pixel-4").model_dump(mode="json")
    calibration = target["units"]["cpu"]["calibration"] | {"table": "latency.csv", "graphs": "ours"}
    calibration["rows"] = {"float32": {"device": "a"}}
    target["units"] = {"cpu": target["units"]["cpu"] | {"calibration": calibration, "profile": "mine.json"}}
    import yaml

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(target), encoding="utf-8")
    main([str(tmp_path), "--only", str(tmp_path / "mine.yaml"), "--out", str(tmp_path)])
    profile = read_profile(tmp_path / "mine.json")
    assert isinstance(profile, Profile) and profile.schemes["float32"].n == 6
    assert profile.target == "pixel-4" and "device=a" in profile.schemes["float32"].rows
    assert "held out" in capsys.readouterr().out
