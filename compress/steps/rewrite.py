"""The rewrite step: cheaper forms in the place of costly ones; what only comes near is healed by a distill step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import fx

from compress import rewrite as room
from compress.checkpoint import Student
from compress.job import Job
from compress.recipe import Rewrite
from compress.steps.outcome import Outcome, model_figures


def run(job: Job, index: int, settings: Rewrite, folder: Path, student: Student) -> Outcome:
    """Plan the passes that the recipe asks for, and apply them."""
    model = student.model
    plan = make_plan(job, model, settings)
    before = model_figures(job, model, "float32")
    rewritten = room.apply(model, plan, job.example_inputs)
    record = plan.to_dict()
    tiles = _tiles(job, rewritten, settings)
    return Outcome(
        "; ".join(filter(None, (plan.summary(), tiles.get("summary", "")))),
        before,
        model_figures(job, rewritten, "float32"),
        plan=record,
        table=plan.table(),
        warnings=[*plan.warnings(), *tiles.get("warnings", [])],
        extra={"tiles": tiles},
        student=Student(rewritten, [*student.plans, record]),
    )


def _tiles(job: Job, model: fx.GraphModule, settings: Rewrite) -> dict[str, Any]:
    """How a large picture goes through the model in tiles, as plain data; empty where nothing was asked for."""
    if settings.tiles is None:
        return {}
    first, *others = job.example_inputs
    picture = first.new_zeros(*first.shape[:2], *settings.tiles.picture)
    found = room.tile_plan(model, (picture, *others), settings.tiles.memory_bytes)
    tile, whole = ("x".join(map(str, sides)) for sides in (found.tile_px, settings.tiles.picture))
    return {
        "summary": (
            f"{whole} pixels in {found.tiles} tiles of {tile}, {found.peak_activation_bytes:,} bytes alive at once "
            f"instead of {found.whole_peak_activation_bytes:,}, {found.pixels_computed:.2f} times the pixels"
        ),
        "warnings": [f"tiles change the picture: {op}" for op in found.inexact_because],
        "tile_px": list(found.tile_px),
        "halo_px": list(found.halo_px),
        "tiles": found.tiles,
        "peak_activation_bytes": found.peak_activation_bytes,
        "whole_peak_activation_bytes": found.whole_peak_activation_bytes,
    }


def make_plan(job: Job, model: fx.GraphModule, settings: Rewrite) -> room.RewritePlan:
    """The rewrites of a model; reads and changes nothing."""
    batches = [batch.inputs for batch in job.train_batches(settings.batches)]
    return room.plan(model, room.settings_from(settings.model_dump()), job.example_inputs, batches)
