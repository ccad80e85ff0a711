"""Distillation of generators: one method, one file, on the slots of `base`."""

from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.distill.generator.dcd import Dcd
from compress.distill.generator.e2gan import E2gan
from compress.distill.generator.fastgan import FastGan
from compress.distill.generator.fidelity import Fidelity
from compress.distill.generator.imitate import Imitate
from compress.distill.generator.isr_kd import IsrKd
from compress.distill.generator.mfagan import Mfagan
from compress.distill.generator.mobile_stylegan import MobileStyleGan
from compress.distill.generator.parallel_wavegan import ParallelWaveGan
from compress.distill.generator.stylegan_edit import StyleGanEdit
from compress.distill.generator.talking_face import TalkingFace
from compress.distill.generator.ugc import Ugc

METHODS: dict[str, type[GeneratorMethod]] = {
    "imitate": Imitate,
    "dcd": Dcd,
    "e2gan": E2gan,
    "fidelity": Fidelity,
    "isr_kd": IsrKd,
    "mfagan": Mfagan,
    "talking_face": TalkingFace,
    "ugc": Ugc,
    "fastgan": FastGan,
    "mobile_stylegan": MobileStyleGan,
    "parallel_wavegan": ParallelWaveGan,
    "stylegan_edit": StyleGanEdit,
}

__all__ = ["METHODS", "GeneratorMethod", "Imitate", "Options", "Terms"]
