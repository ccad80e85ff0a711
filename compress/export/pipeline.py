"""A pipeline's folder: pipeline.json beside the artifacts, golden samples to check by, and a runner without torch.

What a model needs to be used (a sampler's constants, the conditions) is data here, so that a runner in any language is
a loop of a few lines; `run_pipeline.py`, which is copied into the folder, is one in numpy.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.files import write_json
from compress.tasks import wordpiece

MANIFEST, GOLDEN, RUNNER = "pipeline.json", "golden.npz", "run_pipeline.py"
_TEMPLATES = Path(__file__).parent / "templates"
VERSION = "1.0"


def write_manifest(
    folder: Path,
    name: str,
    manifest: Mapping[str, Any],
    models: Mapping[str, Mapping[str, str]],
    golden: Mapping[str, np.ndarray],
) -> list[Path]:
    """Write pipeline.json, golden.npz and the runner; returns them.

    Args:
        folder: where the artifacts are.
        manifest: what the task says that a runner needs.
        models: the file names of each of its networks by format and scheme.
        golden: inputs (first noise, fresh noises, conditions) and the samples that the float model makes of them.
    """
    write_json(folder / MANIFEST, {"version": VERSION, "name": name, "models": models, **manifest})
    np.savez_compressed(folder / GOLDEN, **dict(golden))  # type: ignore[arg-type]
    shutil.copyfile(_TEMPLATES / RUNNER, folder / RUNNER)
    files = [MANIFEST, GOLDEN, RUNNER]
    if "text" in manifest:
        shutil.copyfile(wordpiece.__file__, folder / Path(wordpiece.__file__).name)
        files.append(Path(wordpiece.__file__).name)
    return [folder / name for name in files]
