"""The state that a phone is in: governor, clocks, temperatures, thermal status, battery; and whether it throttles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from compress.runtimes.adb import Phone

# What Android calls its thermal statuses (android.os.PowerManager), from 1 on the phone holds back.
STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
DRIFT = 1.1  # later runs this much slower than earlier ones are throttled
_CAP_DROP = 0.99  # a cap below this share of what it was has dropped
_MIN_TIMES = 10  # fewer single runs than this say nothing of a drift

_CPU = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_CLOCKS = f"grep -H . {_CPU}/scaling_governor {_CPU}/scaling_max_freq {_CPU}/scaling_cur_freq 2>/dev/null; true"
_ZONES = "grep -H . /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp 2>/dev/null; true"
_CLOCK_LINE = re.compile(r"cpu(\d+)/cpufreq/(scaling_\w+):(\S+)")
_ZONE_LINE = re.compile(r"thermal_zone(\d+)/(type|temp):(\S+)")
_SENSOR = re.compile(r"Temperature\{mValue=([-0-9.]+), mType=(-?\d+), mName=([^,]+), mStatus=\d+\}")
_SKIN = 3  # mType of the sensors that stand for the phone's surface, by which it throttles


@dataclass(frozen=True, slots=True)
class State:
    """A phone at one moment; None and "" where it does not say.

    `caps_khz` is the highest clock that each CPU may run at now: what throttling lowers. `clocks_khz` is what it ran
    at when it was asked, which between runs is an idle clock. `status` is Android's thermal status, an index of
    STATUSES. `temperature_c` is that of the surface, or else of the battery, or else of the hottest CPU sensor.
    """

    governor: str = ""
    caps_khz: Mapping[int, int] | None = None
    clocks_khz: Mapping[int, int] | None = None
    status: int | None = None
    temperatures_c: Mapping[str, float] | None = None
    temperature_c: float | None = None
    sensor: str = ""
    battery_percent: int | None = None
    charging: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state as plain JSON data."""
        return {
            "governor": self.governor,
            "caps_khz": {str(cpu): cap for cpu, cap in (self.caps_khz or {}).items()},
            "clocks_khz": {str(cpu): clock for cpu, clock in (self.clocks_khz or {}).items()},
            "thermal_status": self.status,
            "temperatures_c": dict(self.temperatures_c or {}),
            "temperature_c": self.temperature_c,
            "sensor": self.sensor,
            "battery_percent": self.battery_percent,
            "charging": self.charging,
        }


def state_of(phone: Phone) -> State:
    """The phone's state now; raises DeviceLost where it is gone."""
    clocks = _clocks(phone.read(_CLOCKS))
    thermal = phone.read("dumpsys thermalservice")
    battery = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", phone.read("dumpsys battery"), re.MULTILINE))
    status = re.search(r"Thermal Status: (\d)", thermal)
    sensors = _sensors(thermal)
    level, tenths = _whole(battery.get("level")), _whole(battery.get("temperature"))
    temperatures = {name: value for name, _, value in sensors} or _zones(phone.read(_ZONES))
    temperature, sensor = _temperature(sensors, tenths, temperatures)
    powered = [battery[key] == "true" for key in battery if key.endswith("powered")]
    return State(
        governor="; ".join(dict.fromkeys(clocks.get("scaling_governor", {}).values())),
        caps_khz=_numbers(clocks.get("scaling_max_freq", {})),
        clocks_khz=_numbers(clocks.get("scaling_cur_freq", {})),
        status=int(status.group(1)) if status else None,
        temperatures_c=temperatures,
        temperature_c=temperature,
        sensor=sensor,
        battery_percent=level,
        charging=any(powered) if powered else None,
    )


