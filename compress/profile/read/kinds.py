"""What kind of op a name stands for: one table for all readers, with the kinds that published op tables count as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_KINDS = {
    kind: names.split()
    for kind, names in {
        # Views, casts and copies: a converted graph has none of them at run time, or they move nothing.
        "reshape": "view reshape flatten unflatten unsqueeze squeeze contiguous clone detach alias expand expand_as "
        "view_as reshape_as unsafe_view type_as to to_copy cast identity dropout feature_dropout alpha_dropout "
        "lift_fresh_copy lift_fresh lift resolve_conj resolve_neg positive ravel atleast_1d atleast_2d atleast_3d "
        "broadcast_to broadcast_tensors meshgrid native_dropout real conj_physical "
        "to_dim_order clone_dim_order",
        "move": "permute transpose t select slice narrow chunk split split_with_sizes unsafe_split "
        "unsafe_split_with_sizes tensor_split unsafe_chunk unbind movedim moveaxis swapaxes swapdims numpy_t "
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle repeat repeat_interleave tile roll flip "
        "im2col col2im unfold diagonal rot90 as_strided slice_scatter select_scatter space_to_batch batch_to_space",
        "activation": "relu relu6 hardtanh clamp clip leaky_relu prelu prelu_kernel rrelu "
        "threshold hardshrink softshrink sigmoid tanh gelu silu hardswish hardsigmoid elu selu celu softplus mish "
        "log_sigmoid softsign erf exp expm1 log log1p log2 log10 sin cos tan sqrt rsqrt pow square reciprocal glu",
        "softmax": "softmax safe_softmax log_softmax softmin",
        "elementwise": "add sub mul div rsub true_divide floor_divide addcmul addcdiv lerp neg abs sign maximum "
        "minimum clamp_min clamp_max squared_difference where masked_fill eq ne gt lt ge le logical_and logical_or "
        "logical_not logical_xor bitwise_and bitwise_or bitwise_not bitwise_xor and or xor isnan isinf isfinite floor "
        "ceil round trunc frac remainder fmod nan_to_num heaviside",
        "norm": "batch_norm native_batch_norm native_batch_norm_legit_no_training cudnn_batch_norm instance_norm "
        "group_norm native_group_norm layer_norm native_layer_norm rms_norm fused_rms_norm local_response_norm "
        "normalize",
        "reduce": "mean sum prod amax amin max min var std var_mean std_mean norm linalg_vector_norm frobenius_norm "
        "logsumexp argmax argmin cumsum any all adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
        "adaptive_max_pool1d adaptive_max_pool2d",
        "pool": "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices avg_pool1d "
        "avg_pool2d avg_pool3d",
        "resize": "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest_exact2d upsample_linear1d "
        "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d upsample_bilinear2d_aa upsample_bicubic2d_aa "
        "upsample grid_sampler grid_sampler_2d grid_sampler_3d",
        "concat": "cat stack concat concatenate hstack vstack",
        "pad": "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d",
        "gather": "embedding index index_select gather take_along_dim",
    }.items()
}
KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names}
# The number with which an op gives what it was given.
NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1, "true_divide": 1}


def turned_product(weight: Sequence[int], output: Sequence[int]) -> dict[str, Any]:
    """What a product of a matrix of weights with an input behind it is as a layer: its shapes and channels.

    The rows of the weights are the features it gives, the columns of its result the positions it gives them for.
    """
    features, inner = (weight[-2] if len(weight) > 1 else 1), weight[-1]
    rows = math.prod(output) // features
    return {"input_shapes": ((rows, inner),), "output_shape": (rows, features), "channels": (inner, features)}


def pairs(text: str) -> dict[str, str]:
    """What a format calls its ops, with their names here: "Relu:relu Clip:clamp" as a table."""
    return dict(entry.split(":") for entry in text.split())


def plain(name: str) -> str:
    """An op's name without what does not matter here: marks of in-place, copying and inner forms."""
    return name.lower().strip("_").removesuffix("_copy")


def kind_of(name: str) -> str:
    """The kind of the op of that name; "other" where none is known."""
    return KIND_OF.get(plain(name), "other")
