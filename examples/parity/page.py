"""The parity table as a page to read: one line for each model, format and scheme, then what lies behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

EXPLAINED = Path(__file__).with_name("explained.yaml")
SOUND = ("pass",)

HEAD = """# Parity: six models, four formats, float32 and w8a8

Every model is exported to every format in float32 and, after post-training quantization, in w8a8; each file runs in its
runtime on held-out inputs. *Reference* is the fake-quantized program in torch, from which all int8 files are made (for
float32: the torch model). SQNR in dB. An int8 file passes where its SQNR against float is no more than 1 dB below the
reference's own; a float file where its largest error is at most 1e-3 of the output's range. *Agreement* is the lowest
SQNR between this runtime's output and another's. *On arm64* is the same verdict for the file run under emulation on the
first samples, and the SQNR of what it gives there against what it gives here. Latency is the median of float and int8
measured in turns on this host with one thread; it is not a phone's.
"""

COLUMNS = (
    "model", "format", "scheme", "verdict", "against float", "reference against float", "against reference",
    "max error", "agreement", "on arm64", "quality", "reference's quality", "size", "p50 ms", "float p50 / int8 p50",
)  # fmt: skip


def explain(records: Sequence[dict[str, Any]], explanations: Sequence[Mapping[str, Any]]) -> None:
    """Puts into each row that does not pass why it does not, where that is known."""
    for record in records:
        for row in record["rows"]:
            for arch, found in _verdicts(row):
                own = [e for e in explanations if e.get("arch", "") == arch]
                place = {**row, "verdict": found["verdict"]}
                found["explanation"] = next((e["why"] for e in own if _fits(e, record, place)), "")


def read_explanations() -> list[dict[str, Any]]:
    """What is known of rows that do not pass: where (a key left out fits all) and why."""
    return list(yaml.safe_load(EXPLAINED.read_text(encoding="utf-8")) or [])


def unexplained(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows that neither pass nor have an explanation, by name."""
    return [
        f"{record['model']} {row['format']} {_scheme(row, arch)}: {found['verdict']}, {found['reason']}"
        for record in records
        for row in record["rows"]
        for arch, found in _verdicts(row)
        if found["verdict"] not in SOUND and not found.get("explanation")
    ]


def _scheme(row: Mapping[str, Any], arch: str) -> str:
    return f"{row['scheme']} on {arch}" if arch else str(row["scheme"])


def _verdicts(row: Any) -> list[tuple[str, Any]]:
    """("", the row) and, where the file ran under emulation, ("arm64", what was found there)."""
    return [("", row), *([("arm64", row["arm64"])] if "arm64" in row else [])]


def page(records: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> str:
    """The whole page as Markdown."""
    made_with = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    lines = [HEAD, f"Made on {environment['date']} with {made_with}; {environment['cpu']}.", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += [_line(record, row) for record in records for row in record["rows"]]
    for record in records:
        lines += ["", *_section(record)]
    return "\n".join(lines) + "\n"


def _fits(explanation: Mapping[str, Any], record: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    wanted = {key: explanation[key] for key in ("model", "format", "scheme", "verdict") if key in explanation}
    has = {"model": record["model"], **row}
    return row["verdict"] not in SOUND and all(has[key] == value for key, value in wanted.items())


def _line(record: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    scheme = row["scheme"]
    reference = record["reference_sqnr_db"] if scheme != "float32" else None
    agreement = row.get("agreement_db")
    cells = (
        record["model"],
        row["format"],
        scheme,
        row["verdict"],
        _number(row.get("sqnr_float_db"), ".1f"),
        _number(reference, ".1f"),
        _number(row.get("sqnr_reference_db"), ".1f"),
        _number(row.get("max_error"), ".2g"),
        _number(min(agreement.values()) if agreement else None, ".1f"),
        _emulated(row.get("arm64")),
        _quality(row.get("quality")),
        _quality(record["reference_quality"].get(scheme)),
        _size(row.get("size_bytes")),
        _number(_median(row), ".3g"),
        _number(_speed(record, row), ".2f"),
    )
    return "| " + " | ".join(cells) + " |"


def _section(record: Mapping[str, Any]) -> list[str]:
    """What lies behind a model's lines."""
    shapes = " and ".join("x".join(map(str, shape)) for shape in record["input_shapes"])
    lines = [f"## {record['model']}: {record['title']}", ""]
    size = f"{record['params'] / 1e6:.2f} M parameters, {record['macs'] / 1e6:.0f} M MACs at {shapes}"
    judged = f"{record['samples']} samples; quality is {record['quality_name']}"
    lines += [f"{record['source']}; {size}; {judged}; {record['seconds']:.0f} s.", ""]
    sheet = record["sheet"]
    if sheet:
        lines += [f"![{sheet}]({record['model']}/samples.png)", "", f"From left to right: {sheet}.", ""]
    lines += ["Left in float by the plan:", *_bullets(record["planned_float_ops"])]
    for row in record["rows"]:
        behind = _behind(row)
        if behind:
            lines += ["", f"**{row['format']} {row['scheme']}**", *_bullets(behind)]
    return lines


def _behind(row: Mapping[str, Any]) -> list[str]:
    found = []
    if row["verdict"] not in SOUND:
        found.append(f"{row['verdict']}: {row['reason']}")
        found += [f"bisect: {row['bisect']}"] if row.get("bisect") else []
        found.append(f"why: {row.get('explanation') or 'not known'}")
    if row.get("ran_on"):
        found.append(f"{row['ran_on']}; {row.get('delegate', '')}")
    emulated = row.get("arm64")
    if emulated:
        found.append(f"arm64: {emulated.get('ran_on') or emulated['reason']}")
    if row.get("agreement_db"):
        found.append("agreement: " + ", ".join(f"{name} {db:.1f} dB" for name, db in row["agreement_db"].items()))
    found += [f"float: {line}" for line in row.get("float_ops", [])]
    found += [f"note: {line}" for line in row.get("notes", [])]
    return found


def _bullets(lines: Sequence[str]) -> list[str]:
    return [f"- {line}" for line in lines] or ["- nothing"]


def _median(row: Mapping[str, Any]) -> float | None:
    return row["latency"]["value"] if row.get("latency") else None


def _speed(record: Mapping[str, Any], row: Mapping[str, Any]) -> float | None:
    """How many times as fast an int8 file is as the float file of its format."""
    own, others = _median(row), [_median(r) for r in record["rows"] if _twin(r, row)]
    return others[0] / own if row["scheme"] != "float32" and own and others and others[0] else None


def _twin(other: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return other["format"] == row["format"] and other["scheme"] == "float32"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _emulated(record: Mapping[str, Any] | None) -> str:
    if not record:
        return "–"
    return f"{record['verdict']}, {record['sqnr_host_db']:.1f}" if "sqnr_host_db" in record else record["verdict"]


def _quality(record: Mapping[str, Any] | None) -> str:
    if not record or record["value"] is None:
        return "–"
    return f"{record['value']:.3g} {record['unit']}".strip()


def _size(size_bytes: int | None) -> str:
    return "–" if size_bytes is None else f"{size_bytes / 1e3:,.0f} kB"
