"""Quality metrics: what a task measures a model by."""

from compress.metrics.accuracy import count_top1
from compress.metrics.backbones import lpips_features
from compress.metrics.bootstrap import bootstrap_interval, bootstrap_of, half_sample_interval, summary
from compress.metrics.coverage import density_coverage, precision_recall
from compress.metrics.frechet import Features, Statistic, figure_name, frechet_distance
from compress.metrics.images import psnr_db, ssim
from compress.metrics.kernel import kernel_distance
from compress.metrics.log_mel import LogMel
from compress.metrics.lpips import Lpips, load_lpips
from compress.metrics.stft import MultiResolutionStft

__all__ = [
    "Features",
    "LogMel",
    "Lpips",
    "MultiResolutionStft",
    "Statistic",
    "bootstrap_interval",
    "bootstrap_of",
    "count_top1",
    "density_coverage",
    "figure_name",
    "frechet_distance",
    "half_sample_interval",
    "kernel_distance",
    "load_lpips",
    "lpips_features",
    "precision_recall",
    "psnr_db",
    "ssim",
    "summary",
]
