"""StyleGanEdit: the direction, the pairs and their filter on a linear generator, and learning the edit from pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from compress.distill import Learner
from compress.distill.generator.stylegan_edit import StyleGanEdit, direction, edited_pairs
from compress.errors import DataError, ModelError
from compress.graph.trace import trace
from compress.tasks import PairedTranslation
from tests.distill.generator.small import INPUTS, LIGHT, Small, batch_of, error, has_gradient, taught

LATENT = 12


def linear() -> Tensor:
    """A generator of 8 x 8 pictures whose pixels are linear in the latents: (12, 64), orthonormal rows."""
    basis, _ = torch.linalg.qr(torch.randn(64, LATENT, generator=torch.Generator().manual_seed(0)))
    return basis.T


def draw(latents: Tensor) -> Tensor:
    return (latents @ linear()).unflatten(1, (1, 8, 8))


def attribute() -> Tensor:
    """The direction in which the attribute really grows, (12,)."""
    given = torch.randn(LATENT, generator=torch.Generator().manual_seed(1))
    return given / given.norm()


def score(pictures: Tensor) -> Tensor:
    """How probable the attribute is, by the picture alone."""
    return (4 * (pictures.flatten(1) @ linear().T @ attribute())).sigmoid()


def latents(count: int, seed: int = 2) -> Tensor:
    return torch.randn(count, LATENT, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_direction_is_found(share: float) -> None:
    given = latents(4000)
    found = direction(given, score(draw(given)), share)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(found @ attribute()) > 0.97
    assert torch.equal(found, direction(given, 3 * score(draw(given)) - 1, share))  # only the order counts


def test_labels_of_two_classes_will_do() -> None:
    given = latents(4000)
    labels = (score(draw(given)) > 0.5).float()
    assert float(direction(given, labels, 0.4) @ attribute()) > 0.95


def test_of_two_classes_it_is_the_difference_of_their_means() -> None:
    given = latents(20)
    labels = torch.tensor([0.0, 1.0]).repeat(10)
    difference = given[labels == 1].mean(0) - given[labels == 0].mean(0)
    torch.testing.assert_close(direction(given, labels, 0.5), difference / difference.norm())


def test_equal_scores_have_no_direction() -> None:
    with pytest.raises(DataError, match="no direction"):
        direction(latents(10), torch.full((10,), 0.3))


def test_every_pair_is_one_edit_between_certain_pictures() -> None:
    step = 1.5
    found = edited_pairs(draw, score, latents(300), attribute(), step)
    assert found.tried == 300 and 0 < len(found.before) <= 300
    assert float(score(found.before).max()) <= 0.2 and float(score(found.after).min()) >= 0.8
    moved = ((found.after - found.before).flatten(1) @ linear().T) @ attribute()
    steps = moved / step
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)  # one step or two, along the direction
    assert {int(s) for s in steps.round()} <= {1, 2}
    other = (found.after - found.before).flatten(1) @ linear().T - moved[:, None] * attribute()
    assert float(other.abs().max()) < 1e-4  # and nothing else


def test_the_filter_takes_out_what_a_wrong_direction_gives() -> None:
    across = torch.randn(LATENT, generator=torch.Generator().manual_seed(3))
    across = across - (across @ attribute()) * attribute()
    with pytest.raises(DataError, match="certain pair"):
        edited_pairs(draw, score, latents(200), across / across.norm(), 1.5)
    with pytest.raises(DataError, match="certain pair"):
        edited_pairs(draw, score, latents(200), -attribute(), 1.5)


def test_a_harder_filter_keeps_fewer() -> None:
    kept = [len(edited_pairs(draw, score, latents(300), attribute(), 1.0, c).before) for c in (0.6, 0.8, 0.9)]
    assert kept[0] > kept[1] > kept[2] > 0


def test_the_pairs_are_a_task_s_splits() -> None:
    found = edited_pairs(draw, score, latents(300), attribute(), 1.5)
    task = PairedTranslation(*found.split(), batch_size=16)
    assert len(found.split()[0][0]) == round(0.8 * len(found.before)) == task.train_size()
    assert torch.equal(torch.cat([after for _, after in found.split()]), found.after)


def method(options: dict[str, Any]) -> tuple[StyleGanEdit, fx.GraphModule, PairedTranslation]:
    """The method on pairs of the linear generator, a small translator, and the task."""
    pairs = edited_pairs(draw, score, latents(500), attribute(), 1.5)
    ranged = {"data_range": 2.0, "lowest": -1.0, "input_range": (-1.0, 2.0)}
    task = PairedTranslation(*[tuple((x + 1) / 2 for x in split) for split in pairs.split()], batch_size=32, **ranged)
    teacher = trace(Small().eval(), INPUTS)
    torch.manual_seed(0)
    student = trace(Small(24).eval(), INPUTS)
    settings = StyleGanEdit.options_from({"target": {"perceptual": 0, "pixel": 1}, "adversary": LIGHT, **options})
    return StyleGanEdit(teacher, student, INPUTS, settings, task.with_teacher(teacher)), student, task


def test_the_discriminator_sees_the_input_too() -> None:
    found, student, task = method({})
    samples, learner = batch_of(task), Learner(student, found.extra)
    seen: list[Tensor] = []
    found.adversary.discriminator.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    found.loss(learner, samples)
    found.discriminator_loss({"discriminator": found.adversary}, samples)
    assert {tuple(x.shape[1:]) for x in seen} == {(2, 8, 8)}
    assert all(torch.equal(x[:, 1:], samples.inputs[0]) for x in seen)


def test_matching_is_nothing_for_the_real_picture_and_leaves_the_discriminator_alone() -> None:
    found, student, task = method({})
    samples, learner = batch_of(task), Learner(student, found.extra)
    real = found.as_seen(found.real(samples.target, samples))
    assert float(found._matching(real, real)) == 0
    terms = found.loss(learner, samples)
    assert set(terms) == {"target pixel", "gan", "matching"}
    terms["matching"].backward()
    assert has_gradient(student) and not has_gradient(found.adversary)
    off, other, _ = method({"matching": 0.0})
    assert "matching" not in off.loss(Learner(other, off.extra), samples)


def test_the_edit_is_learned(tmp_path: Path) -> None:
    found, student, task = method({})
    before = error(student, task)
    unchanged = torch.cat([(b.inputs[0] - b.target).abs().flatten() for b in task.batches("validation")]).mean()
    taught(found, student, tmp_path, epochs=8, rate=5e-3)
    assert error(student, task) < 0.7 * min(before, float(unchanged))


def test_a_latent_is_no_picture() -> None:
    teacher = trace(nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8))).eval(), (torch.zeros(1, 8),))
    _, _, task = method({})
    with pytest.raises(ModelError, match="one size"):
        StyleGanEdit(teacher, teacher, (torch.zeros(1, 8),), StyleGanEdit.options_from({"adversary": LIGHT}), task)
