"""Which op of a model will run quantized, which in float, which is refused: known before anything is trained.

Two things decide it. What `compress.quantize` keeps in integers is read off its rules for this very model. What a
format makes of an op of that form is read off the conformance table: results of real artifacts in real runtimes. Where
the table has no such form, the answer is "unknown", with the nearest case named, and never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import fx

from compress.conformance.forms import form_of
from compress.conformance.run import WORDS, Result
from compress.conformance.table import Table
from compress.graph.fold import fold_batch_norms
from compress.quantize.places import Places, find_places
from compress.quantize.rules import Kind, rule_for
from compress.quantize.schemes import precision

State = Literal["quantized", "float", "refused", "wrong", "unknown"]
STATES: tuple[State, ...] = ("quantized", "float", "refused", "wrong", "unknown")
_OUTSIDE = "outside its delegate"


@dataclass(frozen=True, slots=True)
class Residence:
    """Where one op will run in one format.

    `op` is the node's name, `where` the module path in the user's model, `form` what the table knows it by.
    `delegate` is what executes it, as the artifacts of the table say; "" where it is refused or not known.
    """

    op: str
    where: str
    form: str
    scheme: str
    format: str
    state: State
    delegate: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON data."""
        return asdict(self)


def residency(graph_module: fx.GraphModule, scheme: str, formats: Sequence[str], table: Table) -> list[Residence]:
    """One row per op and format, ops in execution order; reads and changes nothing.

    Args:
        graph_module: a traced model, its batch norms folded or not.
        scheme: of compress.quantize.schemes.
        formats: of compress.export.EXPORTERS.
        table: the results to look the ops up in.

    Raises:
        UnknownName: there is no such scheme.
    """
    is_integer = precision(scheme).activation_bits > 0
    model = fold_batch_norms(graph_module) if scheme != "float32" else graph_module
    places = find_places(model, scheme) if is_integer else None
    known = _Lookup(table)
    rows = []
    for node in model.graph.nodes:
        form = form_of(model, node)
        if not form:
            continue
        planned = _planned(model, node, places) if places is not None else "it is not asked to be quantized"
        for format in formats:
            state, delegate, reason = known.answer(form, scheme, format, planned)
            rows.append(Residence(node.name, _where(node), form, scheme, format, state, delegate, reason))
    return rows


def _planned(model: fx.GraphModule, node: fx.Node, places: Places) -> str:
    """Why the quantizer leaves an op in float; "" where it puts it on integers."""
    if node.name in places.float_ops:
        return places.float_ops[node.name]
    if node.op == "call_module" and node.target in places.layers:
        return ""
    if node.name in places.values or _is_absorbed(node, places):
        return ""
    if rule_for(model, node).kind is Kind.SPLIT:
        return ""
    return "what it reads is float"


def _is_absorbed(node: fx.Node, places: Places) -> bool:
    """Whether the activation behind an op is quantized in its place: one integer kernel does both."""
    return len(node.users) == 1 and next(iter(node.users)).name in places.values


