"""What an artifact of each scheme must keep: one table, with the reason for each number. A recipe may say otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compress.errors import UnknownName


@dataclass(frozen=True, slots=True)
class Threshold:
    """What an artifact must keep: each limit that is not None.

    `max_relative_error` bounds the largest error over the reference's largest magnitude, over all samples;
    `min_sqnr_db` bounds the SQNR over all samples. `op_sqnr_db` is what one op by itself must keep when it is held
    against the model on the artifact's own inputs: below it, the bisect calls the op diverging.
    """

    max_relative_error: float | None = None
    min_sqnr_db: float | None = None
    op_sqnr_db: float = 30.0


# Everything is held against the model the artifact was made from: the float model, or its own fake-quantized form. So
# what is left is how kernels sum and round, not what quantizing costs.
#
# float32: other kernels, other order of summation: measured 1e-7 to 1e-5 of the range, so 1e-3 is a wrong graph. One op
#   alone keeps 100 to 140 dB; a norm's eps of 1e-3 in place of 1e-5 leaves 66 dB. 80 dB lies between.
# float16: 11 bits of mantissa are 66 dB for one rounding, and each op adds one; sums over many channels lose more.
# 8-bit activations: what is left are roundings that fall the other way: 34 dB on a 60-layer MobileNet, more on smaller
#   nets, 40 to 50 dB for one op. A wrong scale or weight costs tens of dB, so 20 dB over all, 30 dB for one op.
# 16-bit activations: a rounding that falls the other way is 1/65536 of the range; runtimes that compute in float16 or
#   in 32-bit sums of 16-bit products keep 60 dB and more.
# Weight-only (4 bits, palettes): weights are tables, the same in both; activations are float32 or float16. Runtimes may
#   round the activations to 8 bits per row as they go (XNNPACK does): that is 35 to 45 dB.
THRESHOLDS: dict[str, Threshold] = {
    "float32": Threshold(max_relative_error=1e-3, op_sqnr_db=80.0),
    "float16": Threshold(min_sqnr_db=40.0, op_sqnr_db=45.0),
    "w8a8": Threshold(min_sqnr_db=20.0, op_sqnr_db=30.0),
    "w4a8": Threshold(min_sqnr_db=20.0, op_sqnr_db=30.0),
    "w8a16": Threshold(min_sqnr_db=40.0, op_sqnr_db=50.0),
    "w4": Threshold(min_sqnr_db=25.0, op_sqnr_db=30.0),
    "palette4": Threshold(min_sqnr_db=40.0, op_sqnr_db=45.0),
    "palette6": Threshold(min_sqnr_db=40.0, op_sqnr_db=45.0),
}


def threshold_of(scheme: str, **given: float) -> Threshold:
    """The scheme's threshold, with the limits that are given (by their names in Threshold) in place of the table's.

    Raises:
        UnknownName: the table has no such scheme.
    """
    if scheme not in THRESHOLDS:
        raise UnknownName("scheme", scheme, THRESHOLDS)
    return replace(THRESHOLDS[scheme], **given)


def beside_own_noise(threshold: Threshold, own_sqnr_db: float) -> Threshold:
    """The threshold where the quantized model itself is `own_sqnr_db` from the float one: never above that less 3 dB.

    Two roundings of one network, each as far from the float answer and independent of the other, are 3 dB further
    from each other than from it. Where a rounding that falls the other way is carried on and on (deep nets with
    instance norms), runtimes come close to that, and a fixed limit would refuse files that are as good as the model.
    """
    if threshold.min_sqnr_db is None or own_sqnr_db - 3 >= threshold.min_sqnr_db:
        return threshold
    return replace(threshold, min_sqnr_db=own_sqnr_db - 3)
