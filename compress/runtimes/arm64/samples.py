"""Arrays between this machine and the emulated one: a list of samples, each a tuple of arrays, as one .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_samples(path: Path, samples: Sequence[Sequence[np.ndarray]]) -> None:
    """Write samples to an .npz file; the array j of sample i is named "i_j". Nothing is pickled."""
    arrays = {f"{i}_{j}": np.asarray(value) for i, sample in enumerate(samples) for j, value in enumerate(sample)}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy has one more parameter, of another type


def read_samples(path: Path) -> list[tuple[np.ndarray, ...]]:
    """The samples in a file that `write_samples` wrote, in their order; a pickle in it is refused with ValueError."""
    with np.load(path, allow_pickle=False) as file:
        places = sorted((int(i), int(j), name) for name in file.files for i, _, j in [name.partition("_")])
        count = places[-1][0] + 1 if places else 0
        return [tuple(file[name] for i, _, name in places if i == sample) for sample in range(count)]
