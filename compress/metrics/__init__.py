"""Quality metrics: what a task measures a model by."""

from compress.metrics.accuracy import count_top1

__all__ = ["count_top1"]
