"""Profile files: what ships is complete and honest; what is wrong is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.errors import RecipeError
from compress.profile.constants import Profile, read_profile, write_profile
from compress.resources import data_folder
from compress.targets import list_targets, load_target

SHIPPED = sorted(path.name for path in data_folder("profiles").glob("*.json"))


def shipped(name: str) -> Profile:
    return read_profile(data_folder("profiles") / name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_belongs_to_a_unit_and_fits_its_target(name: str) -> None:
    profile = shipped(name)
    unit = load_target(profile.target).unit(profile.unit)
    assert unit.profile == name
    assert set(profile.schemes) == set(unit.schemes)
    for scheme, block in profile.channel_block.items():
        assert block % unit.multiple_for(scheme) == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_interval_covers_what_the_held_out_models_showed(name: str) -> None:
    for constants in shipped(name).schemes.values():
        held_out = constants.held_out
        assert constants.interval[0] <= held_out.ratio_p05 and constants.interval[1] >= held_out.ratio_p95
        assert held_out.families >= 5, "an error on held-out families needs several"
        assert held_out.mape >= constants.fitted_mape, "held-out errors below the fitted ones are not held out"
        assert constants.rows


def test_every_unit_of_every_shipped_target_has_its_profile() -> None:
    named = {unit.profile for name in list_targets() for unit in load_target(name).units.values()}
    assert named == set(SHIPPED)


@pytest.mark.parametrize(("name", "scheme", "mape"), [
    ("pixel-4-cpu.json", "float32", 0.13), ("pixel-4-cpu.json", "w8a8", 0.20), ("pixel-4-gpu.json", "float32", 0.13),
])  # fmt: skip
def test_the_error_on_held_out_families_stays_below_the_known_roofline(name: str, scheme: str, mape: float) -> None:
    assert dict(shipped(name).schemes)[scheme].held_out.mape < mape  # type: ignore[index]


def test_the_host_profile_admits_that_it_is_of_another_machine() -> None:
    profile = shipped("host-cpu.json")
    assert "one x86-64 machine" in profile.notes[0]
    assert all(low <= 0.5 and high >= 2 for low, high in (c.interval for c in profile.schemes.values()))


def test_writing_and_reading_gives_the_same_profile(tmp_path: Path) -> None:
    profile = shipped("pixel-4-cpu.json")
    write_profile(profile, tmp_path / "p.json")
    assert read_profile(tmp_path / "p.json") == profile
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.parametrize(("path", "value", "said"), [
    (("unit",), None, "unit"), (("schemes", "float32", "invoke_ms"), -1, "invoke_ms"),
    (("schemes", "float32", "interval"), [1.1, 1.2], "interval must be two factors around 1"),
    (("schemes", "float32", "gbytes_per_s"), {"norm": 1.0}, "needs the key 'default'"),
    (("schemes", "float32", "gmacs_per_s"), {"conv": 0.0}, "gmacs_per_s.conv"), (("schemes",), {}, "schemes"),
    (("speed",), 3, "speed"),
])  # fmt: skip
def test_a_wrong_profile_is_refused_with_file_and_key(
    tmp_path: Path, path: tuple[str, ...], value: object, said: str
) -> None:
    record = json.loads((data_folder("profiles") / "pixel-4-gpu.json").read_text(encoding="utf-8"))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "p.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_profile(file)
    message = str(caught.value)
    assert str(file) in message and said in message and "\n" not in message


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"target": ', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"p\.json: not a JSON file"):
        read_profile(tmp_path / "p.json")
