"""What candidates of a search learn by: the terms on outputs of the recipe's own distillation, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress.errors import RecipeError
from compress.recipe import Distill, Search
from compress.steps.search_shared import Lesson, check_alone, lesson_settings, recovery_settings
from compress.tasks import PairedTranslation
from tests.distill.generator.small import INPUTS, LIGHT, batch_of, pair, paired
from tests.pipeline import tiny


@dataclass
class Job:
    """What a lesson asks of a job."""

    task: Any
    steps: tuple[Any, ...] = ()
    recipe_folder: Path = Path(__file__).parent
    example_inputs = INPUTS

    def __post_init__(self) -> None:
        self.teacher, self.student = pair()
        self.judged_task = self.task
        self.recipe = SimpleNamespace(steps=self.steps, train=SimpleNamespace(devices=2))


class Own:
    """A user's method that has nothing but a loss."""

    def __init__(self, *arguments: Any) -> None:
        self.extra = None


def lesson(task: PairedTranslation | None = None, **settings: Any) -> Any:
    job: Any = Job(task or paired())
    return Lesson(job, Distill(**settings), job.student)


def terms(made: Any, batch: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = made.loss_of(batch)(made.job.student, batch)
    return found


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [
        ("imitate", {"feature": 1.0, "gan": 0.1}, {"pixel"}),
        ("mfagan", {"teacher": {"pixel": 1.0, "perceptual": 0.0}}, {"pixel"}),
        ("dcd", {"teacher": {"pixel": 2.0, "perceptual": 0.0, "style": 0.0}}, {"pixel"}),
        ("mobile_stylegan", {"teacher": {"pixel": 1.0, "perceptual": 0.0}, "gan": 0.0}, {"pixel"}),
        ("isr_kd", {"gan": 0.0}, {"pixel", "target pixel"}),
    ],
)
def test_only_terms_on_outputs_are_learned(method: str, options: dict[str, Any], names: set[str]) -> None:
    made = lesson(method=method, options={"adversary": LIGHT, **options})
    batch = batch_of(paired())
    found = terms(made, batch)
    assert set(found) == names
    torch.stack(list(found.values())).sum().backward()
    assert made.job.student.get_parameter("encoder.0.weight").grad.any()
    if method == "imitate":
        with torch.no_grad():
            expected = (made.job.student(*batch.inputs) - made.job.teacher(*batch.inputs)).abs().mean() * 2
        torch.testing.assert_close(found["pixel"].detach(), expected, atol=1e-3, rtol=1e-3)


def test_a_learning_teachers_labels_are_not_shown_to_candidates() -> None:
    options = {"target": {"pixel": 1.0}, "labelled": 0.25, "adversary": LIGHT}
    assert set(terms(lesson(method="ugc", options=options), batch_of(paired()))) == {"pixel"}


def test_the_teacher_answers_once_for_all_candidates() -> None:
    made, batch = lesson(method="imitate"), replace(batch_of(paired()), sample_ids=None)
    calls = []
    made.job.teacher.register_forward_hook(lambda *_: calls.append(1))
    loss_of = made.loss_of(batch)
    assert all(
        torch.equal(loss_of(made.job.student, batch)["pixel"], loss_of(made.job.student, batch)["pixel"]) for _ in "ab"
    )
    assert len(calls) == 1


def test_a_lesson_without_a_term_is_refused() -> None:
    made = lesson(method="imitate", options={"teacher": {"pixel": 0}})
    with pytest.raises(RecipeError, match=r"none has a weight; set distill\.options\.teacher"):
        terms(made, batch_of(paired()))
    with pytest.raises(RecipeError, match=r"which has no output_terms"):
        lesson(method="test_search_lesson.py:Own")


def test_the_next_distill_step_teaches_and_pictures_are_no_logits() -> None:
    steps = [SimpleNamespace(verb="distill", settings=Distill(method=name)) for name in ("hint", "dcd")]
    of: Any = Job(paired(), tuple(steps))
    assert lesson_settings(of, 0).method == "hint" and lesson_settings(of, 1).method == "dcd"
    assert recovery_settings(of, 0) == Distill() and recovery_settings(of, 1).method == "dcd"
    assert lesson_settings(of, 2).method == recovery_settings(of, 2).method == "imitate"
    assert lesson_settings(Job(tiny.task()), 0) == Distill()  # type: ignore[arg-type]


def test_several_processes_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"search\.method: ladder trains in one process; set train\.devices: 1"):
        check_alone(Job(paired()), Search(method="ladder", training={}))  # type: ignore[arg-type]
