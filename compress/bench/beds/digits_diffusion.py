"""A diffusion model of scanned digits to distil: a small denoiser in Karras et al.'s form, and what judges samples.

One half of scikit-learn's digits trains teacher and students. The other half trains the classifier whose features the
Fréchet distance is taken on, and is what samples are judged by.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from compress.bench.beds import digits as real
from compress.bench.beds.seeds import seeded
from compress.bench.train import learn
from compress.diffusion import Preconditioning, SamplerTable, heun, karras, karras_levels, table_of
from compress.metrics import Features
from compress.students import DenoiserUnet
from compress.tasks import Diffusion

DATA_STD, LOWEST, HIGHEST = 0.75, 0.02, 20.0
WIDTH = 16
WEIGHTS = Path(__file__).parent / "digits_denoiser.safetensors"


@cache
def halves() -> tuple[real.Split, real.Split]:
    """(to learn from, to judge by): 898 and 899 digits."""
    train, held_out = real.digits()
    images, classes = (torch.cat([getattr(part, name) for part in (train, held_out)]) for name in ("images", "classes"))
    half = len(images) // 2
    return real.Split(images[:half], classes[:half]), real.Split(images[half:], classes[half:])


@cache
def judge() -> tuple[real.Classifier, float]:
    """A classifier of the second half, and the scale that gives its features a mean variance of 1 there."""
    _, judging = halves()
    classifier = real.trained(judging, seed=2)
    return classifier, float(classifier.features(judging.images).var(0).mean().sqrt())


def features(pictures: Tensor) -> Tensor:
    """Rows (N, 32) of pictures, RGB in [0, 1]."""
    classifier, scale = judge()
    return classifier.features(pictures[:, :1] * 2 - 1) / scale


def logits(pictures: Tensor) -> Tensor:
    """What the judge sees in pictures, RGB in [0, 1]: (N, 10)."""
    return judge()[0](pictures[:, :1] * 2 - 1)


def task(sampler: SamplerTable, preconditioning: Preconditioning | None = None, count: int = 1_000) -> Diffusion:
    """The task of a student with a sampler; the teacher's is 18 Heun steps."""
    learning, judging = halves()
    means = karras(DATA_STD)
    return Diffusion(
        learning.images,
        torch.cat([judging.images, judging.images]),  # both splits judge by all of them: nothing is chosen by these
        preconditioning=preconditioning or means,
        teacher_preconditioning=means,
        sampler=sampler,
        teacher_sampler=table_of("18 Heun steps", heun, karras_levels(18, LOWEST, HIGHEST), means),
        features=Features("a digit classifier's features", features),
        classifier=logits,
        conditions=F.one_hot(learning.classes, 10).float(),
        count=count,
    )


def network(width: int = WIDTH, until: bool = False) -> DenoiserUnet:
    """An untrained denoiser."""
    return DenoiserUnet(channels=1, width=width, multipliers=(1, 2), conditions=10, until=until)


@cache
def teacher() -> nn.Module:
    """The trained denoiser; see `train_teacher` for how its weights were made."""
    made = network()
    made.load_state_dict(load_file(WEIGHTS))
    return made.eval().requires_grad_(False)


def train_teacher(epochs: int = 400) -> nn.Module:
    """The denoiser after training by Karras et al.'s loss, as the weights that are kept were: five minutes."""
    means = karras(DATA_STD)
    with seeded(0):
        made = network()
    return learn(made, task(table_of("", heun, karras_levels(18, LOWEST, HIGHEST), means)), seed=0, epochs=epochs)


if __name__ == "__main__":  # python -m compress.bench.beds.digits_diffusion: makes the weights again
    save_file(train_teacher().state_dict(), WEIGHTS)
