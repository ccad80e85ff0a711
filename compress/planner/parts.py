"""A pipeline's parts as a device runs them, in several widths and depths, from the configurations of its folder alone.

The networks are made without weights (on torch's meta device), so that the largest pipeline takes no memory to speak
of, and a folder of configurations is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion.pipelines import DENOISERS, PipelineDenoiser, components_of, library, quietly
from compress.errors import DataError, InputError, ModelError
from compress.profile.read.program import read_running
from compress.types import OpRecord

TOKENS = 77
_MOST_TOKENS = 512
_LIBRARIES = ("diffusers", "transformers")
_DECODERS = ("vae", "vqvae")


@dataclass(frozen=True)
class Form:
    """A part at a share of its widths and of its blocks."""

    width: float
    depth: float
    ops: tuple[OpRecord, ...]

    @cached_property
    def macs(self) -> int:
        """Of one call."""
        return sum(op.macs or 0 for op in self.ops)

    @cached_property
    def weights(self) -> int:
        """How many there are; tables that are only looked up in are not among them."""
        return sum(op.weight_count for op in self.ops)

    @cached_property
    def largest_values(self) -> int:
        """How many values the largest op reads and writes."""
        return max((sum(map(prod, op.input_shapes)) + prod(op.output_shape) for op in self.ops), default=0)

    @property
    def label(self) -> str:
        """The form in a few letters."""
        if self.width == self.depth == 1:
            return "whole"
        return " ".join(
            f"{name} {value:g}" for name, value in (("width", self.width), ("depth", self.depth)) if value != 1
        )


@dataclass(frozen=True)
class Part:
    """A component that is run for a picture: in every step of the sampler, or once."""

    name: str
    kind: str
    every_step: bool
    forms: tuple[Form, ...]

    @property
    def whole(self) -> Form:
        """The part as it is in the folder."""
        return self.forms[0]


def read_parts(
    folder: str | Path,
    widths: Sequence[float] = (),
    depths: Sequence[float] = (),
    decoder_widths: Sequence[float] = (),
    tokens: int = 0,
) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """(text encoders, denoiser and decoder of a diffusers pipeline folder, what of it was left out).

    Args:
        folder: a pipeline folder; its configurations are read, weights are not.
        widths, depths: shares of the denoiser's channels, and of its blocks, to offer beside the whole one.
        decoder_widths: shares of the decoder's channels.
        tokens: of a prompt; 0: what the tokenizer's configuration says, else the text encoder's, else 77.

    Raises:
        InputError: a component is missing, or its configuration makes no network.
        DataError: a component is of a kind that is not known here.
        ToolMissing: diffusers, or for text encoders transformers, is not installed.
    """
    place = Path(folder)
    index = components_of(place)
    denoiser = next((name for name in DENOISERS if name in index), None)
    if denoiser is None:
        raise InputError(f"{place}: the pipeline has no denoiser; it names {', '.join(index) or 'nothing'}")
    texts = [name for name in index if name.startswith("text_encoder")]
    tokens = tokens or _tokens(place, texts)
    parts, left_out = [], []
    for name, (source, kind) in index.items():
        config = _config(place / name) if source in _LIBRARIES and (place / name / "config.json").is_file() else None
        if name == denoiser:
            _wanted(place / name, config)
            forms = _forms(place / name, source, kind, config or {}, widths, depths, tokens)
            parts.append(Part(name, kind, True, forms))
        elif name in texts:
            _wanted(place / name, config)
            parts.append(Part(name, kind, False, _forms(place / name, source, kind, config or {}, (), (), tokens)))
        elif name in _DECODERS:
            _wanted(place / name, config)
            latent = _latent(place / denoiser)
            forms = _forms(place / name, source, kind, config or {}, decoder_widths, (), tokens, latent)
            parts.append(Part(name, kind, False, forms))
        elif config is not None:
            left_out.append(f"{name} ({kind}) is not part of making a picture and is left out")
    return tuple(parts), tuple(left_out)


def _wanted(folder: Path, config: Mapping[str, Any] | None) -> None:
    if config is None:
        raise InputError(f"{folder}: no config.json there, and the pipeline names this component")


def _config(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: no JSON ({error})") from error
    if not isinstance(record, dict):
        raise InputError(f"{folder / 'config.json'}: no JSON object")
    return {key: value for key, value in record.items() if not key.startswith("_")}


def _tokens(place: Path, texts: Sequence[str]) -> int:
    """How long a prompt is, in tokens."""
    found = []
    tokenizer = place / "tokenizer" / "tokenizer_config.json"
    if tokenizer.is_file():
        found.append(json.loads(tokenizer.read_text(encoding="utf-8")).get("model_max_length", 0))
    found += [_config(place / name).get("max_position_embeddings", 0) for name in texts if (place / name).is_dir()]
    return next((int(count) for count in found if 0 < count <= _MOST_TOKENS), TOKENS)


def _latent(denoiser: Path) -> tuple[int, ...]:
    """The shape of what the denoiser gives to the decoder."""
    config = _config(denoiser)
    side = config.get("sample_size", 0)
    sides = (side, side) if isinstance(side, int) else tuple(side)
    return (int(config.get("in_channels", 4)), *map(int, sides))


def _forms(
    folder: Path, source: str, kind: str, config: Mapping[str, Any],
    widths: Sequence[float], depths: Sequence[float], tokens: int, latent: tuple[int, ...] = (),
) -> tuple[Form, ...]:  # fmt: skip
    """The part as it is, and in each width and depth that changes something."""
    found: list[Form] = []
    seen: list[dict[str, Any]] = []
    for width in (1.0, *(w for w in widths if w != 1)):
        for depth in (1.0, *(d for d in depths if d != 1)):
            changed = scaled(config, width, depth)
            if changed in seen:
                continue
            seen.append(changed)
            model, inputs = _network(folder, source, kind, changed, tokens, latent)
            try:
                ops = read_running(model, inputs)
            except ModelError as error:
                raise InputError(f"{folder}: {kind} cannot be run from its configuration ({error})") from error
            found.append(Form(width, depth, ops))
    return tuple(found)


def scaled(config: Mapping[str, Any], width: float, depth: float) -> dict[str, Any]:
    """A network's configuration with a share of its channels and blocks; the same where neither can be changed.

    Convolutional networks of diffusers say their widths in `block_out_channels` and their depth in
    `layers_per_block`; transformers say heads and layers, and sizes that equal heads times their width go along.
    """
    changed = dict(config)
    if "block_out_channels" in config:
        heads = config.get("attention_head_dim") or 1
        multiple = lcm(config.get("norm_num_groups") or 1, heads if isinstance(heads, int) else lcm(*heads))
        changed["block_out_channels"] = [
            channels if width == 1 else max(multiple, round(channels * width / multiple) * multiple)
            for channels in config["block_out_channels"]
        ]
        layers = config.get("layers_per_block")
        if isinstance(layers, int):
            changed["layers_per_block"] = max(1, round(layers * depth))
    elif "num_attention_heads" in config and "num_layers" in config:
        heads = max(1, round(config["num_attention_heads"] * width))
        size = config["num_attention_heads"] * config.get("attention_head_dim", 1)
        for key in ("cross_attention_dim", "caption_projection_dim"):
            if config.get(key) == size:
                changed[key] = heads * config.get("attention_head_dim", 1)
        changed["num_attention_heads"] = heads
        changed["num_layers"] = max(1, round(config["num_layers"] * depth))
    return changed


class _First(nn.Module):
    """A text encoder as tokens to their hidden states."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """The last hidden states."""
        states: Tensor = self.network(tokens)[0]
        return states


class _Decode(nn.Module):
    """An autoencoder's second half."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latent: Tensor) -> Tensor:
        """The picture."""
        picture: Tensor = self.network.decode(latent, return_dict=False)[0]  # type: ignore[operator]
        return picture


