"""How many bits, where? Post-training and quantization-aware quantization of a folded model.

    prepared = prepare(folded, "w8a8")      # a trainable fake-quantized copy
    calibrate(prepared, batches)            # ranges from data
    ...                                     # optional: train it like any module (quantization-aware training)
    plan = freeze(prepared)                 # every range and scale, as data
    quantized = apply(folded, plan)         # standard quantize/dequantize ops, for every exporter

Where a value is quantized stands in `rules`, a table that every runtime agrees on.
"""

from compress.quantize.calibration import calibrate, freeze, plan
from compress.quantize.network import float_weights, prepare, set_state
from compress.quantize.qdq import apply
from compress.quantize.quant_plan import QuantPlan

__all__ = ["QuantPlan", "apply", "calibrate", "float_weights", "freeze", "plan", "prepare", "set_state"]
