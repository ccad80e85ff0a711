"""How the report's numbers read: one way for the page and the terminal. Sizes are decimal (1 kB = 1000 bytes)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from compress.report.figure import Figure
from compress.report.schema import Report

MINUS = "\N{MINUS SIGN}"
NOT_RUN = "not run here"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_WHOLE = {"MACs", "parameters", "params", ""}
_FRACTIONS = {"fraction", "share", "of the teacher's"}
_STATUS = {
    0: ("good", "within budget"),
    1: ("bad", "a check failed"),
    2: ("bad", "the recipe was refused"),
    3: ("bad", "budget not met"),
    4: ("bad", "a tool is missing"),
}
TITLES = {
    "quality": "Quality",
    "params": "Parameters",
    "macs": "MACs",
    "size_bytes": "Size",
    "peak_activation_bytes": "Peak activation memory",
    "latency": "Predicted latency",
    "latency_ms": "Latency",
    "macs_ratio": "Share of the teacher's MACs",
    "min_quality": "Least quality",
    "max_quality_drop": "Largest quality drop",
}


def significant(value: float, digits: int = 3) -> str:
    """`value` in `digits` significant digits, without an exponent from 0.001 up to a million."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 10**digits - 0.5:
        shown = f"{value:,.0f}" if size < 1e6 else f"{value:.{digits - 1}e}"
    elif size < 1e-3:
        shown = f"{value:.1e}"
    else:
        shown = f"{value:#.{digits}g}".rstrip(".")
    return shown.replace("-", MINUS) if value < 0 else shown


def scaled(value: float) -> str:
    """`value` with a decimal prefix: 40.6 M."""
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{significant(value / size)} {prefix}"
    return significant(value) if value != int(value) else f"{int(value)}"


def value_text(value: float | None, unit: str) -> str:
    """A bare value with its unit; fractions read as percent."""
    if value is None:
        return "not known"
    if unit in _FRACTIONS:
        return f"{100 * value:.2f} %".replace("-", MINUS)
    if unit == "bytes":
        shown = scaled(value)
        return f"{shown}B" if shown[-1].isalpha() else f"{shown} B"
    if unit in _WHOLE:
        return (
            scaled(value) if abs(value) >= 1000 else significant(value, 4) if value != int(value) else f"{int(value)}"
        )
    return f"{significant(value)} {unit}"


def text(figure: Figure | None) -> str:
    """A figure's value with its unit; says so where it is not known."""
    if figure is None:
        return "\N{EN DASH}"
    if figure.value is None and figure.source.startswith("infinite"):
        return "infinite"
    return value_text(figure.value, figure.unit)


def interval(figure: Figure | None) -> str:
    """A figure's interval in the unit of its value, "[1.42, 2.31]"; "" where it has none."""
    if figure is None or figure.interval is None or figure.value is None:
        return ""
    scale = 100.0 if figure.unit in _FRACTIONS else 1.0
    if figure.unit in _WHOLE | {"bytes"}:
        low, high = (value_text(end, figure.unit) if end is not None else "?" for end in figure.interval)
    else:
        low, high = (significant(scale * end) if end is not None else "?" for end in figure.interval)
    return f"[{low}, {high}]"


def with_interval(figure: Figure | None) -> str:
    """Value, unit and, where it has one, the interval."""
    return f"{text(figure)} {interval(figure)}".strip()


def origin(figure: Figure) -> str:
    """Where a figure is from, in words: origin, exact value, samples, interval, source."""
    words: list[str] = [figure.origin]
    if figure.value is not None:
        words.append(f"exactly {figure.value!r} {figure.unit}".rstrip())
    if figure.n is not None:
        words.append(f"n = {figure.n}")
    if figure.interval is not None:
        words.append(f"90 % interval {interval(figure) or 'not known'}")
    return ", ".join(words) + (f" ({figure.source})" if figure.source else "")


def ratio(before: Figure | None, after: Figure | None) -> float | None:
    """`after` as a share of `before`; None where either is not known."""
    if before is None or after is None or not before.value or after.value is None:
        return None
    return after.value / before.value


def share_text(share: float | None) -> str:
    """A share as percent: two significant digits below 10 %, whole percent from there on."""
    if share is None:
        return "\N{EN DASH}"
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{significant(100 * share, 2)} %"


def difference(before: Figure | None, after: Figure | None) -> float | None:
    """`after` minus `before` in the shown unit (points where the quality is a fraction); None where not known."""
    if before is None or after is None or before.value is None or after.value is None:
        return None
    return (after.value - before.value) * (100.0 if after.unit in _FRACTIONS else 1.0)


def difference_unit(figure: Figure | None) -> str:
    """What a difference of such figures is counted in."""
    return "" if figure is None else "points" if figure.unit in _FRACTIONS | {"%"} else figure.unit


