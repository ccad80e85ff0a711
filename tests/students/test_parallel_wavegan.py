"""ParallelWaveGan: its size, its dilations, streaming in chunks that equals the whole, and the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.rewrite.receptive import receptive_field
from compress.rewrite.tiling import tiled
from compress.students import ParallelWaveGan
from compress.students.parallel_wavegan import Stretch
from tests.students.common import FORMATS, check_file, cost, noise, traced


def net(stretches: tuple[int, ...] = (2, 4)) -> ParallelWaveGan:
    torch.manual_seed(0)
    return ParallelWaveGan(6, stretches, 8, 6, 2).eval()


def test_the_published_size_and_dilations() -> None:
    model = ParallelWaveGan()
    assert model.dilations == [2**layer for layer in range(10)] * 3
    found = cost(model, torch.zeros(1, 80, 4))
    assert 1.2e6 < found.params < 1.5e6


def test_it_traces_and_sounds() -> None:
    x = noise(1, 6, 5)
    assert traced(net(), x)(x).shape == (1, 1, 40)


def test_a_steady_frame_is_stretched_to_itself() -> None:
    stretch = Stretch(3, 4)
    with torch.no_grad():
        out = stretch(torch.tensor([1.0, -2.0, 0.5])[None, :, None].expand(1, 3, 6))
    torch.testing.assert_close(out[..., 4:-4], torch.tensor([1.0, -2.0, 0.5])[None, :, None].expand(1, 3, 16))


def test_steady_frames_still_sound() -> None:
    with torch.no_grad():
        sound = net()(noise(1, 6, 1).expand(1, 6, 40))[0, 0, 120:-120]
        assert float(sound.std()) > 0.01 * float(sound.abs().mean())
        torch.testing.assert_close(sound[8:], sound[:-8], rtol=1e-4, atol=1e-6)  # every frame alike


def streamed(model: ParallelWaveGan, frames: torch.Tensor, context: int, chunk: int = 5) -> torch.Tensor:
    """The sound of each chunk of frames alone, heard with `context` frames on either side, put together."""
    pieces = []
    with torch.no_grad():
        for start in range(0, frames.shape[2], chunk):
            first, last = max(0, start - context), min(frames.shape[2], start + chunk + context)
            sound = model(frames[..., first:last])
            samples = sound.shape[2] // (last - first)
            pieces.append(sound[..., (start - first) * samples : (start - first + chunk) * samples])
    return torch.cat(pieces, 2)


@pytest.mark.parametrize("stretches", [(2, 4), (3, 2), (8,)])
def test_a_stream_is_the_whole_with_its_context_and_not_with_less(stretches: tuple[int, ...]) -> None:
    model, frames = net(stretches), noise(1, 6, 40)
    with torch.no_grad():
        whole = model(frames)
    needed = model.context_frames
    torch.testing.assert_close(streamed(model, frames, needed), whole, rtol=1e-4, atol=1e-6)
    assert float((streamed(model, frames, needed - 2) - whole).abs().max()) > 1e-6


def test_the_context_is_the_receptive_field_of_the_traced_network() -> None:
    model, frames = net(), noise(1, 6, 48)
    graph = traced(model, frames)
    field = receptive_field(graph, (frames,))
    assert field.exact and field.scale == (8,)
    assert 0 <= field.halo_px[0] - model.context_frames <= 1
    with torch.no_grad():
        got = tiled(graph, frames, (24,), (model.context_frames,), field.scale)
        torch.testing.assert_close(got, graph(frames), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
def test_its_file(format: str, tmp_path: Path) -> None:
    check_file(net(), noise(1, 6, 10), format, tmp_path)