def _network(
    folder: Path, source: str, kind: str, config: Mapping[str, Any], tokens: int, latent: tuple[int, ...]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A component without weights, and inputs of the right shapes for one picture."""
    network = _made(folder, source, kind, config)
    if source == "transformers":
        return _First(network), (torch.zeros(1, tokens, dtype=torch.long, device="meta"),)
    if latent:
        return _Decode(network), (torch.zeros(1, *latent, device="meta"),)
    shape = _latent(folder)
    given = (torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"))
    return PipelineDenoiser(network), (*given, *_conditions(kind, config, tokens))


def _made(folder: Path, source: str, kind: str, config: Mapping[str, Any]) -> nn.Module:
    """A component of its class, on the meta device."""
    with quietly():  # both libraries load their classes when they are named
        found = getattr(library(source), kind, None)
    if found is None:
        raise DataError(f"{folder}: {source} has no class {kind}")
    try:
        with torch.device("meta"), quietly():
            made: Any = (
                found.from_config(dict(config)) if source == "diffusers" else found(found.config_class(**config))
            )
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{folder}: its configuration makes no {kind} ({reason})") from error
    network: nn.Module = made.eval()
    return network


def _conditions(kind: str, config: Mapping[str, Any], tokens: int) -> tuple[Tensor, ...]:
    """What a denoiser is told beside sample and time."""

    def states(size: int) -> Tensor:
        return torch.zeros(1, tokens, int(size), device="meta")

    if kind == "UNet2DConditionModel":
        if config.get("addition_embed_type"):
            raise DataError(
                f"a {kind} that is told more than a text ({config['addition_embed_type']}) is not known here"
            )
        return (states(config["cross_attention_dim"]),)
    if kind == "SD3Transformer2DModel":
        return states(config["joint_attention_dim"]), torch.zeros(1, config["pooled_projection_dim"], device="meta")
    if config.get("caption_channels"):
        return (states(config["caption_channels"]),)
    classes = config.get("num_class_embeds") if kind == "UNet2DModel" else config.get("num_embeds_ada_norm")
    return (torch.zeros(1, dtype=torch.long, device="meta"),) if classes else ()
