"""Hand-made results for the tests of the table, the page and the residency check."""

from __future__ import annotations

from typing import Any

from compress.conformance.run import Result, Word
from compress.conformance.table import Table, conditions

PLAIN = {"conv2d": ("conv2d",), "conv2d_relu": ("conv2d", "relu"), "group_norm": ("group_norm",)}


def result(case: str, scheme: str, format: str, verdict: Word = "pass", reason: str = "", **more: Any) -> Result:
    """A result as the suite gives it, with the forms of PLAIN."""
    told = {"ran_on": f"{format} 1.0", "delegate": f"{format} CPU", "checked": "numbers", "sqnr_db": 50.0, **more}
    if verdict == "refused":
        told = {}
    return Result(case, scheme, format, verdict, reason, forms=PLAIN[case], **told)


def table(*results: Result) -> Table:
    """A table of these results, made here and now."""
    return Table().with_results(results, conditions())
