"""Teachers out of diffusers' pipeline folders: the network, what its output means, and the schedule, all from disk.

The library itself loads the components, from safetensors only; nothing is fetched and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion.denoiser import Denoiser, Network
from compress.diffusion.preconditioning import Preconditioning, flow, karras, preconditioning_of
from compress.diffusion.schedules import Discrete, Edm, Flow, Schedule
from compress.errors import DataError, InputError, ToolMissing

INDEX = "model_index.json"
CLEARLY = 1.08
"""How much larger an error has to be: a network that is read as it was trained is close to the best of all readings."""
DENOISERS = ("unet", "transformer")
_SAFE = ("diffusion_pytorch_model.safetensors", "model.safetensors")

# How each of diffusers' networks is called: the names of its inputs in the order (sample, time, conditions ...).
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "UNet2DModel": ("sample", "timestep", "class_labels"),
    "UNet2DConditionModel": ("sample", "timestep", "encoder_hidden_states"),
    "DiTTransformer2DModel": ("hidden_states", "timestep", "class_labels"),
    "SD3Transformer2DModel": ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"),
    "PixArtTransformer2DModel": ("hidden_states", "timestep", "encoder_hidden_states"),
    "SanaTransformer2DModel": ("hidden_states", "timestep", "encoder_hidden_states"),
}


class PipelineDenoiser(nn.Module):
    """A diffusers network as (samples, times, conditions ...) to raw outputs, all tensors.

    Networks that also predict a variance say it in further channels, which are left out.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.names = _INPUTS[type(network).__name__]

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """The raw output, with as many channels as the samples."""
        given = dict(zip(self.names, (x, time, *conditions), strict=False))
        output: Tensor = self.network(**given, return_dict=False)[0]
        return output[:, : x.shape[1]]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline folder's parts. `components` are the others by their name in the folder: class names, not loaded."""

    denoiser: PipelineDenoiser
    preconditioning: Preconditioning
    schedule: Schedule
    scheduler: Any
    sample_shape: tuple[int, ...]
    components: Mapping[str, str]


def load_pipeline(folder: str | Path) -> Pipeline:
    """The denoiser and the scheduler of a pipeline folder.

    Raises:
        InputError: a component is missing or is not stored as safetensors, or the folder holds no pipeline.
        DataError: network or scheduler are of a kind that is not known here.
        ToolMissing: diffusers is not installed.
    """
    place = Path(folder)
    index = {key: kind for key, (_, kind) in components_of(place).items()}
    name = next((key for key in DENOISERS if key in index), None)
    if name is None:
        raise InputError(f"{place}: the pipeline has no denoiser; it names {', '.join(index) or 'nothing'}")
    for component in index:
        if not (place / component).is_dir():
            raise InputError(f"{place}: {INDEX} names {component}, and there is no such folder")
    network = _network(place / name, index[name])
    scheduler = _scheduler(place / "scheduler", index.get("scheduler", ""))
    schedule, predicts = meaning_of(scheduler)
    config = network.config
    side = config.sample_size
    sides = (side, side) if isinstance(side, int) else tuple(side)
    others = {key: kind for key, kind in index.items() if key not in (name, "scheduler")}
    shape = (int(config.in_channels), *map(int, sides))
    return Pipeline(PipelineDenoiser(network), predicts, schedule, scheduler, shape, others)


