"""Batches follow indices and generator alone; quality counts every sample once; without labels the teacher counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.errors import DataError
from compress.tasks import Classification

IMAGES = torch.arange(40.0).view(10, 1, 2, 2)
LABELS = torch.arange(10) % 2
PART = (IMAGES, LABELS)


def _shake(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + torch.rand(images.shape, generator=generator)


def _by_parity(images: Tensor) -> Tensor:
    """Logits that are right for every sample of PART."""
    return torch.nn.functional.one_hot((images[:, 0, 0, 0] / 4).long() % 2, 2).float()


def test_a_batch_is_a_function_of_indices_and_generator() -> None:
    task = Classification(PART, PART, PART, augment=_shake)
    indices = torch.tensor([3, 1, 7])
    first, again = (task.train_batch(indices, torch.Generator().manual_seed(4)) for _ in range(2))
    other = task.train_batch(indices, torch.Generator().manual_seed(5))
    assert torch.equal(first.inputs[0], again.inputs[0])
    assert not torch.equal(first.inputs[0], other.inputs[0])
    assert torch.equal(first.target, LABELS[indices])


def test_quality_counts_every_sample_once_whatever_the_batch_size() -> None:
    for size in (1, 3, 10, 64):
        task = Classification(PART, PART, PART, batch_size=size)
        right, wrong = task.quality(_by_parity), task.quality(lambda x: _by_parity(x).flip(1))
        assert (right.value, right.n, wrong.value) == (1.0, 10, 0.0)
    half = task.quality(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    assert half.value == 0.5 and half.origin == "measured" and half.unit == "fraction"


def test_without_labels_the_teacher_is_the_measure() -> None:
    bare = (IMAGES, None)
    task = Classification(bare, bare, bare).with_teacher(_by_parity)
    assert not task.labelled and "agreement" in task.quality_name
    assert task.quality(_by_parity).value == 1.0
    with pytest.raises(DataError, match="no teacher to agree with"):
        Classification(bare, bare, bare).quality(_by_parity)


def test_any_indexable_of_images_will_do() -> None:
    listed = ([image for image in IMAGES], LABELS)
    task, plain = Classification(listed, listed, listed), Classification(PART, PART, PART)
    assert torch.equal(task.example_inputs()[0], plain.example_inputs()[0])
    pick = torch.tensor([9, 0])
    generator = torch.Generator()
    assert torch.equal(task.train_batch(pick, generator).inputs[0], plain.train_batch(pick, generator).inputs[0])


def test_mismatched_or_empty_splits_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="the validation split has 10 images but 3 labels"):
        Classification(PART, (IMAGES, LABELS[:3]), PART)
    with pytest.raises(DataError, match="the test split holds no samples"):
        Classification(PART, PART, (IMAGES[:0], LABELS[:0]))
