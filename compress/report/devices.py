"""How what was measured on devices reads, beside what was predicted: one way for the page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from compress.report import words
from compress.report.measured import MeasuredRow
from compress.report.schema import ArtifactRow, Report


def rows(report: Report) -> Iterator[tuple[str, ArtifactRow, MeasuredRow]]:
    """Every measured row with the path of it in report.json and its artifact."""
    for place, artifact in enumerate(report.artifacts):
        for number, row in enumerate(artifact.measured):
            yield f"artifacts.{place}.measured.{number}.", artifact, row


def heading(report: Report) -> str:
    """What was measured on, for a heading: "Measured on acme A 1"; "" where nothing was."""
    names = list(dict.fromkeys(row.label for _, _, row in rows(report) if not row.is_host))
    hosts = ["a host"] if any(row.is_host for _, _, row in rows(report)) else []
    shown = names if len(names) < 3 else [f"{len(names)} devices"]
    return f"Measured on {words.listed([*shown, *hosts])}" if names or hosts else ""


def place(row: MeasuredRow) -> str:
    """The device and its unit, and that it held back where it did."""
    return f"{row.label}, {row.unit or 'unit not known'}{', throttled' if row.throttled else ''}"


def error(row: MeasuredRow) -> str:
    """The error of the prediction with its sign, "−9.03 %": too little was predicted; "" where there is none."""
    value = row.prediction_error_percent
    return "" if value is None else f"{'+' if value > 0 else ''}{words.value_text(value, '%')}"


def inside(row: MeasuredRow) -> str:
    """Whether what was measured lies in the prediction's interval, in a word or two."""
    return "not compared" if row.not_compared else {True: "inside", False: "outside", None: ""}[row.in_interval]


def throttling(row: MeasuredRow) -> str:
    """Whether the device held back, in words, with the signs of it."""
    if row.throttled is None:
        return "nobody looked whether it throttled"
    return f"throttled: {row.throttled_why}".removesuffix(": ") if row.throttled else "not throttled"


def conditions(row: MeasuredRow) -> list[str]:
    """What a measurement was made with: runs, runtime, threads, governor, temperature, throttling."""
    before, after = row.temperature_before_c, row.temperature_after_c
    parts = [
        f"{row.n} runs" if row.n else "number of runs not known",
        f"{row.runtime} {row.runtime_version}".strip(),
        f"{row.threads} thread{'s' * (row.threads > 1)}" if row.threads else "",
        f"governor {row.governor}" if row.governor else "",
        f"{before:g} °C before, {after:g} °C after" if before is not None and after is not None else "",
        throttling(row),
    ]
    return [part for part in parts if part]


def remarks(row: MeasuredRow) -> list[str]:
    """What is to be known of a row beside its figures and conditions."""
    is_mean = row.latency_is == "latency_mean_ms"
    mean = [f"the mean stands for the median: {words.text(row.latency_mean_ms)}"] if is_mean else []
    return [*mean, *row.notes]


def told(report: Report) -> list[str]:
    """Lines to stand below a table: each set of conditions with the files it held for, then what is to be known."""
    held: dict[str, list[str]] = {}
    known: dict[str, list[str]] = {}
    for _, artifact, row in rows(report):
        name = f"{artifact.format} {artifact.scheme}"
        soc = f" ({row.soc})" if row.soc else ""
        held.setdefault(f"{row.label}{soc}, {row.unit}: {', '.join(conditions(row))}", []).append(name)
        why = [f"not compared: {row.not_compared}"] if row.not_compared else []
        for remark in [*why, *remarks(row)]:
            known.setdefault(remark, []).append(name)
    return [f"{what} [{', '.join(dict.fromkeys(names))}]" for group in (held, known) for what, names in group.items()]
