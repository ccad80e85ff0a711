"""IsrKd: the new domain from real outputs, the old one from the old network's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import fx
from torch.nn import functional as F

from compress.distill.generator.isr_kd import IsrKd, read_memory
from compress.errors import DataError, RecipeError
from compress.tasks import ImageToImage
from tests.distill.generator.small import INPUTS, LIGHT, batch_of, error, learner_of, pair, paired, pictures, taught


def built(task: Any = None, **options: Any) -> tuple[IsrKd, fx.GraphModule]:
    """The method for an old network and a copy of it, its student."""
    teacher, student = pair(cut=False)
    given = {"adversary": LIGHT, **options}
    return IsrKd(teacher, student, INPUTS, IsrKd.options_from(given), task or paired()), student


def memory_file(folder: Path, count: int = 6) -> Path:
    """A memory of old inputs, well apart from the new ones."""
    path = folder / "old.safetensors"
    save_file({"x": pictures(count, 9) - 2}, path)
    return path


def test_the_loss_is_the_new_domain_plus_lambda_times_the_distance_from_the_old_network() -> None:
    method, student = built(gan=0, teacher={"pixel": 3.0})
    with torch.no_grad():
        student.get_submodule("decoder.2").bias += 0.5
    batch = batch_of(method.task)
    terms = method.loss(learner_of(method, student), batch)
    output, wanted = student(*batch.inputs), method.teacher(*batch.inputs)
    assert terms.keys() == {"pixel", "target pixel"}
    assert float(terms["pixel"].detach()) == pytest.approx(3 * 2 * 0.5, rel=1e-2)
    assert torch.allclose(terms["target pixel"], 2 * F.l1_loss(output, batch.target))
    assert torch.allclose(output - wanted, torch.tensor(0.5), atol=1e-5)


def test_an_unchanged_network_has_no_retention_to_pay() -> None:
    method, student = built(gan=0)
    terms = method.loss(learner_of(method, student), batch_of(method.task))
    assert float(terms["pixel"].detach()) < 1e-3 < float(terms["target pixel"].detach())


def test_the_memory_is_read_and_drawn_from(tmp_path: Path) -> None:
    method, student = built(gan=0, memory=str(memory_file(tmp_path)), memory_batch=4)
    learner, batch, sizes = learner_of(method, student), batch_of(method.task), []
    with torch.no_grad():
        student.get_submodule("decoder.2").bias += 0.25
    student.get_submodule("encoder.0").register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].mean()))
    terms = method.loss(learner, batch)
    assert float(terms["memory pixel"].detach()) == pytest.approx(2 * 0.25, rel=1e-3)
    assert [bool(mean < -1) for mean in sizes] == [False, True]  # the batch, then old inputs


def test_less_is_forgotten_with_retention_and_less_still_with_a_memory(tmp_path: Path) -> None:
    """The ablation: lambda 0 is plain fine-tuning. How far the old domain moves, for as good a new one."""
    old = pictures(32, 5) - 2
    moved, new = {}, {}
    memory = {"memory": str(memory_file(tmp_path, 16)), "memory_batch": 16}
    for name, options in (
        ("plain", {"teacher": {"pixel": 0.0}}),
        ("new inputs", {"teacher": {"pixel": 0.3}}),
        ("memory", {"teacher": {"pixel": 0.3}, **memory}),
    ):
        method, student = built(gan=0, **options)
        taught(method, student, tmp_path / name, 15, 5e-3)
        with torch.no_grad():
            moved[name] = float(F.l1_loss(student(old), method.teacher(old)))
        new[name] = error(student, method.task)  # type: ignore[arg-type]
    assert moved["memory"] < 0.5 * moved["plain"] and moved["new inputs"] < moved["plain"]
    method, student = built(gan=0)
    assert new["memory"] < 0.7 * error(student, method.task)  # type: ignore[arg-type]


def test_norms_keep_the_statistics_of_the_old_domain(tmp_path: Path) -> None:
    method, student = built(gan=0)
    before = student.get_submodule("encoder.1").running_mean.clone()  # type: ignore[operator, union-attr]
    taught(method, student, tmp_path, 1)
    assert torch.equal(student.get_submodule("encoder.1").running_mean, before)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    method, student = built(ImageToImage(pictures(32), pictures(8, 1), pictures(8, 2)))
    with pytest.raises(RecipeError, match="isr_kd learns from real outputs"):
        method.loss(learner_of(method, student), batch_of(method.task))
    with pytest.raises(DataError, match="cannot be read"):
        read_memory(tmp_path / "nowhere.safetensors", INPUTS)
    save_file({"x": torch.zeros(3, 4)}, tmp_path / "flat.safetensors")
    with pytest.raises(DataError, match=r"shape \(3, 4\); the model takes 1 inputs"):
        read_memory(tmp_path / "flat.safetensors", INPUTS)
