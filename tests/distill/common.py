"""A teacher, a narrower student and a batch for the distillation tests."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.surgery import apply_edits
from compress.graph.trace import trace
from compress.tasks import Batch
from compress.types import ChannelEdit
from tests.models import TinyResNet, randomize_norms

INPUTS = (torch.zeros(1, 1, 8, 8),)


def pair(cut: bool = True) -> tuple[fx.GraphModule, fx.GraphModule]:
    """(teacher, student); the student has half the channels between and inside the blocks, or is a copy."""
    torch.manual_seed(0)
    teacher = trace(randomize_norms(TinyResNet()), INPUTS)
    edits = [ChannelEdit(name, 16, tuple(range(8))) for name in ("stem", "block1.conv1", "block2.conv1")] if cut else []
    return teacher, apply_edits(teacher, edits, INPUTS)


def batch(count: int = 8) -> Batch:
    """Random images with random labels."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return Batch((images,), torch.randint(0, 4, (count,), generator=generator))
