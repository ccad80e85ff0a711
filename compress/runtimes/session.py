"""What every runtime offers: a loaded artifact that turns arrays into arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Session(Protocol):
    """A loaded artifact: float32 arrays in and out, in the torch model's layout (NCHW), batch 1."""

    name: str  # of the runtime: "onnxruntime"
    version: str  # of the runtime: "1.32.0"
    threads: int

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The model's outputs, in the order the torch model returns them."""
        ...

    def close(self) -> None:
        """Frees what the runtime holds; the session cannot run afterwards."""
        ...
