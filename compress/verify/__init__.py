"""Does the artifact still compute the same thing, well enough? Run it in its real runtime and compare."""

from compress.verify.bisect import bisect, explain
from compress.verify.gate import Verification, predictor, verify_artifact
from compress.verify.golden import GOLDEN_SAMPLES, GoldenCheck, check_golden, write_golden
from compress.verify.parity import Parity, compare
from compress.verify.thresholds import THRESHOLDS, Threshold, beside_own_noise, threshold_of
from compress.verify.verdict import Suspect, Verdict

__all__ = [
    "GOLDEN_SAMPLES",
    "THRESHOLDS",
    "GoldenCheck",
    "Parity",
    "Suspect",
    "Threshold",
    "Verdict",
    "Verification",
    "beside_own_noise",
    "bisect",
    "check_golden",
    "compare",
    "explain",
    "predictor",
    "threshold_of",
    "verify_artifact",
    "write_golden",
]
