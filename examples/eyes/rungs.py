"""What sharing one network costs each rung of a ladder: the same widths, each trained alone for as many epochs.

    python -m examples.eyes.rungs runs/eyes-ladder

Takes a finished run of ladder.yaml. A rung alone begins as the ladder's does, as the leading channels of the same
pruned and sorted network, and learns by the same loss from the same latents. Both are judged on the test latents.
"""

import argparse
from pathlib import Path
from typing import Any

from torch import fx

from compress import search as room
from compress.bench.train import distil
from compress.checkpoint import load_weights, rebuild
from compress.console import Console
from compress.distill.generator import Imitate
from compress.files import read_json
from compress.graph.cost import cost_of
from compress.graph.groups import WidthModel
from compress.job import Job
from compress.pipeline import load_run
from compress.steps.search_shared import sorted_base


def main(folder: Path) -> None:
    recipe, recipe_folder = load_run(folder)
    job = Job(recipe, recipe_folder, folder, Console(quiet=True))
    records = {record["verb"]: record for record in map(read_json, sorted(folder.glob("steps/*/record.json")))}
    settings = next(step.settings for step in recipe.steps if step.verb == "search")
    lesson = next(step.settings for step in recipe.steps if step.verb == "distill")
    pruned = _student(job, records["prune"]["index"], "weights.safetensors", records["prune"]["plans"])
    groups = WidthModel(pruned, job.example_inputs).free
    base = sorted_base(job, settings, pruned, [group.layer for group in groups])
    ladder = room.Ladder(base, job.example_inputs, settings.widths, job.cost_model().latency.channel_multiple)
    print(f"{'width':>6} {'M MACs':>7}  {recipe.name}: {job.task.quality_name}, in the ladder and alone")
    for number, rung in enumerate(records["search"]["outcome"]["extra"]["rungs"]):
        together = _student(job, records["search"]["index"], rung["weights"], rung["plans"])
        alone = distil(
            Imitate, lesson.options, job.traced_teacher, lambda number=number: ladder.physical(number), job.task,
            seed=recipe.seed, epochs=settings.training.epochs, learning_rate=settings.training.learning_rate,
            devices=job.devices,
        )  # fmt: skip
        ours, its = (float(job.quality(model, "test").value or 0.0) for model in (together, alone))
        macs = cost_of(together, job.example_inputs).macs
        print(f"{rung['share']:>6} {macs / 1e6:7.1f}  {ours:.4f}  {its:.4f}  {ours / its - 1:+.1%}")


def _student(job: Job, index: int, weights: str, plans: list[dict[str, Any]]) -> fx.GraphModule:
    """A run's model of a step, float."""
    return rebuild(job.base, plans, load_weights(job.step_folder(index) / weights), job.example_inputs).model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder of examples/eyes/ladder.yaml")
    main(parser.parse_args().run)
