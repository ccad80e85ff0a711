"""ESRGAN's thick generator, x4 (see examples/parity/esrgan.py), and small students on photographs that none has seen.

Its two published students stand in the table beside ours. Training is with LPIPS on VGG16, judging on AlexNet.
"""

from torch import nn

from compress.tasks import SuperResolution
from compress.tasks.base import Reference
from examples.lpips_weights import alex, vgg
from examples.parity import esrgan
from examples.super_resolution.published import published
from examples.tiles import tiles

SCALE, SIDE = 4, 192


def teacher(path: str = "") -> esrgan.Generator:
    """The published generator; `path` is an unpacked npm package @upscalerjs/esrgan-thick."""
    return esrgan.teacher(SCALE, path)


def task(path: str = "", tiles_each: int = 8, crop: int = 128) -> SuperResolution:
    """Photographs and their bicubic quarters, split by file; `path` is a folder of your own photographs."""
    students: dict[str, nn.Module] = {size: published(size) for size in ("slim", "medium")}
    return SuperResolution(
        *tiles(SIDE, (384, 640), (tiles_each, 2), path),
        scale=SCALE,
        crop=crop,
        batch_size=8,
        perceptual=alex(),
        perceptual_name="LPIPS (AlexNet)",
        teaches=vgg(),
        references={f"published {size} student": Reference.of(model) for size, model in students.items()},
    )