def signed(value: float | None) -> str:
    """A difference with its sign, in two decimals (more where it is small)."""
    if value is None:
        return "\N{EN DASH}"
    shown = f"{abs(value):.2f}" if abs(value) >= 0.01 or value == 0 else significant(abs(value), 2)
    return shown if value == 0 else f"{'+' if value > 0 else MINUS}{shown}"


def limit_unit(limit: str, unit: str) -> str:
    """The unit a budget's limit is shown in: its own, or what its name says."""
    ends = (("_ms", "ms"), ("_bytes", "bytes"), ("macs", "MACs"), ("_ratio", "fraction"))
    return unit or next((shown for end, shown in ends if limit.endswith(end)), "")


def target_label(report: Report) -> str:
    """The target and its unit: "phone cpu"."""
    return f"{report.target.get('name', 'target')} {report.target.get('unit', '')}".strip()


def status(report: Report) -> tuple[str, str]:
    """("good" | "bad" | "open", the outcome in two or three words)."""
    if any(row.met is False for row in report.budget) and report.exit_code in (None, 0, 3):
        return "bad", "budget not met"
    if any(row.passed is False for row in report.artifacts) and report.exit_code in (None, 0):
        return "bad", "a check failed"
    if report.exit_code is None:
        return "open", "not finished"
    return _STATUS[report.exit_code] if report.exit_code or report.budget else ("good", "done")


def verdict(report: Report) -> str:
    """The outcome in one sentence, from the report's own figures."""
    parts = [part for part in (_costs(report), _speed(report), _quality(report)) if part]
    start = f"The student {listed(parts)}" if parts else "The run ended before a student stood"
    ends = [end for end in (_budget(report), _checks(report)) if end]
    return "; ".join([start, *ends]) + "."


def _costs(report: Report) -> str:
    macs, size = (
        ratio(report.teacher.macs, report.student.macs),
        ratio(report.teacher.size_bytes, report.student.size_bytes),
    )
    names = ((macs, "MACs"), (size, "size"))
    shares = [f"{share_text(share)} of the teacher's {name}" for share, name in names if share is not None]
    return "has " + " and ".join(shares) if shares else ""


def _speed(report: Report) -> str:
    share = ratio(report.teacher.latency, report.student.latency)
    if not share:
        return ""
    where = target_label(report)
    if share > 1:
        return f"is predicted {significant(share, 2)} times slower on {where}"
    return f"is predicted {significant(1 / share, 2)} times as fast on {where}"


def _quality(report: Report) -> str:
    change = difference(report.teacher.quality, report.student.quality)
    if report.student.quality is None or change is None:
        return ""
    side = "equal to" if change == 0 else f"{signed(abs(change))[1:]} {difference_unit(report.student.quality)}".strip()
    side = side if change == 0 else f"{side} {'above' if change > 0 else 'below'}"
    return f"reaches {report.quality_name} {text(report.student.quality)}, {side} the teacher"


def _budget(report: Report) -> str:
    broken = [row.limit for row in report.budget if row.met is False]
    if broken:
        return f"the budget is not met ({', '.join(broken)})"
    if report.budget and all(row.met for row in report.budget):
        return "every limit of the budget is met" if len(report.budget) > 1 else "the budget is met"
    return ""


def _checks(report: Report) -> str:
    failed = [f"{row.format} {row.scheme}" for row in report.artifacts if row.passed is False]
    checked = sum(row.passed is not None for row in report.artifacts)
    if failed:
        return f"the check of {listed(failed)} failed"
    return f"{checked} of {len(report.artifacts)} artifacts checked and passed" if checked else ""


def listed(parts: list[str]) -> str:
    """The parts as a list in a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_SHOWN = 3
_PLACED = re.compile(r"^(?P<op>.+?) at (?P<place>.+?) \((?P<why>.+)\)(?P<rest>, \d+ times)?$")


def grouped(lines: Iterable[str]) -> list[str]:
    """Lines such as "CONV at PLACE (reason)", those of one op and reason in one: with how many and the first places.

    A line of another form stays as it is.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        match = _PLACED.match(line)
        # The name of a tensor is no reason of its own.
        key = (match["op"], re.sub(r" for tensor \S+", "", match["why"])) if match else (line, "")
        groups.setdefault(key, []).append(match["place"] + (match["rest"] or "") if match else line)
    return [_group(op, why, places) for (op, why), places in groups.items()]


def _group(op: str, why: str, places: list[str]) -> str:
    if not why:
        return op
    if len(places) == 1:
        place, _, times = places[0].partition(", ")
        return f"{op} at {place} ({why}){f', {times}' if times else ''}"
    first = ", ".join(places[:_SHOWN]) + (f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else "")
    return f"{op} in {len(places)} places ({why}): {first}"
