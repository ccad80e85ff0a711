"""A DCGAN of eyes in eight kinds, compressed without a single image: the teacher's own pictures are all there is.

Figures of sets are taken on AlexNet's features (never called FID); the kind that a picture shows is judged by a small
classifier that is trained here on the teacher's pictures, and on none of those that it judges.
"""

from compress.metrics import lpips_features
from compress.tasks import Generation
from examples.eyes.classifier import train_classifier
from examples.eyes.model import CLASSES, LATENT, Generator, teacher
from examples.lpips_weights import alex, vgg

__all__ = ["Generator", "task", "teacher"]


def task(path: str = "", train_size: int = 8_000, test_size: int = 600) -> Generation:
    """Latents with classes, new ones in every epoch; `path` is an unpacked PyPI package omniart-eye-generator."""
    return Generation.from_noise(
        LATENT,
        classes=len(CLASSES),
        train_size=train_size,
        test_size=test_size,
        batch_size=16,
        fresh=True,
        quality="lpips",
        perceptual=alex(),
        features=lpips_features(alex()),
        classifier=train_classifier(teacher(path)),
        teaches=vgg(),
    )
