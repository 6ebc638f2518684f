"""What operators torch has, by family: the one place that names them.

A family is as many operators as no rule tells apart: how a mask passes through one (`suffice.occlusion.rules`) and how
channels pass through it (`suffice.circuits.rules`) is how they pass through all. Each name stands for the function and
the tensor method of that name alike.

>>> FAMILIES["softmax"], torch.softmax in operators_of("softmax"), torch.Tensor.softmax in operators_of("softmax")
(('softmax', 'log_softmax'), True, True)
>>> operator_name(torch.Tensor.T.__get__), operator_name(torch.relu)
('T', 'relu')
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_NAMES = {
    # what mixes channels, or positions, with weights
    "convolution": "conv1d conv2d conv3d",
    "transposed convolution": "conv_transpose1d conv_transpose2d conv_transpose3d",
    "linear": "linear",
    "product": "matmul bmm mm __matmul__ __rmatmul__",
    "product and sum": "baddbmm addmm",
    "contraction": "einsum",
    "softmax": "softmax log_softmax",
    "attention": "scaled_dot_product_attention",
    "packed attention": "multi_head_attention_forward",
    # what joins two activations or more, element by element
    "addition": "add add_ sub sub_ subtract rsub __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__",
    "larger of two": "maximum minimum fmax fmin",
    "multiplication": "mul mul_ multiply __mul__ __rmul__ __imul__",
    "division": (
        "div div_ divide true_divide __truediv__ __rtruediv__ __itruediv__ __rdiv__ floor_divide __floordiv__"
    ),
    "function of two": "atan2 remainder fmod",
    "logic of two": "logical_and logical_or __and__ __or__",
    "comparison": "eq ne gt lt ge le __eq__ __ne__ __gt__ __lt__ __ge__ __le__",
    "multiplication and sum": "addcmul addcmul_",
    "interpolation of two": "lerp",
    "choice": "where",
    "masked fill": "masked_fill masked_fill_",
    "concatenation": "cat concat concatenate",
    "stack": "stack",
    # each element for itself
    "function": (
        "hardtanh hardtanh_ sigmoid sigmoid_ logsigmoid hardsigmoid hardsigmoid_ softplus hardshrink softshrink "
        "tanhshrink threshold threshold_ exp exp_ expm1 sqrt sqrt_ sin cos sinh cosh atan floor ceil round clamp "
        "clamp_ clamp_min clamp_min_ clamp_max clip clip_ relu6_ logical_not bitwise_not __invert__"
    ),
    "function that keeps zero": (
        "relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu elu elu_ celu selu selu_ gelu silu silu_ mish mish_ "
        "hardswish hardswish_ tanh tanh_ softsign abs neg square sign erf __neg__"
    ),
    "function that may be infinite at zero": "log log1p log2 rsqrt reciprocal pow __pow__ __rpow__",
    "number test": "isnan isfinite isinf",
    "dropout": "dropout dropout1d dropout2d dropout3d dropout_ alpha_dropout feature_alpha_dropout",
    "copy": ("contiguous clone to type type_as float double half bfloat16 cpu cuda detach requires_grad_ nan_to_num"),
    "batch norm": "batch_norm",
    # what takes an activation's shape, type or place alone
    "creation": (
        "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
        "new_tensor"
    ),
    "property": (
        "is_contiguous stride is_complex storage_offset element_size get_device nelement is_inference is_leaf layout "
        "is_mps"
    ),
    # what reads windows, or some positions for each
    "average pool": "avg_pool1d avg_pool2d avg_pool3d",
    "max pool": "max_pool1d max_pool2d max_pool3d",
    "adaptive average pool": "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    "adaptive max pool": "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    "power pool": "lp_pool1d lp_pool2d",
    "resize": "interpolate upsample",
    "sampling": "grid_sample",
    # what reduces dimensions, or normalises over them
    "mean": "mean sum nanmean",
    "extreme": "amax amin",
    "extreme with its place": "max min",
    "statistic": "std var norm vector_norm logsumexp prod any all count_nonzero",
    "two statistics": "var_mean std_mean",
    "norm over the last dimensions": "layer_norm rms_norm",
    "norm over groups": "group_norm",
    "norm over positions": "instance_norm",
    "norm over neighbouring channels": "local_response_norm",
    "norm over chosen dimensions": "normalize",
    # what moves positions without computing
    "reshape": "view reshape flatten unflatten view_as reshape_as",
    "view": (
        "permute transpose swapaxes swapdims movedim moveaxis t T mT H mH adjoint unsqueeze squeeze narrow select "
        "__getitem__ split split_with_sizes chunk tensor_split unbind hsplit vsplit diagonal expand expand_as "
        "index_select repeat tile repeat_interleave flip rot90"
    ),
    "roll": "roll",
    "padding": "pad",
    "shuffle": "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle",
    "sliding windows": "unfold",
    "sum of sliding windows": "fold",
    "broadcast": "broadcast_tensors",
    "write": "__setitem__",
    # what depends on the values of other positions, or leaves tensors
    "place of the extreme": "argmax argmin",
    "order": "median cumsum cumprod topk sort argsort",
    "lookup": "gather take_along_dim scatter index_add",
    "number": "item tolist numpy __bool__ __float__ __int__",
}

FAMILIES: dict[str, tuple[str, ...]] = {family: tuple(names.split()) for family, names in _NAMES.items()}
"""The names of each family's operators. No name stands in two."""

_NAMESPACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)


def operators_of(*families: str) -> list[Any]:
    """The functions, tensor methods and getters of properties of some families, as `__torch_function__` gets them.

    Args:
        families: keys of `FAMILIES`.

    Raises:
        KeyError: a family that does not exist.
        AttributeError: a name that torch has no operator of.
    """
    return [operator for family in families for name in FAMILIES[family] for operator in _called(name)]


def _called(name: str) -> list[Any]:
    found = [getattr(space, name) for space in _NAMESPACES if hasattr(space, name)]
    operators = [f for f in found if callable(f) or hasattr(f, "__set__")]  # not torch.half, torch.cpu
    if not operators:
        raise AttributeError(f"torch has no operator called {name!r}")
    return [f if callable(f) else f.__get__ for f in operators]  # x.T is a getter


def operator_name(operator: Any) -> str:
    """The name of an operator; of a property such as `x.T` the property's."""
    name = getattr(operator, "__name__", str(operator))
    return getattr(operator.__self__, "__name__", name) if name == "__get__" else name