def _where(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


class _Lookup:
    """The table by forms: cases of one form alone first, then cases that contain it among others."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.alone: dict[str, list[str]] = {}
        self.among: dict[str, list[str]] = {}
        for case, forms in table.forms.items():
            for form in forms:
                (self.alone if len(forms) == 1 else self.among).setdefault(form, []).append(case)

    def answer(self, form: str, scheme: str, format: str, planned: str) -> tuple[State, str, str]:
        """(state, delegate, reason) of an op; `planned` says why it is float, "" where it is to be quantized."""
        found = self._find(form, scheme, format)
        if found is None:
            return "unknown", "", self._nearest(form, scheme, format)
        if found.verdict == "refused":
            return "refused", "", found.reason
        if found.verdict == "wrong":
            return "wrong", found.delegate, f"case {found.case}: {found.reason}"
        if found.verdict == "fell back":
            return "float", _outside(found), planned if precision(scheme).activation_bits and planned else found.reason
        if planned:
            return "float", found.delegate, planned if precision(scheme).activation_bits else ""
        return "quantized", found.delegate, ""

    def _find(self, form: str, scheme: str, format: str) -> Result | None:
        """The worst result of the cases of this form alone; else what a case with other ops says of this one.

        Where such a case passes, all its ops do. Where it does not, the blame is this op's if each of the others is
        known to pass alone.
        """
        alone = self._results(self.alone.get(form, ()), scheme, format)
        if alone:
            return _worst(alone)
        among = self._results(self.among.get(form, ()), scheme, format)
        sound = next((result for result in among if result.verdict == "pass"), None)
        return sound or next((result for result in among if self._blames(form, result)), None)

    def _blames(self, form: str, result: Result) -> bool:
        """Whether all other forms in a result's case pass alone."""
        others = [other for other in self.table.forms[result.case] if other != form]
        found = [self._results(self.alone.get(other, ()), result.scheme, result.format) for other in others]
        return all(results and _worst(results).verdict == "pass" for results in found)

    def _results(self, cases: Iterable[str], scheme: str, format: str) -> list[Result]:
        keys = [(case, scheme, format) for case in cases]
        return [self.table.results[key] for key in keys if key in self.table.results]

    def _nearest(self, form: str, scheme: str, format: str) -> str:
        """What can be said of a form that no case settles."""
        among = self._results(self.among.get(form, ()), scheme, format)
        if among:
            one = among[0]
            return f"only tried together with other ops: case {one.case} {_said(one)}"
        name = form.split(" ")[0]
        cousins = [case for other, cases in self.alone.items() if other.split(" ")[0] == name for case in cases]
        results = self._results(cousins, scheme, format)
        if results:
            return f"no case of this form; the nearest, {results[0].case}, {_said(results[0])}"
        return (
            "no case of this op"
            if self.table.results
            else "there is no conformance table; compress conformance makes it"
        )


def _worst(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: WORDS.index(result.verdict))


def _said(result: Result) -> str:
    words = {"pass": "passes", "fell back": "falls back", "refused": "is refused", "wrong": "computes something else"}
    return words[result.verdict] + (f" ({result.reason})" if result.reason else "")


def _outside(result: Result) -> str:
    """Who executes an op that fell back: the delegate's runtime, outside of it, where the reason says so."""
    return f"{result.delegate}, {_OUTSIDE}" if "does not take it" in result.reason else result.delegate


def summary(rows: Sequence[Residence]) -> list[list[str]]:
    """One row of text per scheme and format: scheme, format, then how many ops are in each state."""
    pairs = dict.fromkeys((row.scheme, row.format) for row in rows)
    return [
        [
            scheme,
            format,
            *(str(sum((r.scheme, r.format, r.state) == (scheme, format, s) for r in rows)) for s in STATES),
        ]
        for scheme, format in pairs
    ]


def lines(rows: Sequence[Residence], formats: Sequence[str]) -> list[list[str]]:
    """One row of text per scheme and op: scheme, op, where, form, then its state in each format."""
    states: dict[tuple[str, str], dict[str, Residence]] = {}
    for row in rows:
        states.setdefault((row.scheme, row.op), {})[row.format] = row
    return [
        [scheme, op, next(iter(cells.values())).where, next(iter(cells.values())).form]
        + [cells[format].state if format in cells else "" for format in formats]
        for (scheme, op), cells in states.items()
    ]


def reasons(rows: Sequence[Residence]) -> list[list[str]]:
    """One row of text per reason: scheme, format, state, delegate, the ops it holds for, the reason itself."""
    found: dict[tuple[str, str, str, str, str], list[str]] = {}
    for row in rows:
        if row.reason:
            found.setdefault((row.scheme, row.format, row.state, row.delegate, row.reason), []).append(row.op)
    return [[*key[:4], _few(ops), key[4]] for key, ops in found.items()]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
