"""What a teacher of each kind is: its data, loss, quality metric and samples to look at."""

from compress.tasks.base import Batch, Predict, Sample, Split, Task
from compress.tasks.classification import Classification

__all__ = ["Batch", "Classification", "Predict", "Sample", "Split", "Task"]
