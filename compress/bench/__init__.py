"""Does each method beat its own ablation? Small cases on small beds, a verdict for each, losses shown as losses.

FAMILIES["generator"]                                  its cases
run_bench("generator", cases, known, folder, seeds=3)  minutes; writes generator.json and generator.md
"""

from compress.bench.case import Case
from compress.bench.families import FAMILIES
from compress.bench.page import HEADERS, cells
from compress.bench.run import run_bench, run_case
from compress.bench.table import LEAST_SEEDS, Row, read_rows, verdict

__all__ = [
    "FAMILIES", "HEADERS", "LEAST_SEEDS", "Case", "Row", "cells", "read_rows", "run_bench", "run_case", "verdict",
]  # fmt: skip
