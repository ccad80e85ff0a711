"""The parity example's own parts: its readers, its ports' layouts, its verdicts, and one small model all the way."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compress.errors import DataError, WeightsError
from compress.tasks import ImageToImage
from examples.lpips_weights import arrays
from examples.parity import attention_unet, cartoongan, esrgan, hifigan, photographs, unet
from examples.parity.page import explain, page, unexplained
from examples.parity.seeded import seeded
from examples.parity.tfjs import read_weights


def tfjs_folder(folder: Path, entries: list[tuple[dict[str, Any], np.ndarray]]) -> Path:
    """A TF.js model of two shards that holds the given entries."""
    stored = b"".join(array.tobytes() for _, array in entries)
    (folder / "one.bin").write_bytes(stored[:5])
    (folder / "two.bin").write_bytes(stored[5:])
    manifest = [{"paths": ["one.bin", "two.bin"], "weights": [entry for entry, _ in entries]}]
    (folder / "model.json").write_text(json.dumps({"weightsManifest": manifest}))
    return folder / "model.json"


def test_tfjs_weights_are_read_across_shards_and_brought_back_to_floats(tmp_path: Path) -> None:
    plain, packed = np.arange(6, dtype=np.float32), np.array([[0, 128], [255, 1]], np.uint8)
    note = {"dtype": "uint8", "scale": 0.5, "min": -3.0}
    file = tfjs_folder(
        tmp_path,
        [
            ({"name": "a/kernel", "shape": [2, 3], "dtype": "float32"}, plain),
            ({"name": "count", "shape": [], "dtype": "int32"}, np.array(7, np.int32)),
            ({"name": "b/kernel", "shape": [2, 2], "dtype": "float32", "quantization": note}, packed),
        ],
    )
    found = read_weights(file)
    assert set(found) == {"a/kernel", "b/kernel"}
    assert found["a/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b/kernel"].tolist() == [[-3.0, 61.0], [124.5, -2.5]]
    (tmp_path / "two.bin").write_bytes((tmp_path / "two.bin").read_bytes() + b"x")
    with pytest.raises(WeightsError, match="its manifest describes"):
        read_weights(file)


def test_pixel_shuffle_takes_tensorflows_order_of_channels() -> None:
    """A convolution reordered and shuffled by torch gives what depth-to-space gives on the one as stored."""
    kernel, x = torch.randn(12, 4, 1, 1), torch.randn(1, 4, 5, 5)
    ours = F.pixel_shuffle(F.conv2d(x, torch.from_numpy(esrgan.shuffled(kernel.numpy()))), 2)
    rows = F.conv2d(x, kernel).permute(0, 2, 3, 1).reshape(1, 5, 5, 2, 2, 3)  # depth-to-space: (row, column, colour)
    theirs = rows.permute(0, 1, 3, 2, 4, 5).reshape(1, 10, 10, 3).permute(0, 3, 1, 2)
    assert torch.equal(ours, theirs)


def test_layers_of_the_published_super_resolution_have_a_place() -> None:
    assert esrgan.place_of("F_2_1_3") == "body.1.blocks.0.grow.2"
    assert esrgan.place_of("LFF_1_4") == "body.0.blocks.3.fuse"
    with pytest.raises(KeyError, match="Dense_7"):
        esrgan.place_of("Dense_7")


def test_the_size_of_a_super_resolution_net_follows_its_weights() -> None:
    made = esrgan.Generator(8, 4, count=2, blocks=3, groups=1, scale=2, last=5)
    again = esrgan.build(made.state_dict())
    again.load_state_dict(made.state_dict())
    x = torch.rand(1, 3, 6, 6)
    assert again(x).shape == (1, 3, 12, 12) and torch.equal(again(x), made(x))


def test_transposed_kernels_of_the_cartoon_net_keep_their_directions(tmp_path: Path) -> None:
    """(kH, kW, out, in) in the file: a transposed convolution that spreads one pixel shows the kernel as it is."""
    kernel = np.arange(3 * 3 * 2 * 1, dtype=np.float32).reshape(3, 3, 2, 1)
    entry = {"name": "net/deconv01_1/kernel", "shape": [3, 3, 2, 1], "dtype": "float32"}
    weight = cartoongan.weights(tfjs_folder(tmp_path, [(entry, kernel)]))["deconv01_1.weight"]
    spread = F.conv_transpose2d(torch.ones(1, 1, 1, 1), weight)
    assert torch.equal(spread[0], torch.from_numpy(kernel[..., 0].transpose(2, 0, 1)))


def test_a_style_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    for style in ("nosuch", ""):
        with pytest.raises(DataError, match=f"no generator of the style '{style}'"):
            cartoongan.model_file(style, str(tmp_path))


def test_vocoder_weights_are_found_by_the_decoders_node_names() -> None:
    onnx = pytest.importorskip("onnx")
    weight, bias = np.ones((4, 3, 7), np.float32), np.arange(4, dtype=np.float32)
    held = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "onnx::Conv_12")]
    nodes = [
        onnx.helper.make_node("Conv", ["z", "w", "onnx::Conv_12"], ["a"], name="/dec/conv_pre/Conv"),
        onnx.helper.make_node("Conv", ["a", "w"], ["b"], name="/flow/enc/Conv"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], held)
    found = hifigan.weights(onnx.helper.make_model(graph))
    assert set(found) == {"conv_pre.weight", "conv_pre.bias"}
    assert found["conv_pre.bias"].tolist() == [0, 1, 2, 3]


def test_models_have_the_sizes_and_shapes_that_they_say() -> None:
    with torch.no_grad():
        sound = hifigan.HifiGan().eval()(torch.randn(2, hifigan.CHANNELS, 3))
        noise = attention_unet.teacher()(torch.randn(2, 3, 32, 32), torch.tensor([3.0, 900.0]))
        image = unet.teacher()(torch.rand(1, 3, 32, 32))
    assert sound.shape == (2, 1, 3 * 256) and noise.shape == (2, 3, 32, 32) and image.shape == (1, 3, 32, 32)
    millions = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (hifigan.HifiGan(), unet.teacher())]
    assert millions == [pytest.approx(1.66, abs=0.01), pytest.approx(1.0, abs=0.15)]


def test_seeded_models_are_the_same_each_time_and_leave_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = seeded(unet.UNet), seeded(unet.UNet), seeded(unet.UNet, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    norm = next(m for m in first.modules() if isinstance(m, nn.GroupNorm))
    assert norm.weight.std() > 0.1 and norm.bias.std() > 0.1


def test_the_timestep_reaches_the_attention_unets_output() -> None:
    model, x = attention_unet.teacher(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        early, late = model(x, torch.tensor([0.0])), model(x, torch.tensor([700.0]))
    assert (early - late).abs().max() > 1e-3


def test_a_pickle_that_holds_more_than_arrays_is_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(pickle.dumps({"net": {"kernel": np.ones(2)}}, protocol=4))
    assert arrays(good)["net/kernel"].tolist() == [1.0, 1.0]
    bad.write_bytes(pickle.dumps({"net": Path("x")}))
    with pytest.raises(WeightsError, match="only numpy arrays are admitted"):
        arrays(bad)


def record(**row: Any) -> dict[str, Any]:
    whole = {"format": "onnx", "scheme": "w8a8", "verdict": "wrong", "reason": "far off", **row}
    return {
        "model": "net", "title": "a net", "source": "here", "params": 1, "macs": 1, "input_shapes": [[1, 3]],
        "samples": 1, "quality_name": "PSNR", "reference_sqnr_db": 30.0, "reference_quality": {},
        "planned_float_ops": [], "sheet": "", "seconds": 1.0, "rows": [whole],
    }  # fmt: skip


def test_only_rows_that_pass_or_are_explained_are_let_through() -> None:
    records = [record()]
    explain(records, [{"model": "other", "why": "no"}, {"format": "onnx", "scheme": "float32", "why": "no"}])
    assert unexplained(records) == ["net onnx w8a8: wrong, far off"]
    explain(records, [{"model": "net", "scheme": "w8a8", "why": "a known fault"}])
    assert unexplained(records) == []
    environment = {"date": "today", "versions": {"torch": "2"}, "cpu": "some"}
    assert "why: a known fault" in page(records, environment)
    passing = [record(verdict="pass")]
    explain(passing, [{"why": "fits all"}])
    assert unexplained(passing) == [] and passing[0]["rows"][0]["explanation"] == ""


def test_what_a_file_does_on_another_processor_is_judged_and_explained_by_itself() -> None:
    emulated = {"verdict": "failed", "reason": "it crashed there"}
    records = [record(verdict="pass", arm64=emulated)]
    explain(records, [{"model": "net", "why": "holds for this machine alone"}])
    assert unexplained(records) == ["net onnx w8a8 on arm64: failed, it crashed there"]
    explain(records, [{"model": "net", "arch": "arm64", "why": "an old runtime"}])
    assert unexplained(records) == []
    assert "| failed |" in page(records, {"date": "today", "versions": {"torch": "2"}, "cpu": "some"})


def test_a_small_model_goes_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from examples.parity.measure import Settings, measure_model

    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tiny = types.ModuleType("examples.parity.tiny")
    tiny.TITLE, tiny.SOURCE = "a tiny net", "seed 0"  # type: ignore[attr-defined]
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())
    tiny.teacher = lambda: net.eval()  # type: ignore[attr-defined]
    tiny.task = lambda: ImageToImage(images, images, images, data_range=2.0, lowest=-1.0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "examples.parity.tiny", tiny)
    found = measure_model("tiny", tmp_path, Settings(formats=("onnx",), samples=4, calibration_batches=1, rounds=2))
    by_scheme = {row["scheme"]: row for row in found["rows"]}
    assert {row["verdict"] for row in found["rows"]} == {"pass"}
    assert by_scheme["float32"]["sqnr_float_db"] > 100 > found["reference_sqnr_db"] > 20
    assert abs(by_scheme["w8a8"]["sqnr_float_db"] - found["reference_sqnr_db"]) <= 1
    assert by_scheme["w8a8"]["quality"]["n"] == 4 and by_scheme["w8a8"]["latency"]["origin"] == "measured"
    assert (tmp_path / "samples.png").is_file() and (tmp_path / by_scheme["w8a8"]["path"]).is_file()
    assert json.loads(json.dumps(found)) == found


def test_no_photograph_gives_tiles_to_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [torch.full((3, 20 + n, 30), n, dtype=torch.uint8) for n in range(13)]
    monkeypatch.setattr(photographs, "pictures", lambda: pictures)
    parts = [set(part.flatten().tolist()) for part in photographs.tiles(16)]
    assert parts == [{0, 1, 2, 3, 6, 7, 8, 9, 12}, {4, 10}, {5, 11}]
    assert [part.shape[1:] for part in photographs.tiles(16)] == [(3, 16, 16)] * 3
