"""Small networks to start a student from, for `student.entry`: published mobile generators and denoisers."""

from compress.students.conditioned import ClassifierFree, Unconditioned, WithCondition, WithGuide
from compress.students.denoiser_unet import DenoiserUnet
from compress.students.equilibrium import Equilibrium
from compress.students.fastgan import FastGan
from compress.students.imdn import Imdn
from compress.students.ladagan import LadaGan
from compress.students.mobile_stylegan import MobileStyleGan
from compress.students.parallel_wavegan import ParallelWaveGan

__all__ = [
    "ClassifierFree", "DenoiserUnet", "Equilibrium", "FastGan", "Imdn", "LadaGan", "MobileStyleGan", "ParallelWaveGan",
    "Unconditioned", "WithCondition", "WithGuide",
]  # fmt: skip
