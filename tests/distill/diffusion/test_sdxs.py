"""SDXS: feature matching first, then VSD from the top down."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from compress.distill.diffusion.sdxs import Sdxs, similarity
from compress.distill.diffusion.vsd import Vsd
from compress.errors import RecipeError
from tests.distill.diffusion.common import batch_of, euler, method
from tests.distill.diffusion.test_lightning import Bright, Shift, pictures


def made(kind: Any = Sdxs, levels: tuple[float, ...] = (4.0,), **options: Any) -> tuple[Any, nn.Module, Any]:
    task = pictures(levels, euler)
    more = {"pairs": 32} if kind is Sdxs else {}
    found, student = method(kind, task, teacher=Bright(), student=Shift(), rank=2, **more, **options)
    batch = batch_of(task, 16)
    return found, student, found.view(batch, torch.Generator().manual_seed(0)) if kind is Sdxs else batch


def terms_of(found: Any, student: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    terms: dict[str, torch.Tensor] = found.student_loss({"student": student, "fake": found.fake}, batch)
    return terms


def test_similarity_is_one_for_equals_alone_and_knows_structure_from_brightness() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = 4 + torch.randn(4, 3, 12, 12, generator=generator)
    torch.testing.assert_close(similarity(maps, maps), torch.ones(4))
    blurred = torch.nn.functional.avg_pool2d(maps, 5, 1, 2, count_include_pad=False)
    brighter = maps + 0.5 * float(maps.std())
    same_error = maps + (blurred - maps).flatten(1).norm(dim=1).mean() / math.sqrt(maps[0].numel())
    assert float(similarity(blurred, maps).max()) < 0.5 < float(similarity(brighter, maps).min())
    assert float((similarity(same_error, maps) - similarity(blurred, maps)).min()) > 0  # squares see them alike


def test_in_the_warm_up_there_are_features_alone_and_then_both() -> None:
    found, student, batch = made(warm_up=0.25)
    found.on_epoch(0, 4)
    assert set(terms_of(found, student, batch)) == {"features"}
    found.on_epoch(1, 4)
    assert set(terms_of(found, student, batch)) == {"features", "variational"}


def test_without_features_and_with_all_times_it_is_vsd_to_the_bit() -> None:
    found, student, batch = made(matching=0.0, warm_up=0.0, lowered=1.0)
    plain, other, _ = made(Vsd)
    found.on_epoch(3, 4)
    with torch.no_grad():
        for ours, theirs in zip(found.fake.parameters(), plain.fake.parameters(), strict=True):
            theirs.copy_(ours)
    mine, its = terms_of(found, student, batch), terms_of(plain, other, batch)
    assert list(mine) == ["variational"] and torch.equal(mine["variational"], its["variational"])


def test_what_vsd_covers_falls_to_its_share_from_the_top() -> None:
    found, *_ = made(warm_up=0.2, lowered=0.5)
    shares = []
    for progress in (0.0, 0.2, 0.6, 1.0):
        found.progress = progress
        shares.append(found.covered)
        torch.manual_seed(0)
        times = torch.atan(found.draw_levels(4000)) / (math.pi / 2)
        last = found.options.earliest + found.covered * (found.options.latest - found.options.earliest)
        assert float(times.max()) == pytest.approx(last, abs=2e-3) and float(times.min()) >= found.options.earliest
    assert shares == pytest.approx([1.0, 1.0, 0.75, 0.5])


def test_the_features_are_those_of_the_same_noise_s_sample_and_move_the_student_alone() -> None:
    found, student, batch = made()
    found.on_epoch(0, 4)
    student.requires_grad_(True)
    terms = terms_of(found, student, batch)
    terms["features"].backward()
    assert all(p.grad is not None and float(p.grad.abs()) > 0 for p in student.parameters())
    assert all(p.grad is None for p in found.teacher.parameters())
    exact = found.apart(batch.target.clean, batch.target.clean, ())
    torch.testing.assert_close(exact, torch.zeros(16), rtol=0, atol=1e-5)
    apart = found.apart(batch.target.clean.roll(1, 0) * 3, batch.target.clean, ())
    assert float(apart.min()) > 0.05


def test_it_is_for_one_step() -> None:
    with pytest.raises(RecipeError, match="for one step, and the task's sampler has 2"):
        made(levels=(4.0, 1.0))
