"""What a run found, as data and as a page: `report.json` and `report.html`.

json_path, html_path = report.write(filled, run_folder)
report.print_report(filled, run_folder)       # the same on the terminal
"""

from compress.report.figure import Figure
from compress.report.measured import BaselineRow, MeasuredRow, MeasurementFile
from compress.report.schema import (
    METRICS,
    SCHEMA_VERSION,
    ArtifactRow,
    BudgetRow,
    Environment,
    Figures,
    HistoryRow,
    LayerRow,
    Pareto,
    ParetoPoint,
    Report,
    SampleRow,
    StepRow,
    load_report,
    report_json_schema,
)
from compress.report.terminal import print_report
from compress.report.write import write

__all__ = [
    "METRICS",
    "SCHEMA_VERSION",
    "ArtifactRow",
    "BaselineRow",
    "BudgetRow",
    "Environment",
    "Figure",
    "Figures",
    "HistoryRow",
    "LayerRow",
    "MeasuredRow",
    "MeasurementFile",
    "Pareto",
    "ParetoPoint",
    "Report",
    "SampleRow",
    "StepRow",
    "load_report",
    "print_report",
    "report_json_schema",
    "write",
]
