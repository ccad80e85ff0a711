"""Plans of whole pipelines: read from configurations alone, summed up, and chosen under a budget."""

from __future__ import annotations

import json
import resource
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from compress.cli import main
from compress.errors import DataError, Infeasible, InputError
from compress.planner import KEPT, Wishes, choices_of, choose, plan_pipeline, plans_of, read_parts
from compress.planner.page import render
from compress.planner.parts import Form, Part, scaled
from compress.types import OpRecord
from tests.fakes import FakeLatencyModel

LAYOUT = Path(__file__).parents[2] / "examples/stable_diffusion/layout"


PER_GMAC = FakeLatencyModel(ms_per_mmac=0.001, overhead_ms=0.0, channel_multiple=1)  # 1 ms, at w8a8 half of it


def form(gmacs: float, millions: float, width: float = 1.0) -> Form:
    op = OpRecord("op", "conv", "conv", "", int(gmacs * 1e9), int(millions * 1e6), ((1, 8, 10, 10),), (1, 8, 10, 10))
    return Form(width, 1.0, (op,))


TEXT = Part("text_encoder", "Text", False, (form(5, 100),))
UNET = Part("unet", "Unet", True, (form(400, 800), form(100, 200, 0.5)))
VAE = Part("vae", "Vae", False, (form(1000, 50), form(250, 12, 0.5)))
OPTIONS = [choices_of(part, ("float32", "w8a8"), PER_GMAC) for part in (TEXT, UNET, VAE)]


def test_a_plan_is_the_sum_over_its_parts_calls() -> None:
    plans = list(plans_of(OPTIONS, [4], calls_per_step=2))
    assert len(plans) == 2 * 4 * 4
    whole = plans[0]
    assert whole.latency.value == pytest.approx(5 + 8 * 400 + 1000)
    assert whole.latency.interval == pytest.approx((0.9 * 4205, 1.1 * 4205)) and whole.latency.origin == "predicted"
    assert whole.size_bytes == 4 * 950_000_000
    assert whole.memory_bytes == 4 * (800_000_000 + 1600)  # the largest part's: they are loaded one after another
    mixed = next(p for p in plans if [c.scheme for c in p.choices] == ["float32", "w8a8", "float32"])
    assert (
        mixed.latency.value == pytest.approx(5 + 8 * 200 + 1000) and mixed.size_bytes == 4 * 150_000_000 + 800_000_000
    )


@pytest.mark.parametrize("keep", [("network", "steps", "bits", "decoder"), ("steps", "network", "decoder", "bits")])
def test_the_plan_chosen_keeps_most_of_those_inside(keep: tuple[str, ...]) -> None:
    plans, limits = list(plans_of(OPTIONS, [1, 2, 4, 8])), {"latency_ms": 2100.0, "size_bytes": 2.4e9}
    chosen = choose(plans, limits, keep)
    order = [chosen.kept(8)[name] for name in keep]
    inside = [p for p in plans if p.latency.value <= 2100 and p.size_bytes <= 2.4e9]  # type: ignore[operator]
    assert chosen in inside and 0 < len(inside) < len(plans)
    assert all([p.kept(8)[name] for name in keep] <= order for p in inside)


def test_what_is_kept_first_decides() -> None:
    plans, limits = list(plans_of(OPTIONS, [1, 2, 4, 8])), {"latency_ms": 1200.0}
    network, steps = (
        choose(plans, limits, (first, *(n for n in KEPT if n != first))) for first in ("network", "steps")
    )
    assert network.kept(8)["network"] == 1.0 and steps.steps == 8
    assert steps.kept(8)["network"] < 1.0 and network.steps < 8


def test_a_measured_part_corrects_its_other_forms() -> None:
    known = {("unet", "float32"): 300.0}
    found = {(c.form.width, c.scheme): c.latency for c in choices_of(UNET, ("float32", "w8a8"), PER_GMAC, known)}
    assert found[1.0, "float32"].value == 300.0 and found[1.0, "float32"].origin == "measured"
    assert found[0.5, "float32"].value == pytest.approx(75.0) and found[0.5, "float32"].origin == "predicted"
    assert found[0.5, "float32"].interval == pytest.approx((0.9 * 75, 1.1 * 75))
    assert found[1.0, "w8a8"].value == pytest.approx(200.0)


def test_a_part_that_is_too_large_by_itself_is_named() -> None:
    with pytest.raises(Infeasible, match=r"text_encoder alone takes size_bytes 1e\+08 in its smallest form") as raised:
        choose(list(plans_of(OPTIONS, [1])), {"size_bytes": 5e7})
    assert raised.value.limit == "size_bytes" and raised.value.closest["steps"] == 1


def test_the_closest_plan_is_said_where_only_the_sum_is_too_large() -> None:
    with pytest.raises(Infeasible, match=r"the closest \(1 step, .*\) has latency_ms 177.5 \(limit 150\)"):
        choose(list(plans_of(OPTIONS, [1, 2])), {"latency_ms": 150.0})