def throttling(states: Sequence[State], rounds_ms: Sequence[float], times_ms: Sequence[Sequence[float]]) -> list[str]:
    """The signs that a phone held back, each in a sentence; none where it did not.

    Args:
        states: before the first round and after each.
        rounds_ms: the latency of each round.
        times_ms: the single runs of each round, in order; empty where they are not known.
    """
    reasons = [*_statuses(states), *_dropped_caps(states)]
    if len(rounds_ms) > 1 and rounds_ms[-1] > DRIFT * rounds_ms[0]:
        slower = rounds_ms[-1] / rounds_ms[0] - 1
        reasons.append(f"round {len(rounds_ms)} was {slower:.0%} slower than round 1")
    for number, times in enumerate(times_ms, 1):
        half = len(times) // 2
        if len(times) >= _MIN_TIMES and (ratio := median(times[half:]) / median(times[:half])) > DRIFT:
            reasons.append(f"in round {number} the later half of the runs was {ratio - 1:.0%} slower than the first")
    return reasons


def _statuses(states: Sequence[State]) -> list[str]:
    seen = [state.status for state in states if state.status is not None]
    if not seen or max(seen) < 1:
        return []
    return [f"thermal status {_name(max(seen))} (it was {_name(seen[0])} at the start)"]


def _name(status: int) -> str:
    return f"{status} ({STATUSES[status]})" if status < len(STATUSES) else str(status)


def _dropped_caps(states: Sequence[State]) -> list[str]:
    first = states[0].caps_khz or {}
    reasons = []
    for cpu, cap in first.items():
        lowest = min((state.caps_khz or {}).get(cpu, cap) for state in states)
        if lowest < _CAP_DROP * cap:
            reasons.append((f"from {cap / 1e6:.2f} to {lowest / 1e6:.2f} GHz", cpu))
    change = {what: [str(cpu) for each, cpu in reasons if each == what] for what, _ in reasons}
    return [f"the clock of cpu {', '.join(cpus)} was capped {what}" for what, cpus in change.items()]


def _clocks(output: str) -> dict[str, dict[int, str]]:
    """The values of each cpufreq file, by CPU."""
    found: dict[str, dict[int, str]] = {}
    for cpu, name, value in _CLOCK_LINE.findall(output):
        found.setdefault(name, {})[int(cpu)] = value
    return found


def _numbers(values: Mapping[int, str]) -> dict[int, int]:
    return {cpu: int(value) for cpu, value in values.items() if value.isdigit()}


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def _sensors(thermal: str) -> list[tuple[str, int, float]]:
    """Name, type and temperature (°C) of each sensor, as measured now: what Android cached may be old."""
    now = thermal.partition("Current temperatures from HAL")[2] or thermal
    now = now.partition("Current cooling devices")[0]
    found = [(name, int(kind), float(value)) for value, kind, name in _SENSOR.findall(now)]
    return [sensor for sensor in found if 0 < sensor[2] < 150]  # 0 is a sensor that is not there


def _zones(output: str) -> dict[str, float]:
    """The temperature (°C) of each thermal zone of the kernel, by its type."""
    types = {zone: value for zone, key, value in _ZONE_LINE.findall(output) if key == "type"}
    raw = {zone: _whole(value) for zone, key, value in _ZONE_LINE.findall(output) if key == "temp"}
    degrees = {zone: value / 1e3 if abs(value) > 1000 else float(value) for zone, value in raw.items() if value}
    return {types[zone]: value for zone, value in degrees.items() if zone in types and 0 < value < 150}


def _temperature(
    sensors: Sequence[tuple[str, int, float]], battery_tenths: int | None, zones: Mapping[str, float]
) -> tuple[float | None, str]:
    """The one temperature to wait for, and which sensor's it is."""
    skin = [(value, name) for name, kind, value in sensors if kind == _SKIN]
    if skin:
        return max(skin)
    if battery_tenths:
        return battery_tenths / 10, "battery"
    cpu = [(value, name) for name, value in zones.items() if name.lower().startswith("cpu")]
    return max(cpu) if cpu else (None, "")
