"""The quantize step: each key of the recipe reaches its method, and the defaults change nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import Infeasible, RecipeError
from compress.graph.fold import fold_batch_norms
from compress.graph.trace import trace
from compress.quantize import calibrate, plan, prepare
from compress.quantize.codebook import PointsLayer
from compress.quantize.learned_steps import StepLayer
from compress.quantize.network import quantized_layers
from compress.recipe import Mixed, Quantize, make_recipe
from compress.steps.mixed import choose_schemes
from compress.steps.quantize import reshape, tune
from compress.types import Number
from tests.fakes import FakeLatencyModel
from tests.models import TinyResNet
from tests.pipeline.tiny import images, task


@pytest.fixture
def student() -> tuple[Any, list[torch.Tensor]]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    x = images(64, 0)[0]
    return fold_batch_norms(trace(TinyResNet(width=8), (x[:2],))), [x[:32], x[32:]]


def settings(**keys: Any) -> Quantize:
    return Quantize(**keys)


def test_the_defaults_touch_neither_the_model_nor_the_network(student) -> None:
    folded, batches = student
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    assert reshape(folded, settings(), batches) == {}
    prepared = prepare(folded, "w8a8")
    calibrate(prepared, batches)
    assert tune(prepared, folded, settings(), batches) == {}
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())


def test_each_key_reaches_its_method(student) -> None:
    folded, batches = student
    done = reshape(folded, settings(equalize=True, smooth=True), batches)
    assert done["equalized"]["pairs"] and done["smoothed"] == {"norms": {}, "skipped": {}}
    prepared = prepare(folded, "w8a8")
    calibrate(prepared, batches)
    asked = settings(rounding="adaround", rounding_steps=2, bias_correction=True, steps="lsq", qat_epochs=1)
    done = tune(prepared, folded, asked, batches)
    assert set(done) == {"rounded_elsewhere", "bias_shifts", "learned_steps"}
    assert {type(layer) for layer in quantized_layers(prepared).values()} == {StepLayer}
    palette = prepare(folded, "palette4")
    calibrate(palette, batches)
    points = Quantize.model_construct(**{**settings().model_dump(), "codebook": "points", "mixed": None})
    assert list(tune(palette, folded, points, batches)) == ["learned_points"]
    assert {type(layer) for layer in quantized_layers(palette).values()} == {PointsLayer}


class StatedJob:
    """A job that answers what the search for mixed precision asks of one."""

    def __init__(self, x: torch.Tensor) -> None:
        self.judged_task, self.example_inputs = task(), (x[:1],)
        self.latency_model = FakeLatencyModel()
        self.console = self
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def quality(self, model: Any, split: str, limit: int | None = None) -> Number:
        """Stated: a tenth lost for each layer whose weight is on integers."""
        weights = model.state_dict().items()
        rounded = sum(name.endswith("weight") and value.dtype == torch.int8 for name, value in weights)
        return Number(1.0 - 0.1 * rounded, "fraction", "measured")


def test_mixed_precision_keeps_the_fewest_layers_that_will_do(student) -> None:
    folded, batches = student
    job: Any = StatedJob(batches[0])
    layers = list(plan(folded, "w8a8", batches).weights)
    mixed = Mixed(max_quality_drop=0.1 * len(layers) - 0.25, keep="float16")
    schemes, record = choose_schemes(job, settings(mixed=mixed), mixed, folded, batches)
    assert set(schemes.values()) == {"float16"} and len(schemes) == 3
    assert record["float_quality"] == 1.0 and len(record["sensitivities"]) == len(layers)
    assert [len(look["kept"]) for look in record["looks"]][:4] == [0, 1, 2, 3]
    assert record["chosen"]["kept"] == list(schemes) and len(job.said) == len(record["looks"])
    latencies = [look["latency_ms"] for look in record["looks"][:4]]
    assert latencies == sorted(latencies) and latencies[0] < latencies[-1], "float layers take longer"
    none = Mixed(max_quality_drop=0.0, keep="w8a16")
    with pytest.raises(Infeasible, match="no choice of layers"):
        choose_schemes(job, settings(mixed=none), none, folded, batches)


def test_mixed_precision_judges_with_the_biases_that_the_step_will_correct(student) -> None:
    folded, batches = student
    mixed = Mixed(max_quality_drop=10.0, keep="float16")  # met at once: one look, all layers on integers
    seen = []
    for corrected in (False, True):
        job: Any = StatedJob(batches[0])
        stated = job.quality
        job.quality = lambda model, *more, ask=stated: (seen.append(copy.deepcopy(model)), ask(model, *more))[1]
        choose_schemes(job, settings(scheme="w4a8", mixed=mixed, bias_correction=corrected), mixed, folded, batches)
        answer = seen[-1](batches[0])
        errors = (answer - folded(batches[0])).mean(0).abs()
        seen[-1] = float(errors.max())
    plain, mended = (value for value in seen if isinstance(value, float))
    assert mended < 0.2 * plain


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": "lsq"}, "learned in training; set qat_epochs"),
        ({"codebook": "points"}, "learned in training; set qat_epochs"),
        ({"codebook": "even"}, "needs a palette scheme, which w8a8 is not"),
        ({"bucket": 256}, "bucket goes with codebook"),
        ({"mixed": {"max_quality_dro": 0.1}}, "did you mean max_quality_drop"),
        ({"rounding": "adarund"}, "did you mean adaround"),
        ({"ranges": "entropi"}, "did you mean entropy"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    record = {
        "name": "x",
        "teacher": {"entry": "a.py:b"},
        "task": {"entry": "a.py:c"},
        "steps": [{"quantize": keys}],
    }
    with pytest.raises(RecipeError, match=message):
        make_recipe(record)


def test_a_whole_step_with_everything_runs_and_resumes_from_its_record(tmp_path: Path) -> None:
    from compress.pipeline import run

    here = Path(__file__).parent
    made = make_recipe(
        {
            "name": "better",
            "teacher": {"entry": "tests/pipeline/tiny.py:teacher", "train": {"epochs": 1}},
            "task": {"entry": "tests/pipeline/tiny.py:task"},
            "train": {"threads": 1},
            "steps": [
                {
                    "quantize": {
                        "equalize": True,
                        "rounding": "adaround",
                        "rounding_steps": 5,
                        "bias_correction": True,
                        "mixed": {"max_quality_drop": 0.5},
                        "steps": "lsq",
                        "qat_epochs": 1,
                        "calibration_batches": 2,
                    }
                },
                {"export": {"formats": ["onnx"]}},
                {"verify": {"samples": 8}},
            ],
        }
    )
    first = run(made, tmp_path / "run", recipe_folder=here, quiet=True)
    again = run(made, tmp_path / "run", recipe_folder=here, quiet=True)
    assert first.exit_code == again.exit_code == 0
