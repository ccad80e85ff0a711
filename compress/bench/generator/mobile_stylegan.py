"""MobileStyleGAN: do wavelet coefficients at every resolution add anything to the pixels of the picture alone?"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from compress.bench.beds import digits
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import distil
from compress.distill.generator import METHODS
from compress.metrics import psnr_db
from compress.students import MobileStyleGan
from compress.tasks import Generation

LATENT = 16
_EPOCHS, _STEPS = 30, 500


@cache
def digit_teacher() -> nn.Module:
    """The generator of digits that cases distil, trained once and frozen.

    It learned to draw the training digits from their first 16 principal components, brought to unit variance.
    """
    real = digits.digits()[0].images
    centred = real.flatten(1) - real.flatten(1).mean(0)
    _, _, basis = torch.linalg.svd(centred, full_matrices=False)
    codes = centred @ basis[:LATENT].T
    codes = codes / codes.std(0)
    with seeded(0):
        teacher = digits.Generator(LATENT)
        optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-3)
        for _ in range(_STEPS):
            chosen = torch.randint(len(real), (64,))
            loss = F.mse_loss(teacher(codes[chosen]), real[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return teacher.eval().requires_grad_(False)


def _psnr_db(seed: int, method: str, options: dict[str, object]) -> float:
    """How close a student's pictures of the test latents come to the teacher's."""
    task = Generation.from_noise(LATENT, train_size=512, test_size=256, batch_size=64)
    student = distil(
        METHODS[method],
        options,
        digit_teacher(),
        lambda: MobileStyleGan(LATENT, (32, 16), start_px=2, mapping=2, colours=1),
        task,
        seed=seed,
        epochs=_EPOCHS,
    )
    with torch.no_grad():
        pairs = [(student(*batch.inputs), digit_teacher()(*batch.inputs)) for batch in task.batches("test")]
        return float(torch.cat([psnr_db(ours, theirs, 2.0) for ours, theirs in pairs]).mean())


def _run(seed: int) -> tuple[float, float]:
    pixels = {"teacher": {"pixel": 1.0}, "gan": 0.0}
    every = {"teacher": {"perceptual": 0.0}, "gan": 0.0}
    return _psnr_db(seed, "mobile_stylegan", every), _psnr_db(seed, "imitate", pixels)


CASES = (
    Case(
        method="mobilestylegan",
        name="wavelets",
        question=(
            "A small MobileStyleGAN draws the digits of a plain generator from the same latents: pixels and Haar "
            f"coefficients at every resolution, against L1 of pixels alone; {_EPOCHS} epochs of 512 latents."
        ),
        metric="PSNR against the teacher's digits of other latents",
        unit="dB",
        higher_is_better=True,
        card="nine times fewer operations than StyleGAN2 at comparable quality; the terms' own part is not stated.",
        run=_run,
    ),
)
