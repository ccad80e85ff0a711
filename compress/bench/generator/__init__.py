"""The cases of the generator family: one file per method, each with its `CASES`."""

from __future__ import annotations

from compress.bench.case import Case
from compress.bench.generator import (
    dcd,
    diffusion_gan,
    e2gan,
    fastgan,
    fidelity,
    imdn,
    imitate,
    isr_kd,
    ladagan,
    mfagan,
    mobile_stylegan,
    parallel_wavegan,
    patch_digits,
    projected_gan,
    r3gan,
    stylegan_edit,
    talking_face,
    ugc,
    wgan,
)

# A line per file, in the table's order.
FILES: dict[str, tuple[Case, ...]] = {
    "imitate": imitate.CASES,
    "r3gan": r3gan.CASES,
    "wgan": wgan.CASES,
    "patch_digits": patch_digits.CASES,
    "diffusion_gan": diffusion_gan.CASES,
    "projected_gan": projected_gan.CASES,
    "imdn": imdn.CASES,
    "dcd": dcd.CASES,
    "e2gan": e2gan.CASES,
    "fidelity": fidelity.CASES,
    "isr_kd": isr_kd.CASES,
    "mfagan": mfagan.CASES,
    "talking_face": talking_face.CASES,
    "ugc": ugc.CASES,
    "fastgan": fastgan.CASES,
    "ladagan": ladagan.CASES,
    "mobile_stylegan": mobile_stylegan.CASES,
    "parallel_wavegan": parallel_wavegan.CASES,
    "stylegan_edit": stylegan_edit.CASES,
}
CASES = tuple(case for cases in FILES.values() for case in cases)
