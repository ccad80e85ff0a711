"""WAV files: every width of PCM comes back exactly, other rates are refused by name, and sounds go into samples."""

from __future__ import annotations

import math
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from compress.errors import DataError, ToolMissing
from compress.tasks import Vocoder, split_sounds, write_wav
from compress.tasks.audio import read_wav, resampled
from compress.tasks.folders import NotUsable

RATE = 8000


def write_pcm(file: Path, samples: np.ndarray, bits: int, channels: int = 1, rate: int = RATE) -> None:
    """Whole numbers as PCM of so many bits, low byte first."""
    shift = 128 if bits == 8 else 0
    data = b"".join(int(x + shift).to_bytes(bits // 8, "little", signed=bits > 8) for x in samples)
    with wave.open(str(file), "wb") as writer:
        writer.setparams((channels, bits // 8, rate, len(samples) // channels, "NONE", ""))
        writer.writeframes(data)


def tone(hertz: float, seconds: float, rate: int = RATE) -> torch.Tensor:
    return 0.5 * torch.sin(torch.arange(int(seconds * rate)) * (2 * math.pi * hertz / rate))


def fill(folder: Path, count: int, seconds: float = 0.5) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        write_wav(folder / f"{number:03}.wav", tone(200 + 10 * number, seconds), RATE)
    return folder


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_width_is_read_exactly(tmp_path: Path, bits: int) -> None:
    top = 2 ** (bits - 1)
    whole = np.array([0, 1, -1, top - 1, -top, top // 2])
    write_pcm(tmp_path / "a.wav", whole, bits)
    sound, rate = read_wav(tmp_path / "a.wav")
    assert rate == RATE and sound.dtype == torch.float32
    assert np.array_equal(sound.numpy(), (whole / top).astype(np.float32))


def test_channels_are_averaged(tmp_path: Path) -> None:
    write_pcm(tmp_path / "a.wav", np.array([100, 300, -200, 0]), 16, channels=2)
    assert (read_wav(tmp_path / "a.wav")[0] * 32768).tolist() == [200.0, -100.0]


def test_the_extensible_header_is_read(tmp_path: Path) -> None:
    data = struct.pack("<3h", 1, -2, 3)
    header = struct.pack("<HHIIHH", 0xFFFE, 1, RATE, 2 * RATE, 2, 16)
    header += struct.pack("<HHI", 22, 16, 4) + bytes.fromhex("0100000000001000800000aa00389b71")
    body = b"WAVEfmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert (read_wav(tmp_path / "a.wav")[0] * 32768).tolist() == [1.0, -2.0, 3.0]


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    whole = torch.randint(-32768, 32768, (500,), generator=torch.Generator().manual_seed(0)) / 32768
    write_wav(tmp_path / "a.wav", whole.unsqueeze(0), 22050)
    sound, rate = read_wav(tmp_path / "a.wav")
    assert rate == 22050 and torch.equal(sound, whole)
    write_wav(tmp_path / "b.wav", torch.tensor([1.5, -1.5, 1.0]), RATE)
    assert (read_wav(tmp_path / "b.wav")[0] * 32768).tolist() == [32767.0, -32768.0, 32767.0]


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(NotUsable, match=r"RIFF.*plain PCM is read \(ffmpeg"):
        read_wav(tmp_path / "text.wav")
    write_wav(tmp_path / "cut.wav", tone(200, 0.1), RATE)
    whole = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-400])
    with pytest.raises(NotUsable, match="it holds 600 of 800 samples"):
        read_wav(tmp_path / "cut.wav")
    floats = bytearray(whole)
    floats[20:22] = b"\x03\x00"
    (tmp_path / "float.wav").write_bytes(floats)
    with pytest.raises(NotUsable, match="unknown format: 3"):
        read_wav(tmp_path / "float.wav")


def test_folders_become_pieces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path / "sounds", 12)
    write_wav(folder / "short.wav", tone(200, 0.1), RATE)
    (folder / "notes.txt").write_text("no sound")
    splits = split_sounds(folder, 1500, RATE, shares=(0.4, 0.3, 0.3))
    assert sum(map(len, splits)) == 12 * 2  # 4000 samples: two pieces of 1500, the rest dropped
    first = splits[0].found[0]
    sound = read_wav(first.file)[0]
    assert splits[0][1].shape == (1, 1500) and torch.equal(splits[0][1][0], sound[1500:3000])
    reasons = {one.file.name: one.reason for one in splits[0].skipped}
    assert set(reasons) == {"short.wav", "notes.txt"} and "0.1 s of sound; 0.188 s are needed" in reasons["short.wav"]
    assert "2 of 14 files are left out" in caplog.text


def test_another_rate_is_refused_by_name_or_resampled(tmp_path: Path) -> None:
    folder = fill(tmp_path / "sounds", 6)
    write_wav(folder / "cd.wav", tone(440, 0.5, 44100), 44100)
    with pytest.raises(DataError, match=r"cd.wav has 44100 samples a second, and 8000 are needed; .*-ar 8000.*resamp"):
        split_sounds(folder, 1000, RATE, at_least=0)
    parts = split_sounds(folder, 1000, RATE, resample=True, at_least=0)
    part, number = next((p, i) for p in parts for i, one in enumerate(p.found) if one.key == "cd")
    before = sum(one.pieces for one in part.found[:number])
    assert part.found[number].pieces == 4
    found = torch.cat([part[before + i][0] for i in range(4)])
    middle = slice(500, 3500)  # the filter's edges are not the tone's
    assert float((found - tone(440, 0.5)[:4000])[middle].abs().max()) < 2e-3


def test_what_is_above_half_the_new_rate_is_gone() -> None:
    kept, lost = (resampled(tone(hertz, 0.5, 44100), 44100, RATE) for hertz in (1000, 6000))
    assert float(kept[500:-500].std()) == pytest.approx(0.5 / math.sqrt(2), rel=0.01)
    assert float(lost[500:-500].std()) < 0.01


def test_without_scipy_the_message_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(ToolMissing, match=r"scipy.*pip install -e '.\[examples\]'"):
        resampled(tone(440, 0.1), RATE, 2 * RATE)


def test_a_vocoder_takes_sounds_of_a_folder_and_gives_them_to_listen_to(tmp_path: Path) -> None:
    splits = split_sounds(fill(tmp_path / "sounds", 12), 2000, RATE, shares=(1, 1, 1))
    task = Vocoder(*splits, prepare=lambda sound: sound.unfold(2, 4, 4)[:, 0].transpose(1, 2), sample_rate=RATE)

    def teacher(frames: torch.Tensor) -> torch.Tensor:  # (N, 4, 500), the sound itself in frames of four
        return frames.transpose(1, 2).flatten(1).unsqueeze(1)

    task.with_teacher(teacher)
    assert task.quality(teacher).value == 0.0
    name = "multi-resolution STFT distance"
    own, louder = task.more_qualities(teacher), task.more_qualities(lambda x: 3 * teacher(x))
    assert own[name].value == 0.0 and (louder[name].value or 0) > 1.0
    assert set(own) == {name} and "values outside [-1, 1]" in louder  # 1.5 at its loudest
    row = task.samples({"teacher": teacher, "quiet": lambda x: 0 * teacher(x)}, count=1)[0]
    assert row.sample_rate == RATE and set(row.sounds) == {"teacher", "quiet"} == set(row.outputs)
    assert torch.equal(row.sounds["teacher"], splits[2][0][0]) and not row.sounds["quiet"].any()
    sound = torch.rand(2, 1, 2000).requires_grad_(True)
    task.perceptual_loss(sound, torch.rand(2, 1, 2000)).sum().backward()
    assert sound.grad is not None and bool(sound.grad.any())
