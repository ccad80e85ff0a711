"""`compress profile`: what models will take on a device; the fits behind it; and a recipe's steps up to profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from compress.cli.evaluation import print_evaluation
from compress.cli.measuring import (
    AiHub,
    CoolDown,
    DeviceSerial,
    Measure,
    OutOrRows,
    Runs,
    Threads,
    Tools,
    refuse_mixed,
    run_measuring,
)
from compress.cli.options import DryRun, Json, Resume, Seed, Set, Verbose
from compress.cli.verbs import VERBS, command_for
from compress.errors import RecipeError
from compress.terminal import guarded, print_json, print_table, stdout_for_json

if TYPE_CHECKING:
    from compress.estimate import Estimate

_RECIPES = (".yaml", ".yml")
# By-op rows that the table shows; --json has them all.
_SHOWN = 12


class _OrModels(TyperGroup):
    """A group whose first word may be a model instead of one of its commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the command that takes models put in front where none is named."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [_MODELS, *args]
        return super().parse_args(ctx, args)


_MODELS = "models"
profile_app = typer.Typer(
    cls=_OrModels, no_args_is_help=True, rich_markup_mode=None, add_completion=False, help=VERBS["profile"]
)

Tables = Annotated[Path, typer.Argument(metavar="TABLES_FOLDER", help="Folder of the published measurements.")]
Only = Annotated[list[str] | None, typer.Option("--only", metavar="TARGET", help="This target only; may be repeated.")]


@profile_app.command(_MODELS, short_help="Predict models (the default), or --measure them: MODEL ... --target NAME.")
def models(
    context: typer.Context,
    model: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="An .onnx, .tflite, .pte, .pt2 file, package.module:factory, file.py:factory, timm:NAME; or a recipe.",
        ),
    ],
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="A device; see compress targets.")] = "",
    unit: Annotated[str, typer.Option("--unit", metavar="NAME", help="cpu, gpu or npu.")] = "",
    scheme: Annotated[
        str, typer.Option("--scheme", metavar="NAME", help="float32 (the default), float16, w8a8, w8a16.")
    ] = "",
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="Which of the unit's runtimes; by default its first.")
    ] = "",
    input_: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="SHAPE", help="Of a torch model: 1x3x224x224, 1x128:int64; one per input."),
    ] = None,
    measure: Measure = False,
    device: DeviceSerial = "",
    ai_hub: AiHub = "",
    tools: Tools = None,
    threads: Threads = 1,
    runs: Runs = 50,
    cool_down: CoolDown = 60.0,
    out: OutOrRows = None,
    seed: Seed = None,
    set_: Set = None,
    dry_run: DryRun = False,
    resume: Resume = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Predict what models take on a device: latency with a 90 % interval, what is not covered, and which op takes what.

    With --measure they are run instead: here, or on a phone with --device. A recipe (YAML), or an earlier run's folder,
    is taken through its steps up to profile.
    """
    with guarded(verbose, as_json):
        refuse_mixed(context, measure)
    if measure:
        with guarded(verbose, as_json):
            where = {
                "phone": device,
                "ai_hub": ai_hub,
                "tools": tools,
                "target": target,
                "unit": unit,
                "scheme": scheme,
            }
            run_measuring(context, model, where, {"threads": threads, "runs": runs, "cool_s": cool_down}, out, as_json)
        return
    if len(model) == 1 and (model[0].endswith(_RECIPES) or Path(model[0]).is_dir()):
        command_for("profile")(context, Path(model[0]), out, seed, set_, dry_run, resume, as_json, verbose)
        return
    with guarded(verbose, as_json):
        if not target:
            raise RecipeError("--target: name a device; compress targets lists them")
        with stdout_for_json(as_json):
            found = _estimates(model, target, unit, scheme or "float32", runtime, tuple(input_ or ()))
        if as_json:
            print_json(found[0].to_dict() if len(found) == 1 else [each.to_dict() for each in found])
        elif len(found) == 1:
            _print_one(found[0])
        else:
            _print_many(found)


def _estimates(
    names: list[str], target: str, unit: str, scheme: str, runtime: str, inputs: tuple[str, ...]
) -> list[Estimate]:
    """The estimate of each model."""
    from compress.estimate import estimate

    return [estimate(name, target, unit, scheme, runtime, inputs) for name in names]  # type: ignore[arg-type]


def _print_one(found: Estimate) -> None:
    """Print one estimate: the figure, then what takes longest."""
    print(_line(found))
    print(f"  {found.prediction.latency.source}")
    for note in found.notes:
        print(f"  {note}")
    if found.prediction.uncovered:
        names = found.prediction.uncovered
        print(f"  not covered: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}")
    total = found.prediction.latency.value or 1.0
    costs = sorted(found.prediction.by_op, key=lambda cost: -cost.latency_ms)
    rows = [
        [cost.name, cost.kind, cost.where, f"{cost.latency_ms:.4g}", f"{cost.latency_ms / total:.0%}", cost.bound]
        for cost in costs[:_SHOWN]
    ]
    print()
    print_table(["OP", "KIND", "WHERE", "MS", "SHARE", "BOUND BY"], rows)


def _line(found: Estimate) -> str:
    latency = found.prediction.latency
    low, high = latency.interval or (0.0, 0.0)
    return (
        f"{found.model} on {found.target} {found.unit} ({found.runtime}, {found.scheme}): {latency.value:.4g} ms "
        f"predicted, 90 % interval {low:.3g} to {high:.3g} ms; {found.macs / 1e6:,.0f} MMACs in {found.ops} ops"
    )


def _print_many(found: list[Estimate]) -> None:
    rows = []
    for each in found:
        low, high = each.prediction.latency.interval or (0.0, 0.0)
        value = f"{each.prediction.latency.value:.4g}"
        rows.append([each.model, value, f"{low:.3g} to {high:.3g}", f"{each.macs / 1e6:,.0f}", str(each.ops),
                     str(len(each.prediction.uncovered))])  # fmt: skip
    print_table(["MODEL", "MS", "90 % INTERVAL", "MMACS", "OPS", "NOT COVERED"], rows)


@profile_app.command("fit", short_help="Fit the costs in profiles/ to published measurements again.")
def fit(
    tables: Tables,
    only: Only = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="By default profiles/.", show_default=False)
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Rebuild the files of profiles/ from the published tables: a line for each unit, runtime and scheme."""
    with guarded(verbose):
        from compress.profile.fit import fit_all

        fit_all(tables, only or (), out)


