"""IMDN: what its network gains over a bicubic resize, and its contrast attention over one that sees means only."""

from __future__ import annotations

from functools import cache

from compress.bench.beds import photos
from compress.bench.beds.seeds import seeded
from compress.bench.case import Case
from compress.bench.train import learn
from compress.students import Imdn
from compress.students.imdn import Attention

_EPOCHS = 40


@cache
def _psnr_db(attention: Attention, seed: int) -> float:
    with seeded(seed):
        model = Imdn(channels=16, blocks=3, scale=2, attention=attention, anchor=True)
    return photos.psnr_of(learn(model, photos.enlarging(), seed=seed, epochs=_EPOCHS))


_NET = f"IMDN (3 blocks of 16 channels) doubles the side of photo crops, {_EPOCHS} epochs of L1"
CASES = tuple(
    Case(
        method="imdn",
        name=name,
        question=f"{_NET}: {against}.",
        metric="PSNR of test crops",
        unit="dB",
        higher_is_better=True,
        card=card,
        run=run,
    )
    for name, against, card, run in (
        (
            "network",
            "against a bicubic resize, which learns nothing",
            "at least 1 dB more.",
            lambda seed: (_psnr_db("contrast", seed), photos.psnr_of(photos.bicubic)),
        ),
        (
            "contrast",
            "contrast attention, against attention that sees means only",
            "contrast attention is ahead.",
            lambda seed: (_psnr_db("contrast", seed), _psnr_db("mean", seed)),
        ),
    )
)
