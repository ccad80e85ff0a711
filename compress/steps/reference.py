"""A torch model as what files are held against: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def torch_reference(model: nn.Module) -> Callable[..., list[np.ndarray]]:
    """The model as a function of arrays."""

    def reference(*arrays: np.ndarray) -> list[np.ndarray]:
        model.eval()
        with torch.no_grad():
            output = model(*(torch.from_numpy(a) for a in arrays))
        return [output.numpy()]

    return reference