@profile_app.command("evaluate", short_help="Judge the fits on model families they never saw.")
def evaluate(
    tables: Tables,
    only: Only = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write evaluation.json and evaluation.html.", show_default=False),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge every fit on model families left out one at a time, beside MACs alone and gradient boosting.

    MAPE is the mean absolute error over the measured latency, SPEARMAN the rank correlation, IN 90 % the share of
    measured latencies inside the 90 % interval, MAPE, REST that of the models whose ops the fit had seen, REPEATS how
    well the next job of the same model agrees. Then what schemes take over float, and how well ten measurements adapt
    another device's costs to one that was left out. Takes minutes.
    """
    with guarded(verbose, as_json):
        from compress.profile.evaluate import evaluate as judge
        from compress.profile.page import write

        with stdout_for_json(as_json):
            judged = judge(tables, only or ())
        if out is not None:
            write(judged, out)
        if as_json:
            print_json(judged.to_dict())
        else:
            print_evaluation(judged)


@profile_app.command("calibrate", short_help="Adapt a profile to a device you have measured a few times.")
def calibrate(
    measurements: Annotated[
        Path, typer.Argument(metavar="MEASUREMENTS.csv", help="Columns: model, latency_ms, and input for torch models.")
    ],
    name: Annotated[
        str, typer.Option("--target", metavar="NAME", help="The device: a shipped target, or a name for a new one.")
    ],
    like: Annotated[
        str,
        typer.Option(
            "--like", metavar="NAME", help="Start from this target; by default from itself, or the one that does best."
        ),
    ] = "",
    unit: Annotated[str, typer.Option("--unit", metavar="NAME", help="cpu, gpu or npu.")] = "cpu",
    scheme: Annotated[str, typer.Option("--scheme", metavar="NAME", help="What was measured.")] = "float32",
    runtime: Annotated[
        str, typer.Option("--runtime", metavar="NAME", help="Start from this runtime's fits; by default any.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write the target.")] = Path("."),
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Adapt a profile to another device, or to a new version of a runtime, with 5 to 20 own measurements.

    Writes NAME.yaml and NAME-UNIT.json, which others take as --target FOLDER/NAME.yaml, and says by how much the error
    fell: on each measurement, as predicted from all the others.
    """
    with guarded(verbose, as_json):
        from compress.adapt import adapt

        with stdout_for_json(as_json):
            adapted = adapt(measurements, name, like, unit, scheme, runtime, out)  # type: ignore[arg-type]
        found = adapted.calibration
        record = {
            "target": str(adapted.target), "profile": str(adapted.profile), "base": adapted.base, "n": found.costs.n,
            "mape_before": found.mape_before, "mape_after": found.mape_after, "tried": adapted.tried,
        }  # fmt: skip
        if as_json:
            print_json(record)
            return
        print(f"wrote {adapted.target} and {adapted.profile}, adapted from {adapted.base}")
        print(
            f"mean error on {found.costs.n} measurements, each predicted from the others: {found.mape_before:.1%} "
            f"before, {found.mape_after:.1%} after"
        )
