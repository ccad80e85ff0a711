"""`compress plan`: steps, widths and schemes of a whole diffusion pipeline, for a device and a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compress.cli.options import Json, Verbose
from compress.errors import RecipeError
from compress.terminal import guarded, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.planner import Planned


def plan(
    pipeline: Annotated[
        Path, typer.Argument(metavar="PIPELINE", help="A diffusers pipeline folder; no weights needed.")
    ],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="A device; see compress targets.")],
    unit: Annotated[str, typer.Option("--unit", metavar="NAME", help="cpu, gpu or npu.")] = "",
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="One of the unit's; by default its first.")
    ] = "",
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0, help="Limit for one picture.")] = 0.0,
    size_bytes: Annotated[float, typer.Option("--size-bytes", min=0, help="Limit for all weights.")] = 0.0,
    memory_bytes: Annotated[float, typer.Option("--memory-bytes", min=0, help="Limit for the largest part.")] = 0.0,
    steps: Annotated[str, typer.Option("--steps", metavar="N,N", help="Numbers of steps.")] = "1,2,4,8,12,16,20,50",
    width: Annotated[
        str, typer.Option("--width", metavar="X,X", help="Shares of the denoiser's channels.")
    ] = "1,0.75,0.5",
    depth: Annotated[str, typer.Option("--depth", metavar="X,X", help="Shares of its blocks.")] = "1,0.5",
    decoder_width: Annotated[
        str, typer.Option("--decoder-width", metavar="X,X", help="Shares of the decoder's channels.")
    ] = "1,0.5",
    scheme: Annotated[str, typer.Option("--scheme", metavar="S,S", help="Schemes; by default all of the unit's.")] = "",
    guidance: Annotated[bool, typer.Option("--guidance", help="Ask the denoiser twice in every step.")] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Of a prompt; 0: as the pipeline says.")] = 0,
    keep: Annotated[
        str, typer.Option("--keep", metavar="A,B", help="What to keep first: network, steps, bits, decoder.")
    ] = "network,steps,bits,decoder",
    known: Annotated[
        list[str] | None,
        typer.Option("--known", metavar="PART:SCHEME=MS", help="A measured latency of a whole part; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="Write plan.html and plan.json.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Plan a diffusion pipeline for a device: steps, widths, depths and schemes of all its parts under one budget.

    Latencies are predicted from the configurations alone. What a plan costs in quality is not known before its
    networks are trained: plans are compared by what they keep of the teacher, in the order that --keep says.
    """
    with guarded(verbose, as_json):
        from compress.planner import KEPT, Wishes, plan_pipeline

        limits = {"latency_ms": latency_ms, "size_bytes": size_bytes, "memory_bytes": memory_bytes}
        first = _listed("--keep", keep, str)
        wishes = Wishes(
            steps=_listed("--steps", steps, int),
            widths=_listed("--width", width, float),
            depths=_listed("--depth", depth, float),
            decoder_widths=_listed("--decoder-width", decoder_width, float),
            schemes=_schemes(scheme),
            guidance=guidance,
            tokens=tokens,
            keep=(*first, *(name for name in KEPT if name not in first)),
            known=dict(_known(each) for each in known or ()),
        )
        with stdout_for_json(as_json):
            found = plan_pipeline(
                pipeline, target, unit, {name: limit for name, limit in limits.items() if limit}, wishes, runtime
            )
            if out is not None:
                from compress.planner.page import write

                write(found, out)
        if as_json:
            print_json(found.to_dict())
        else:
            _print(found, out)


def _listed(flag: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    """The values of a flag that takes several, comma between; numbers are above 0."""
    try:
        values = tuple(kind(each.strip()) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise RecipeError(f"{flag} '{text}': expected numbers with commas between") from error
    if not values or any(not isinstance(each, str) and each <= 0 for each in values):
        raise RecipeError(f"{flag} '{text}': expected values above 0 with commas between")
    return values


def _schemes(text: str) -> Any:
    from typing import get_args

    from compress.errors import UnknownName
    from compress.types import Scheme

    schemes = tuple(each.strip() for each in text.split(",") if each.strip())
    for each in schemes:
        if each not in get_args(Scheme):
            raise UnknownName("scheme", each, get_args(Scheme))
    return schemes


def _known(text: str) -> tuple[tuple[str, Any], float]:
    """((part, scheme), ms) of PART:SCHEME=MS."""
    place, _, value = text.partition("=")
    part, _, scheme = place.partition(":")
    try:
        latency_ms = float(value)
    except ValueError:
        latency_ms = 0.0
    if not part or not scheme or latency_ms <= 0:
        raise RecipeError(f"--known '{text}': expected PART:SCHEME=MS, as in unet:w8a16=58")
    return (part, scheme), latency_ms


def _print(found: Planned, out: Path | None) -> None:
    from compress.planner import describe
    from compress.planner.page import milliseconds, size

    rows = []
    for options in found.choices:
        for c in options:
            low, high = c.latency.interval or (0.0, 0.0)
            rows.append([
                c.part.name, c.form.label, c.scheme, f"{c.form.macs / 1e9:.4g}", f"{c.form.weights / 1e6:.4g}",
                f"{milliseconds(c.latency.value or 0.0)} [{low:.3g}, {high:.3g}] {c.latency.origin}",
            ])  # fmt: skip
    print_table(["PART", "FORM", "SCHEME", "GMACS", "M WEIGHTS", "ONE CALL"], rows)
    print()
    rows = []
    for each in found.best:
        low, high = each.latency.interval or (0.0, 0.0)
        parts = [f"{c.form.label}, {c.scheme}" for c in each.choices]
        taken = f"{milliseconds(each.latency.value or 0.0)} [{low:.3g}, {high:.3g}]"
        mark = "*" if each is found.chosen else ""
        rows.append([f"{each.steps}{mark}", *parts, taken, size(each.size_bytes), size(each.memory_bytes)])
    names = [options[0].part.name.upper() for options in found.choices]
    print_table(["STEPS", *names, "A PICTURE", "WEIGHTS", "MEMORY"], rows)
    print(f"\nplan: {describe(found.chosen)}")
    for note in found.notes:
        print(f"  {note}")
    if out is not None:
        print(f"page  {out / 'plan.html'}")
