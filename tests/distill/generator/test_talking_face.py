"""TalkingFace: outputs, features and the task's loss, and no game; the recipe's `mixed` is the paper's other half."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx
from torch.nn import functional as F

from compress import quantize
from compress.distill.generator.talking_face import TalkingFace
from compress.errors import RecipeError
from compress.graph.fold import fold_batch_norms
from compress.tasks import ImageToImage
from tests.distill.generator.small import INPUTS, batch_of, error, learner_of, pair, paired, pictures, taught


def built(cut: bool = True, task: Any = None, **options: Any) -> tuple[TalkingFace, fx.GraphModule]:
    """The method for a fresh pair, and its student."""
    teacher, student = pair(cut)
    return TalkingFace(teacher, student, INPUTS, TalkingFace.options_from(options), task or paired()), student


def test_the_terms_are_output_features_and_the_tasks_own_loss() -> None:
    method, student = built(task=(task := paired(data_range=1.0)))
    batch = batch_of(task)
    terms = method.loss(learner_of(method, student), batch)
    assert terms.keys() == {"pixel", "feature", "task"}
    with torch.no_grad():
        output, wanted = student(*batch.inputs), method.teacher(*batch.inputs)
    assert float(terms["task"].detach()) == pytest.approx(float(F.l1_loss(output, batch.target)))
    # Twice as wide as the pictures' [0, 1], as all pixel terms. The teacher's answers are kept as float16.
    assert float(terms["pixel"].detach()) == pytest.approx(2 * float(F.l1_loss(output, wanted)), rel=1e-2)


def test_a_copy_of_the_teacher_with_equal_features_has_nothing_but_the_task_to_learn() -> None:
    method, student = built(cut=False)
    learner = learner_of(method, student)
    for connect in learner.extra["connectors"]:
        torch.nn.init.dirac_(connect.weight)
        torch.nn.init.zeros_(connect.bias)
    terms = method.loss(learner, batch_of(method.task))
    assert float(terms["pixel"].detach()) < 1e-3 and float(terms["feature"].detach()) < 1e-6
    assert float(terms["task"].detach()) > 0.01


def test_without_real_outputs_there_is_no_task_loss() -> None:
    method, student = built(task=ImageToImage(pictures(32), pictures(8, 1), pictures(8, 2)))
    assert method.loss(learner_of(method, student), batch_of(method.task)).keys() == {"pixel", "feature"}


def test_nobody_plays_against_the_student(tmp_path: Path) -> None:
    method, student = built()
    assert [player.name for player in method.players(learner_of(method, student), None)] == ["student"]  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"options\.gan: talking_face trains without an adversary"):
        built(gan=0.1)


def test_the_tasks_loss_makes_the_student_better_than_its_teacher(tmp_path: Path) -> None:
    """The ablation: the teacher here knows nothing, so that without the task's loss nobody can learn the task."""
    errors = {}
    for weight in (0.0, 20.0):
        method, student = built(task_loss=weight)
        taught(method, student, tmp_path / str(weight), 6, 5e-3)
        errors[weight] = error(student, method.task)  # type: ignore[arg-type]
    assert errors[20.0] < 0.6 * errors[0.0]


def test_the_layers_that_rounding_hurts_most_are_kept() -> None:
    """The paper's last stage, by the quantize room: the first of the ranking is worth more than the last."""
    _, student = pair(cut=False)
    with torch.no_grad():
        student.get_submodule("decoder.0").weight[0] *= 40  # one scale for the whole layer would waste its bits
    folded, batches = fold_batch_norms(student), [(pictures(16),)]

    def noise(schemes: dict[str, str]) -> float:
        prepared = quantize.prepare(folded, "w4a8", "minmax", schemes)
        quantize.calibrate(prepared, batches)
        with torch.no_grad():
            return float((prepared(*batches[0]) - folded(*batches[0])).square().mean())

    prepared = quantize.prepare(folded, "w4a8", "minmax")
    quantize.calibrate(prepared, batches)
    ranking = [found.layer for found in quantize.sensitivities(prepared, folded, batches)]
    most, least = noise({ranking[0]: "float16"}), noise({ranking[-1]: "float16"})
    assert most < least < noise({}) * 1.5
