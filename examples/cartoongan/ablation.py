"""What the perceptual term is worth: the same student taught for as long with L1 alone, side by side.

    python -m examples.cartoongan.ablation runs/cartoongan

Takes a finished run of recipe.yaml, whose student first learns pixels alone, and teaches that student on with pixels
alone for as many seconds as it was taught with the perceptual term (more epochs, as each is cheaper); prints both on
the test tiles beside the photograph itself.
"""

import argparse
import copy
import shutil
from pathlib import Path
from typing import Any

from compress.files import read_json
from compress.pipeline import load_run, run
from compress.recipe import Distill, make_recipe


def last_distill(record: dict[str, Any]) -> int:
    """The number of a recipe's last distill step."""
    return max(number for number, step in enumerate(record["steps"], 1) if "distill" in step)


def seconds_of(folder: Path, number: int) -> float:
    """How long a distill step of a run took."""
    return float(read_json(folder / f"steps/{number:02d}-distill/record.json")["seconds"])


def l1_recipe(record: dict[str, Any], epochs: int) -> dict[str, Any]:
    """A run's recipe, with L1 alone in its last distill step too."""
    steps = copy.deepcopy(record["steps"])
    steps[last_distill(record) - 1]["distill"] |= {"epochs": epochs, "options": {"teacher": {"pixel": 1.0}}}
    return {**record, "steps": steps}


def main(folder: Path) -> None:
    recipe, recipe_folder = load_run(folder)
    number = last_distill(recipe.to_dict())
    settings: Distill = recipe.steps[number - 1].settings
    other, wanted = folder.with_name(f"{folder.name}-l1"), seconds_of(folder, number)
    epochs = 2 * settings.epochs
    while True:
        _teach(recipe.to_dict(), recipe_folder, folder, other, epochs)
        taken = seconds_of(other, number)
        print(
            f"{epochs} epochs of L1 alone took {taken:.0f} s, {settings.epochs} with the perceptual term {wanted:.0f} s"
        )
        if taken > 0.85 * wanted:
            break
        epochs = round(epochs * wanted / taken)
    _teach(recipe.to_dict(), recipe_folder, folder, other, epochs, until=None)
    reports = {"L1 and perceptual": read_json(folder / "report.json"), "L1 alone": read_json(other / "report.json")}
    for name, report in reports.items():
        print(f"{name}: {float_quality(report):.4f} ({report['quality_name']}, float32)")
    for row in report["references"]:
        print(f"{row['name']}: {row['quality']['value']:.4f}")


def float_quality(report: dict[str, Any]) -> float:
    """The float student's quality on the test split."""
    files = [row for row in report["artifacts"] if row["scheme"] == "float32" and row["quality"]]
    return float((files[0] if files else report["student"])["quality"]["value"])


def _teach(
    record: dict[str, Any], recipe_folder: Path, folder: Path, other: Path, epochs: int, until: str | None = "distill"
) -> None:
    """The run's student before its last lesson, taught on in another folder."""
    before = last_distill(record)
    for path in (folder / "recipe.json", *(p for p in (folder / "steps").iterdir() if int(p.name[:2]) < before)):
        source, target = path, other / path.relative_to(folder)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    made = make_recipe(l1_recipe(record, epochs), "ablation")
    run(made, other, recipe_folder=recipe_folder, until=until)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder of examples/cartoongan/recipe.yaml")
    main(parser.parse_args().run)
