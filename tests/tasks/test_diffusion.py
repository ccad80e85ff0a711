"""Diffusion as a task: samples by number, judged as a set, calibrated on what the sampler asks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.diffusion import Edm, euler, karras, preconditioning_of, renoise, table_of
from compress.errors import DataError
from compress.metrics import Features
from compress.tasks import Diffusion

SAYS_CLEAN = preconditioning_of("sample", Edm())
COLOURS = Features("mean colours", lambda images: images.mean((2, 3)))


def make(**settings: object) -> Diffusion:
    generator = torch.Generator().manual_seed(0)
    clean = 0.3 * torch.randn(80, 3, 4, 4, generator=generator)
    clean[:, :1] += 0.3 * torch.randn(80, 1, 1, 1, generator=generator)
    chosen: dict[str, object] = {
        "preconditioning": SAYS_CLEAN, "features": COLOURS, "count": 40, "batch_size": 16,
        "sampler": table_of("two steps", renoise, [2.0, 0.5, 0.0], SAYS_CLEAN),
    }  # fmt: skip
    return Diffusion(clean[:40], clean[40:], **{**chosen, **settings})  # type: ignore[arg-type]


def shrink(x: Tensor, time: Tensor) -> Tensor:
    return 0.1 * x


def test_a_sample_is_a_function_of_its_number() -> None:
    task = make()
    whole = task.make(shrink, count=20)
    task.batch_size = 7
    assert torch.allclose(whole, task.make(shrink, count=20))
    assert torch.allclose(whole[5:9], task.make(shrink, count=4, start=5))
    assert not torch.allclose(whole, task.make(shrink, "validation", 20))


def test_batches_are_noised_real_samples_at_the_levels_that_are_asked() -> None:
    task = make()
    batch = next(iter(task.batches("test")))
    assert batch.inputs[1].tolist() == [2.0, 0.5] * 8
    assert torch.equal(batch.inputs[0], batch.target.x) and torch.equal(batch.target.clean, task.real["test"][:16])
    assert [x.shape for x in task.example_inputs()] == [(1, 3, 4, 4), (1,)]
    again = next(iter(task.batches("test")))
    assert torch.equal(batch.inputs[0], again.inputs[0])


def test_the_loss_is_that_of_the_raw_output() -> None:
    task = make(preconditioning=karras(0.5), sampler=table_of("e", euler, [2.0, 0.0], karras(0.5)))
    batch = task.train_batch(torch.arange(40), torch.Generator().manual_seed(0))
    truth = task.preconditioning.output_of(batch.target.clean, batch.target.x, batch.target.level)
    assert float(task.loss(truth, batch.target)) == 0
    assert float(task.loss(truth + 2, batch.target)) == pytest.approx(4.0, rel=1e-5)
    logs = torch.cat(
        [task.train_batch(torch.arange(40), torch.Generator().manual_seed(s)).target.level for s in range(40)]
    ).log()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=0.1) and float(logs.std()) == pytest.approx(1.2, abs=0.1)


def test_conditions_are_asked_in_turn_and_dropped_in_training() -> None:
    rows = torch.eye(4)[torch.arange(40) % 4]
    task = make(
        conditions=rows, drop=0.5, classifier=lambda images: images.mean((2, 3)), class_of=lambda r: r.argmax(1)
    )
    asked: list[Tensor] = []

    def network(x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        asked.append(condition)
        return x

    task.make(network, count=8)
    assert asked[0].argmax(1).tolist() == [0, 1, 2, 3, 0, 1, 2, 3] or set(asked[0].argmax(1).tolist()) == {0, 1, 2, 3}
    batch = task.train_batch(torch.arange(40), torch.Generator().manual_seed(0))
    dropped = batch.inputs[2].sum(1) == 0
    assert 8 < int(dropped.sum()) < 32 and torch.equal(batch.inputs[2][~dropped], rows[~dropped])
    figures = task.more_qualities(network)
    assert figures["samples of the class asked for"].n == 40


def test_quality_is_a_distance_between_sets_and_says_with_which_sampler() -> None:
    task = make()
    near = task.quality(lambda x, time: 0.3 * x)
    far = task.quality(lambda x, time: 0 * x + 3)
    assert near.value < far.value and near.n == 40 and "two steps" in near.source and near.interval is not None
    broken = task.quality(lambda x, time: x * float("nan"))
    assert broken.value == float("inf") and "not finite" in broken.source
    assert task.quality_name == "Fréchet distance on mean colours" and not task.higher_is_better


def test_the_teacher_has_a_sampler_of_its_own_and_others_stand_beside_it() -> None:
    slow = table_of("many steps", euler, [4.0, 2.0, 1.0, 0.5, 0.0], SAYS_CLEAN)
    task = make(teacher_sampler=slow, teacher_steps={"teacher, 1 step": table_of("1", euler, [4.0, 0.0], SAYS_CLEAN)})
    assert task.references() == {}
    task.with_teacher(shrink)
    assert task.sampler_of(shrink) is slow and task.sampler_of(lambda *x: x[0]).name == "two steps"
    evaluations = "network evaluations per sample"
    assert task.more_qualities(shrink)[evaluations].value == 4
    reference = task.references()["teacher, 1 step"]
    assert task.more_qualities(reference.predict)[evaluations].value == 1
    assert "1" in task.quality(reference.predict).source
    assert {name: use.evaluations for name, use in task.uses(shrink).items()} == {"many steps": 4, "teacher, 1 step": 1}


def test_a_student_can_be_used_with_further_samplers() -> None:
    task = make(student_steps={"at once": table_of("1", euler, [4.0, 0.0], SAYS_CLEAN)})
    uses = task.uses(shrink)
    assert {name: use.evaluations for name, use in uses.items()} == {"two steps": 2, "at once": 1}
    assert task.evaluations == 2 and uses["two steps"].predict is shrink
    assert task.quality(uses["at once"].predict).value != task.quality(shrink).value


def test_calibration_sees_what_the_sampler_asks() -> None:
    task = make()
    found = task.calibration(shrink, 5)
    assert len(found) == 5
    times = torch.cat([batch.inputs[1] for batch in found])
    assert set(times.tolist()) == {2.0, 0.5}
    second = next(batch for batch in found if float(batch.inputs[1][0]) == 0.5)
    # The second evaluation is of the network's own answer with noise, not of a real sample.
    assert float(second.inputs[0].std()) < 0.7


def test_a_manifest_and_golden_samples_are_enough_to_make_samples_again() -> None:
    task = make()
    manifest, golden = task.manifest(), task.golden(shrink)
    assert manifest["sample_shape"] == [3, 4, 4] and manifest["conditions"] is None
    rows = manifest["sampler"]["rows"]
    first, outputs = golden["first"], []
    for row in rows[:-1]:
        x = row["start"] * first + sum(f * o for f, o in zip(row.get("outputs", []), outputs, strict=False))
        x = x + sum(f * golden["fresh"][:, k] for k, f in enumerate(row.get("noises", [])))
        outputs.append(shrink(row["scale"] * x, torch.full((8,), row["time"])))
    last = rows[-1]
    x = last["start"] * first + sum(f * o for f, o in zip(last["outputs"], outputs, strict=True))
    assert torch.allclose(x, golden["samples"], atol=1e-6)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(DataError, match="3 real samples are too few"):
        Diffusion(torch.zeros(4, 1, 2, 2), torch.zeros(3, 1, 2, 2), preconditioning=SAYS_CLEAN,
                  sampler=table_of("e", euler, [1.0, 0.0], SAYS_CLEAN), features=COLOURS)  # fmt: skip
    with pytest.raises(DataError, match="40 training samples have 3 conditions"):
        make(conditions=torch.eye(3))
