"""What a teacher of each kind is: its data, loss, quality metric and samples to look at."""

from compress.tasks.base import Batch, Predict, Sample, Split, Task
from compress.tasks.classification import Classification
from compress.tasks.generation import Generation
from compress.tasks.imitation import Imitation
from compress.tasks.translation import ImageToImage
from compress.tasks.vocoder import Vocoder

__all__ = [
    "Batch", "Classification", "Generation", "ImageToImage", "Imitation", "Predict", "Sample", "Split", "Task",
    "Vocoder",
]  # fmt: skip
