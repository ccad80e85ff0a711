"""The plain distillation of a generator: the student draws what the teacher draws, judged in pixels and as people see.

With `gan`, a discriminator plays along (R3GAN by default): it holds the student's outputs against real ones where the
task has them (`Batch.target`), else against the teacher's, so that no real data is needed at all.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compress.distill.generator.base import GeneratorMethod


class Imitate(GeneratorMethod):
    """The terms of `Options` and nothing else; every other method of this room adds to it."""

    def reference(self, batch: Any) -> Tensor:
        """The teacher's output on a batch; the real one, which costs nothing, where no term asks for the teacher's."""
        weights = self.options.teacher
        asked = weights.pixel or weights.perceptual or weights.style or self.options.real == "teacher"
        return super().reference(batch) if asked or batch.target is None else batch.target