def test_widths_are_whole_groups_and_the_whole_is_unchanged() -> None:
    unet = {
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "attention_head_dim": 8,
    }
    assert scaled(unet, 1.0, 1.0) == unet
    narrow = scaled(unet, 0.3, 0.5)
    assert narrow["block_out_channels"] == [96, 192, 384] and narrow["layers_per_block"] == 1
    assert unet["block_out_channels"] == [320, 640, 1280]
    transformer = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "cross_attention_dim": 1152}
    small = scaled(transformer, 0.5, 0.25)
    assert (small["num_attention_heads"], small["num_layers"], small["cross_attention_dim"]) == (8, 7, 576)


def test_a_full_size_layout_is_read_without_its_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts, left_out = read_parts(LAYOUT, decoder_widths=(0.5,))
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    text, unet, vae = sorted(parts, key=lambda part: part.name)
    # 402 and 1,257 GMACs and 859.5 M parameters are published; float32 weights of the denoiser alone take 3.4 GB.
    assert unet.whole.macs / 1e9 == pytest.approx(402, rel=0.005) and unet.whole.weights / 1e6 == pytest.approx(
        859.5, rel=1e-4
    )
    assert vae.whole.macs / 1e9 == pytest.approx(1257, rel=0.005) and vae.forms[1].macs < 0.3 * vae.whole.macs
    assert [part.every_step for part in (text, unet, vae)] == [False, True, False] and left_out == ()
    assert grown_bytes < 1.5e9


def tiny(folder: Path, **changes: Any) -> Path:
    """A pipeline folder of a small denoiser and decoder: configurations alone."""
    index = {"unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]} | changes.pop("index", {})
    unet = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": [32, 64], "layers_per_block": 2,
        "norm_num_groups": 8, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    } | changes  # fmt: skip
    vae = {
        "latent_channels": 4, "block_out_channels": [32, 64], "norm_num_groups": 8,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    for name, record in {"unet/config": unet, "vae/config": vae, "model_index": index}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_forms_cost_less_and_equal_ones_are_offered_once(tmp_path: Path) -> None:
    parts, _ = read_parts(tiny(tmp_path), widths=(1.0, 0.5, 0.49), depths=(0.5,))
    unet = next(part for part in parts if part.every_step)
    assert [(f.width, f.depth) for f in unet.forms] == [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.5, 0.5)]
    assert all(f.macs < unet.whole.macs and f.weights < unet.whole.weights for f in unet.forms[1:])


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"index": {"text_encoder": ["transformers", "CLIPTextModel"]}}, InputError, "text_encoder: no config.json"),
        ({"index": {"unet": ["diffusers", "UNetOfNobody"]}}, DataError, "diffusers has no class UNetOfNobody"),
        ({"norm_num_groups": 7}, InputError, "its configuration makes no UNet2DModel"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        read_parts(tiny(tmp_path, **changes))


def test_no_folder_no_denoiser(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model_index.json"):
        read_parts(tmp_path)
    folder = tiny(tmp_path / "p")
    (folder / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}', encoding="utf-8")
    with pytest.raises(InputError, match="no denoiser; it names vae"):
        read_parts(folder)


def test_the_page_shows_every_plan_and_escapes(tmp_path: Path) -> None:
    wishes = Wishes(steps=(1, 2, 4), widths=(1.0, 0.5), depths=(1.0,))
    planned = plan_pipeline(tiny(tmp_path / "<b>"), "galaxy-s25", "npu", {"latency_ms": 1000.0}, wishes)
    page = render(planned)
    assert [plan.steps for plan in planned.best] == [1, 2, 4] and page.count("<rect class=") == 3 * 2
    assert "<b>" not in page and "&lt;b&gt;" in page and planned.chosen in planned.best


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny(tmp_path))
    base = ["plan", folder, "--target", "galaxy-s25"]
    for arguments, code, said in (
        (["--steps", "1,x"], 2, "--steps '1,x': expected numbers"),
        (["--keep", "beauty"], 2, "'beauty' is unknown; known: network, steps"),
        (["--known", "unet=5"], 2, "expected PART:SCHEME=MS"),
        (["--known", "nobody:w8a8=5"], 2, "the parts are unet, vae"),
        (["--scheme", "w3a3"], 2, "w3a3"),
        (["--size-bytes", "1000"], 3, "unet alone takes size_bytes"),
    ):
        assert main([*base, *arguments]) == code, arguments
        error = capsys.readouterr().err.strip()
        assert said in error and error.count("\n") == 0, error
    assert (
        main([*base, "--steps", "1,2", "--width", "1", "--depth", "1", "--json", "--out", str(tmp_path / "out")]) == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record["chosen"]["steps"] == 2 and {p["origin"] for p in record["parts"]} == {"predicted"}
    assert json.loads((tmp_path / "out/plan.json").read_text(encoding="utf-8")) == record
    shutil.rmtree(tmp_path / "out")


def test_every_combination_is_a_plan() -> None:
    plans = list(plans_of(OPTIONS, [1, 2]))
    combinations = set(product([1, 2], range(2), range(4), range(4)))
    assert len({(p.steps, tuple((c.form.width, c.scheme) for c in p.choices)) for p in plans}) == len(combinations)
