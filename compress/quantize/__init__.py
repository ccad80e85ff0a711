"""How many bits, where? Post-training and quantization-aware quantization of a folded model.

    prepared = prepare(folded, "w8a8")      # a trainable fake-quantized copy
    calibrate(prepared, batches)            # ranges from data
    ...                                     # optional: train it like any module (quantization-aware training)
    plan = freeze(prepared)                 # every range and scale, as data
    quantized = apply(folded, plan)         # standard quantize/dequantize ops, for every exporter

Where a value is quantized stands in `rules`, a table that every runtime agrees on. Methods that make it better fit
between those lines:

    on the folded model     equalize, smooth                          the function stays, the ranges get even
    after calibrate         learn_rounding, correct_biases            from calibration data alone
    before training         learn_steps, spread_evenly, learn_points  what training is to learn beside the weights
    which layers?           sensitivities, choose_kept                mixed precision
"""

from compress.quantize.bias_correction import correct_biases
from compress.quantize.calibration import calibrate, freeze, plan
from compress.quantize.codebook import learn_points, spread_evenly
from compress.quantize.equalize import equalize
from compress.quantize.learned_steps import learn_steps
from compress.quantize.network import float_weights, prepare, set_state
from compress.quantize.qdq import apply
from compress.quantize.quant_plan import QuantPlan
from compress.quantize.rounding import learn_rounding
from compress.quantize.sensitivity import Choice, Sensitivity, choose_kept, sensitivities, weight_bytes
from compress.quantize.smooth import smooth

__all__ = [
    "Choice",
    "QuantPlan",
    "Sensitivity",
    "apply",
    "calibrate",
    "choose_kept",
    "correct_biases",
    "equalize",
    "float_weights",
    "freeze",
    "learn_points",
    "learn_rounding",
    "learn_steps",
    "plan",
    "prepare",
    "sensitivities",
    "set_state",
    "smooth",
    "spread_evenly",
    "weight_bytes",
]
