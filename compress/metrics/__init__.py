"""Quality metrics: what a task measures a model by."""

from compress.metrics.accuracy import count_top1
from compress.metrics.frechet import Features, frechet_distance
from compress.metrics.images import psnr_db, ssim
from compress.metrics.log_mel import LogMel
from compress.metrics.lpips import Lpips

__all__ = ["Features", "LogMel", "Lpips", "count_top1", "frechet_distance", "psnr_db", "ssim"]
