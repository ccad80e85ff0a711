"""Targets: what ships loads and says where it is from; what is wrong is refused in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from compress.errors import RecipeError, UnknownName
from compress.resources import data_folder
from compress.targets import LayerKind, list_targets, load_target
from compress.types import Scheme

GOOD = """
name: mine
soc: some chip
sources: {soc: its data sheet}
units:
  cpu: {kind: cpu, runtimes: [onnx], schemes: [float32, w8a8], channel_multiple: {float32: 4, w8a8: 16}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


PROMISED = """pixel-4 galaxy-s10 xiaomi-sd710 galaxy-s22 galaxy-s24 galaxy-s25 galaxy-s26 snapdragon-8-elite-gen-6
snapdragon-x-elite qcs6490 qcs8550 iphone-7 iphone-xs iphone-12 iphone-13 iphone-14-pro iphone-15-pro jetson-nano
jetson-agx-xavier jetson-orin-nano jetson-orin-nx raspberry-pi-4 raspberry-pi-5 host""".split()


def test_shipped_targets_are_all_there() -> None:
    assert set(PROMISED) <= set(list_targets())


@pytest.mark.parametrize("name", list_targets())
def test_every_fact_of_a_shipped_target_has_a_source(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    facts = {f"{unit}.{fact}" for unit in target.units for fact in ("runtimes", "schemes", "channel_multiple")}
    assert facts | {"soc"} <= set(target.sources)
    stated = {f"hardware.{part}" for part, fact in target.hardware.model_dump().items() if fact}
    assert {key for key in target.sources if key.startswith("hardware.")} == stated
    assert {key.split(".")[0] for key in target.sources} <= {"soc", "hardware", *target.units}, "a source for no unit"
    assert all(line.strip() for line in target.sources.values())


@pytest.mark.parametrize("name", list_targets())
def test_every_unit_of_a_shipped_target_has_a_profile_or_says_why_not(name: str) -> None:
    for unit in load_target(name).units.values():
        assert (data_folder("profiles") / unit.profile).is_file() if unit.profile else "not measured" in unit.notes


@pytest.mark.parametrize("name", list_targets())
def test_every_fit_starts_from_one_that_is_there_and_in_the_end_from_rows(name: str) -> None:
    for unit_name, unit in load_target(name).units.items():
        for runtime, schemes in unit.calibration.like.items() if unit.calibration else ():
            for scheme in schemes:
                passed = [(name, unit_name, runtime, scheme)]
                while (like := relative(*passed[-1])) is not None:
                    assert like not in passed, "a circle"
                    passed.append(like)


def relative(name: str, unit: str, runtime: str, scheme: Scheme) -> tuple[str, str, str, Scheme] | None:
    """What the fit of a unit starts from, or None; fails where the unit was not measured so."""
    calibration = load_target(name).unit(unit).calibration
    assert calibration is not None and scheme in calibration.rows[runtime]
    like = calibration.like.get(runtime, {}).get(scheme)
    return like and (like.target, like.unit, like.runtime, like.scheme)


def test_a_target_is_read_from_a_path_with_a_multiple_per_scheme(tmp_path: Path) -> None:
    unit = load_target(write(tmp_path, GOOD)).unit("cpu")
    assert (unit.multiple_for("float32"), unit.multiple_for("w8a8")) == (4, 16)
    assert load_target(str(tmp_path / "mine.yaml")).soc == "some chip"


def test_one_multiple_serves_every_scheme(tmp_path: Path) -> None:
    text = GOOD.replace("{float32: 4, w8a8: 16}", "8")
    unit = load_target(write(tmp_path, text)).unit("cpu")
    assert unit.multiple_for("float32") == unit.multiple_for("w8a8") == 8


def test_unknown_names_carry_the_nearest() -> None:
    with pytest.raises(UnknownName, match="pixel-4") as caught:
        load_target("pixel4")
    assert caught.value.nearest[0] == "pixel-4"
    with pytest.raises(UnknownName, match="unknown unit 'gpuu'; did you mean gpu"):
        load_target("pixel-4").unit("gpuu")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("soc: some chip", "", "soc"),
        ("soc: some chip", "soc: some chip\nspeed: 3", "speed"),
        ("kind: cpu", "kind: tpu", "units.cpu.kind"),
        ("[float32, w8a8]", "[float32, w4a4]", "units.cpu.schemes"),
        ("w8a8: 16", "w8a8: 0", "units.cpu"),
        (", w8a8: 16", "", "units.cpu"),
        ("runtimes: [onnx]", "runtimes: []", "units.cpu.runtimes"),
        ("soc: some chip", "soc: some chip\nhardware: {cpu: [{count: 0, design: x}]}", "hardware.cpu.0.count"),
        ("soc: some chip", "soc: some chip\nhardware: {radio: 5G}", "hardware.radio"),
        ("runtimes: [onnx]", "runtimes: [onnx], profile: ../x.json", "units.cpu"),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_target(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: key '{key}") and "\n" not in message


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "", "\ttabs: 1"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_target(write(tmp_path, text))
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot read"):
        load_target(tmp_path / "none.yaml")


def test_a_target_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_target("host").soc = "other"  # type: ignore[misc]


def test_targets_and_predictions_import_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, compress.targets, compress.profile.latency; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", list_targets())
def test_every_unit_says_which_layers_may_have_which_scheme_and_where_that_is_from(name: str) -> None:
    target = load_target(name)
    for unit_name, unit in target.units.items():
        assert set(unit.layer_schemes) == set(get_args(LayerKind)), unit_name
        assert f"{unit_name}.layer_schemes" in target.sources
        for kind, schemes in unit.layer_schemes.items():
            assert set(unit.schemes) <= set(schemes), f"{unit_name}: {kind} lacks a scheme whose latency is known"


def test_a_unit_says_what_a_kind_of_layer_may_have(tmp_path: Path) -> None:
    cpu = load_target("pixel-4").unit("cpu")
    assert cpu.allows("linear", "w4") and not cpu.allows("depthwise_conv", "w4") and not cpu.allows("conv", "palette4")
    plain = load_target(write(tmp_path, GOOD)).unit("cpu")
    assert plain.allows("conv", "w8a8") and not plain.allows("conv", "float16"), "without a table, `schemes` is it"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("{conv: [float32]}", "names no schemes for grouped_conv"),
        ("{conv: [w8a8], " + ", ".join(f"{k}: [float32]" for k in get_args(LayerKind)[1:]) + "}", "conv needs float32"),
        ("{pool: [float32]}", "layer_schemes"),
    ],
)
def test_a_wrong_table_of_layers_is_refused(tmp_path: Path, table: str, reason: str) -> None:
    path = write(tmp_path, GOOD.replace("channel_multiple", f"layer_schemes: {table}, channel_multiple"))
    with pytest.raises(RecipeError, match=reason):
        load_target(path)
