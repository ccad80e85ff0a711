"""What a teacher of each kind is: its data, loss, quality metric and samples to look at."""

from compress.tasks.audio import split_sounds, write_wav
from compress.tasks.base import Batch, Companion, Predict, Reference, Sample, Split, Task, Use
from compress.tasks.classification import Classification
from compress.tasks.degrade import Bicubic, Blind
from compress.tasks.diffusion import Diffusion, Noised
from compress.tasks.domains import PairedTranslation, UnpairedTranslation
from compress.tasks.generation import Generation
from compress.tasks.imitation import Imitation
from compress.tasks.pairs import split_pairs
from compress.tasks.pictures import split_pictures
from compress.tasks.prompts import Prompts
from compress.tasks.super_resolution import SuperResolution
from compress.tasks.translation import ImageToImage
from compress.tasks.vocoder import Vocoder

__all__ = [
    "Batch", "Bicubic", "Blind", "Classification", "Companion", "Diffusion", "Generation", "ImageToImage", "Imitation",
    "Noised", "PairedTranslation", "Predict", "Prompts", "Reference", "Sample", "Split", "SuperResolution", "Task",
    "UnpairedTranslation", "Use", "Vocoder", "split_pairs", "split_pictures", "split_sounds", "write_wav",
]  # fmt: skip
