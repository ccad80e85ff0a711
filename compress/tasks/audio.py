"""WAV files as sound, folders of them as samples, and sound as WAV; mono, in [-1, 1].

What is read is plain PCM of 8, 16, 24 or 32 bits; several channels are averaged.
"""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.errors import DataError, ToolMissing
from compress.tasks.folders import (
    KEEP_BYTES,
    SHARES,
    NotUsable,
    Pieces,
    Where,
    check_enough,
    list_files,
    look_at,
    split_found,
)

_PCM, _EXTENSIBLE = b"\x01\x00", b"\xfe\xff"  # format tags; the second says that the true one comes later


def read_wav(file: Path) -> tuple[Tensor, int]:
    """The sound in a WAV file, float32 (S,), and its samples per second.

    Raises:
        NotUsable: the file is no WAV of plain PCM, or ends early.
    """
    try:
        with wave.open(io.BytesIO(_plain(file.read_bytes()))) as sound:
            channels, width, rate, frames = sound.getparams()[:4]
            data = sound.readframes(frames)
    except (OSError, EOFError, wave.Error) as error:
        raise NotUsable(f"{error}; WAV of plain PCM is read (ffmpeg -i IN -c:a pcm_s16le OUT.wav writes it)") from error
    if len(data) < frames * channels * width or not frames:
        raise NotUsable(f"it holds {len(data) // (channels * width)} of {frames} samples")
    levels = _levels(np.frombuffer(data, np.uint8), width).reshape(-1, channels)
    return torch.from_numpy(levels.mean(1).astype(np.float32)), rate


def write_wav(file: Path, sound: Tensor, sample_rate: int) -> None:
    """Writes a sound (S,) or (1, S) to a WAV file of 16 bits; see `wav_bytes`."""
    file.write_bytes(wav_bytes(sound, sample_rate))


def wav_bytes(sound: Tensor, sample_rate: int) -> bytes:
    """A sound (S,) or (1, S) as a WAV file of 16 bits; what is outside [-1, 1] is clipped."""
    levels = (sound.detach().reshape(-1).double().cpu() * 32768).round().clamp(-32768, 32767)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, sample_rate, len(levels), "NONE", ""))
        writer.writeframes(levels.numpy().astype("<i2").tobytes())
    return file.getvalue()


def split_sounds(
    where: Where,
    length: int,
    sample_rate: int,
    *,
    resample: bool = False,
    shares: Sequence[float] = SHARES,
    at_least: int = 1,
    keep_bytes: int = KEEP_BYTES,
) -> tuple[Pieces, Pieces, Pieces]:
    """The (train, validation, test) pieces of a folder's WAV files, float32 (1, length) each, read when asked for.

    The splits are by file, by a hash of its name; pieces follow each other without overlap, and what is left at the end
    is dropped. Files that cannot be read or are too short are left out with the reason.

    Args:
        where: a folder (with all folders in it) or the files.
        length: of a piece, in samples.
        sample_rate: samples per second that the sound must have.
        resample: whether sound at another rate is brought to that one.
        shares, at_least, keep_bytes: see `pictures.split_pictures`.

    Raises:
        DataError: the folder does not exist, a file has another rate, or a split has too few files.
        ToolMissing: scipy is needed to resample, and is not installed.
    """
    cut = partial(_cut, length=length, sample_rate=sample_rate, resample=resample)
    found, skipped = look_at(list_files(where), lambda file: len(cut(file)))
    splits = split_found(found, shares)
    check_enough(where, "sounds", splits, skipped, at_least)
    train, validation, test = (Pieces(split, cut, skipped, keep_bytes) for split in splits)
    return train, validation, test


def resampled(sound: Tensor, rate: int, wanted: int) -> Tensor:
    """A sound (S,) at another number of samples per second, by a polyphase filter.

    Raises:
        ToolMissing: scipy is not installed.
    """
    try:
        from scipy.signal import resample_poly
    except ModuleNotFoundError as error:
        raise ToolMissing("scipy, which resamples sounds,", "examples") from error
    shared = math.gcd(rate, wanted)
    found = resample_poly(sound.double().numpy(), wanted // shared, rate // shared)
    return torch.from_numpy(found.astype(np.float32))


def _cut(file: Path, length: int, sample_rate: int, resample: bool) -> Tensor:
    """All pieces of a file: (pieces, 1, length)."""
    sound, rate = read_wav(file)
    if rate != sample_rate and not resample:
        raise DataError(
            f"{file} has {rate} samples a second, and {sample_rate} are needed; "
            f"convert it (ffmpeg -i IN -ar {sample_rate} OUT.wav) or ask for resample=True"
        )
    sound = sound if rate == sample_rate else resampled(sound, rate, sample_rate)
    count = len(sound) // length
    if not count:
        raise NotUsable(f"{len(sound) / sample_rate:.3g} s of sound; {length / sample_rate:.3g} s are needed")
    return sound[: count * length].reshape(count, 1, length)


def _plain(data: bytes) -> bytes:
    """The file with the extensible form of its header, which not every reader knows, marked as what it stands for."""
    at = data.find(b"fmt ")
    tag, true = data[at + 8 : at + 10], data[at + 32 : at + 34]
    return data[: at + 8] + true + data[at + 10 :] if at > 0 and tag == _EXTENSIBLE and true == _PCM else data


def _levels(data: np.ndarray, width: int) -> np.ndarray:
    """Samples of `width` bytes as float64 in [-1, 1)."""
    if width == 1:  # the one width without a sign
        return (data.astype(np.float64) - 128) / 128
    words = np.zeros((len(data) // width, 4), np.uint8)
    words[:, 4 - width :] = data.reshape(-1, width)
    return words.view("<i4")[:, 0] / 2.0**31
