"""Diffusion models as maths: noise schedules, what a network's output means, samplers and their constants."""

from compress.diffusion.denoiser import Denoiser, guided
from compress.diffusion.preconditioning import Preconditioning, karras, per_sample, preconditioning_of
from compress.diffusion.samplers import dpmpp, euler, euler_free_start, heun, renoise, table_of, table_of_scheduler
from compress.diffusion.schedules import Cosine, Discrete, Edm, Flow, Schedule, Trig, karras_levels
from compress.diffusion.tables import Row, SamplerTable

__all__ = [
    "Cosine",
    "Denoiser",
    "Discrete",
    "Edm",
    "Flow",
    "Preconditioning",
    "Row",
    "SamplerTable",
    "Schedule",
    "Trig",
    "dpmpp",
    "euler",
    "euler_free_start",
    "guided",
    "heun",
    "karras",
    "karras_levels",
    "per_sample",
    "preconditioning_of",
    "renoise",
    "table_of",
    "table_of_scheduler",
]
