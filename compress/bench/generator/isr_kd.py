"""ISR-KD: how good are both domains after the second was learned, with retention and without?"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from compress.bench.beds import shapes
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.tasks import PairedTranslation

_EPOCHS, _MEMORY = 6, 16
_PIXELS: dict[str, Any] = {"data_range": 2.0, "lowest": -1.0, "input_range": (-1.0, 2.0)}


def _inverted(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The second domain: dark outlines on light ground, filled with red and blue swapped."""
    outlines, filled, _ = shapes.draw(count, seed)
    return 1 - outlines, filled.flip(1)


def _both(seed: int) -> tuple[float, float]:
    splits = [_inverted(count, 10 + number) for number, count in enumerate((256, 64, 64))]
    task = PairedTranslation(*splits, batch_size=16, **_PIXELS)
    old_inputs = torch.cat([batch.inputs[0] for batch in shapes.filling().batches("validation")])[:_MEMORY]

    def error(options: dict[str, object]) -> float:
        student = distil(
            METHODS["isr_kd"], {"gan": 0.0, **options}, shapes.filling_teacher(),
            lambda: copy.deepcopy(shapes.filling_teacher()), task, seed=seed, epochs=_EPOCHS, learning_rate=1e-3,
        )  # fmt: skip
        with torch.no_grad():
            new = [F.l1_loss(student(*batch.inputs), batch.target) for batch in task.batches("test")]
        return (shapes.filling_error(student) + float(torch.stack(new).mean())) / 2

    with tempfile.TemporaryDirectory() as folder:
        memory = Path(folder) / "old.safetensors"
        save_file({"x": old_inputs.contiguous()}, memory)
        kept = error({"teacher": {"pixel": 0.1}, "memory": str(memory), "memory_batch": _MEMORY})
    return kept, error({"teacher": {"pixel": 0.0}})


CASES = (
    Case(
        method="isr_kd",
        name="old and new",
        question=(
            "A network that fills light outlines learns to fill dark ones in other colours: retention with a memory of "
            f"{_MEMORY} old inputs, against plain fine-tuning; {_EPOCHS} epochs of 256 pictures each."
        ),
        metric="mean absolute error of test pictures, mean of both domains",
        unit="pixels in [-1, 1]",
        higher_is_better=False,
        card="the old domain is kept while the new one is learned.",
        run=_both,
    ),
)
