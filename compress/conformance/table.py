"""The conformance table: every result with the versions it was made with, as one JSON file.

    {"made": {...}, "texts": [...],
     "cases": {NAME: {"family": ..., "kinds": [...], "forms": [...],
                      "results": {SCHEME: {FORMAT: [verdict, SQNR in dB, largest error, what was checked,
                                                    reason, what ran it, delegate]}}}}}

The last three are places in `texts`: the same few sentences hold for hundreds of results.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from compress.conformance.cases import CASES
from compress.conformance.run import WORDS, Result
from compress.errors import RunFolderError
from compress.export import EXPORTERS
from compress.files import read_json, write_text
from compress.resources import data_folder
from compress.verify.thresholds import THRESHOLDS

NAME = "conformance.json"
TOOLS = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "executorch",
    "torchao",
    "coremltools",
)
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Table:
    """The results by (case, scheme, format), and how they were made."""

    results: Mapping[Key, Result] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def forms(self) -> dict[str, tuple[str, ...]]:
        """Case name -> the forms in it, as any of its results has them."""
        found: dict[str, tuple[str, ...]] = {}
        for (case, _, _), result in self.results.items():
            found[case] = found.get(case) or result.forms
        return found

    @property
    def schemes(self) -> list[str]:
        """The schemes in the table, in the order they came in."""
        return list(dict.fromkeys(scheme for _, scheme, _ in self.results))

    @property
    def formats(self) -> list[str]:
        """The formats in the table, in the order they came in."""
        return list(dict.fromkeys(format for _, _, format in self.results))

    def counts(self, scheme: str, format: str) -> Counter[str]:
        """How many cases have each verdict; "structure" counts those of them that could not be run."""
        counted: Counter[str] = Counter(dict.fromkeys(WORDS, 0))
        for (_, of_scheme, of_format), result in self.results.items():
            if (of_scheme, of_format) == (scheme, format):
                counted[result.verdict] += 1
                counted["structure"] += result.checked == "structure"
        return counted

    def with_results(self, results: Iterable[Result], made: Mapping[str, Any]) -> Table:
        """A table with `results` in place of the same cases' older ones, in the suite's order.

        Older results of other versions, or of cases that are no more, are left out: one table, one set of tools.
        """
        same = self.made.get("versions") == made.get("versions") and self.made.get("host") == made.get("host")
        joined = {**(self.results if same else {}), **{(r.case, r.scheme, r.format): r for r in results}}
        order = [{name: place for place, name in enumerate(names)} for names in (CASES, THRESHOLDS, EXPORTERS)]
        kept = [key for key in joined if key[0] in CASES]
        kept.sort(key=lambda key: [places[name] for places, name in zip(order, key, strict=True)])
        forms = Table(joined).forms  # a result that came to nothing has none; those of its case hold
        return Table({key: replace(joined[key], forms=forms[key[0]]) for key in kept}, made)

    def to_json(self) -> str:
        """The table as JSON, one line per case."""
        texts: dict[str, int] = {"": 0}
        lines = []
        for case in dict.fromkeys(case for case, _, _ in self.results):
            record = json.dumps(self._record(case, texts), separators=(",", ":"), allow_nan=False)
            lines.append(f"{json.dumps(case)}: {record}")
        head = {"schema_version": 1, "made": dict(self.made), "texts": list(texts)}
        start = json.dumps(head, indent=1)[:-2]
        return f'{start},\n "cases": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n"

    def _record(self, case: str, texts: dict[str, int]) -> dict[str, Any]:
        one = CASES[case]
        rows: dict[str, dict[str, list[Any]]] = {}
        for (name, scheme, format), r in self.results.items():
            if name == case:
                places = [texts.setdefault(text, len(texts)) for text in (r.reason, r.ran_on, r.delegate)]
                rows.setdefault(scheme, {})[format] = [r.verdict, r.sqnr_db, r.max_error, r.checked, *places]
        return {"family": one.family, "kinds": one.kinds, "forms": self.forms[case], "results": rows}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The table back from what `to_json` wrote; cases that the suite no longer has are kept."""
        texts, results = record["texts"], {}
        for case, row in record["cases"].items():
            for scheme, formats in row["results"].items():
                for format, (verdict, sqnr_db, max_error, checked, reason, ran_on, delegate) in formats.items():
                    results[case, scheme, format] = Result(
                        case, scheme, format, verdict, texts[reason], sqnr_db, max_error,
                        texts[ran_on], texts[delegate], checked, tuple(row["forms"]),
                    )  # fmt: skip
        return cls(results, record["made"])


def load_table(path: Path | None = None) -> Table:
    """The table in a file, by default the one that ships; an empty one where there is no file.

    Raises:
        RunFolderError: the file is there and damaged.
    """
    path = path or data_folder("profiles") / "conformance" / NAME
    if not path.is_file():
        return Table()
    try:
        return Table.from_dict(read_json(path))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(f"{path} is no conformance table ({error}); make it with compress conformance") from error


def save_table(table: Table, path: Path) -> None:
    """Write the table to a file."""
    write_text(path, table.to_json())


def conditions() -> dict[str, Any]:
    """What results depend on here: the tools' versions and the processor's family; and today's date."""
    versions = {}
    for tool in TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "host": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }
