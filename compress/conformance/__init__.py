"""Does every operator come out right in every format? The suite, its table, and what the table says of a model.

make_table(folder)                                     every case in every scheme and format, minutes to hours
table = load_table()                                   the one that ships
residency(traced, "w8a8", ("onnx", "litert"), table)   what each op of a model will run as, before any training
"""

from compress.conformance.cases import CASES, FAMILIES, find_cases
from compress.conformance.residency import Residence, residency
from compress.conformance.run import SCHEMES, Result, run
from compress.conformance.suite import count_rows, make_table
from compress.conformance.table import Table, load_table, save_table

__all__ = [
    "CASES",
    "FAMILIES",
    "SCHEMES",
    "Residence",
    "Result",
    "Table",
    "count_rows",
    "find_cases",
    "load_table",
    "make_table",
    "residency",
    "run",
    "save_table",
]