def meaning_of(scheduler: Any) -> tuple[Schedule, Preconditioning]:
    """The schedule that a scheduler's times are of, and what the network's output means under it.

    Raises:
        DataError: the scheduler is of a kind that is not known here.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if kind.startswith("EDM"):
        if config.prediction_type != "epsilon":
            raise DataError(f"{kind} with prediction_type '{config.prediction_type}' is not known here")
        return Edm(), karras(float(config.sigma_data))
    if kind.startswith("FlowMatch"):
        return Flow(), flow(float(config.num_train_timesteps))
    power = getattr(scheduler, "alphas_cumprod", None)
    if power is None:
        raise DataError(f"the scheduler {kind} is not known here: it has neither signal shares nor a flow's name")
    schedule = Discrete(power.double().clamp(1e-8, 1 - 1e-8))
    return schedule, preconditioning_of(str(config.prediction_type), schedule)


def check_prediction(
    network: Network, claimed: Preconditioning, schedule: Schedule, clean: Tensor, *condition: Any
) -> None:
    """Refuse a network whose output is something else than is claimed: it denoises a few samples, and is looked at.

    Args:
        network: scaled samples, times and conditions to raw outputs.
        claimed: what its output is said to be.
        schedule: that of the samples.
        clean: some true samples (N, C, H, W); noise three times as wide is put on them. There a denoiser says little
            more than their mean, which is never further off than they are wide; one that is misread is.

    Raises:
        DataError: another meaning denoises clearly better, or none denoises at all.
    """
    generator, width = torch.Generator().manual_seed(0), float(clean.std())
    level = 3 * width
    x = clean + level * torch.randn(clean.shape, generator=generator).to(clean)
    candidates = {claimed.name: claimed}
    for name in ("epsilon", "sample", "v_prediction"):
        other = preconditioning_of(name, schedule)
        candidates.setdefault(other.name, other)
    if isinstance(schedule, Flow):
        candidates = {claimed.name: claimed, "sample on flow": preconditioning_of("sample", schedule)}
    errors = {}
    with torch.no_grad():
        for name, meaning in candidates.items():
            found = Denoiser(network, meaning)(x, torch.tensor(level), *condition)
            errors[name] = float((found - clean).square().mean().sqrt())
    best = min(errors, key=errors.__getitem__)
    said = ", ".join(f"{name} {error:.3g}" for name, error in errors.items())
    if errors[best] > 1.5 * width:
        raise DataError(f"the network does not denoise samples of deviation {width:.3g} (errors: {said})")
    if errors[claimed.name] > CLEARLY * errors[best]:
        raise DataError(f"the network does not predict {claimed.name}: as {best} it denoises better (errors: {said})")


def components_of(folder: Path) -> dict[str, tuple[str, str]]:
    """The components that a pipeline folder names: (library, class) by name.

    Raises:
        InputError: the folder holds no pipeline.
    """
    path = folder / INDEX
    if not path.is_file():
        raise InputError(f"{folder}: no {INDEX} there; give the folder that a diffusers pipeline was saved in")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{path}: no JSON object")
    parts = {key: value for key, value in record.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    return {key: (str(library), str(kind)) for key, (library, kind) in parts.items()}


def _network(folder: Path, kind: str) -> Any:
    if kind not in _INPUTS:
        raise DataError(f"{folder}: a denoiser of class {kind} is not known here; known: {', '.join(_INPUTS)}")
    if not any((folder / name).is_file() for name in _SAFE) and not list(folder.glob("*.safetensors.index.json")):
        raise InputError(f"{folder}: no safetensors there; save the pipeline with safe_serialization=True")
    return _loaded(getattr(library("diffusers"), kind).from_pretrained, folder, use_safetensors=True).eval()


def _scheduler(folder: Path, kind: str) -> Any:
    found = getattr(library("diffusers"), kind, None) if kind else None
    if found is None or not hasattr(found, "set_timesteps"):
        raise DataError(f"{folder}: the scheduler '{kind}' is not one that this diffusers knows")
    return _loaded(found.from_pretrained, folder)


def _loaded(load: Callable[..., Any], folder: Path, **settings: Any) -> Any:
    try:
        return load(str(folder), local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{folder}: cannot be loaded ({str(error).strip().splitlines()[0]})") from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Nothing below an error is said meanwhile: the libraries talk of parts of theirs that are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def library(name: str) -> Any:
    """diffusers, or transformers.

    Raises:
        ToolMissing: it is not installed.
    """
    try:
        with quietly():
            return importlib.import_module(name)
    except ImportError as error:
        raise ToolMissing(name, "diffusion") from error


__all__ = [
    "Pipeline", "PipelineDenoiser", "check_prediction", "components_of", "library", "load_pipeline", "meaning_of",
    "quietly",
]  # fmt: skip
