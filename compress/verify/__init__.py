"""Does the artifact still compute the same thing, well enough? Run it in its real runtime and compare."""

from compress.verify.gate import THRESHOLDS, Threshold, Verification, predictor, verify_artifact
from compress.verify.parity import Parity, compare

__all__ = ["THRESHOLDS", "Parity", "Threshold", "Verification", "compare", "predictor", "verify_artifact"]
