"""A generic reading of Algorithm 1, to check the rules against: it shares no code with `suffice.occlusion`.

The rules stand where models call operators of Python; this stands below, where PyTorch hands each operator to the
machine (`TorchDispatchMode`), and knows a few dozen of these. It reads one image at a time, line by line: compute the
layer, compute M by the same operator on the mask in float64 (lines 5 to 11), and set z to zero where M is off after
every operator (line 14), not only where somebody is about to mix positions. It refuses what it does not know, above all
attention: transformers leave tokens out, of which the paper says nothing.

Two readings of what the paper leaves open are the same as suffice's (see `docs/deactivation.md`): a residual sum is on
where either operand is, and what is added around the image (padding, constants) is on and not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten


class UnreadableError(Exception):
    """The network uses an operator that this reading does not know; the message names it."""


class Marks(NamedTuple):
    """Which positions of a tensor are on, and which are made from the image: float64 of 0 and 1, of its full shape."""

    on: Tensor
    real: Tensor


def algorithm_1(
    model: nn.Module,
    image: Tensor,
    mask: Tensor,
    threshold: float = 0.0,
    padding: Literal["left out", "counted"] = "left out",
) -> Any:
    """What the model returns of one image, (C, H, W), of which only the mask, bool (H, W), is active.

    Of a signal (C, L) or a volume (C, D, H, W) the mask is (L,) or (D, H, W).

    Args:
        padding: whether a convolution counts it in the share that τ is compared with: `counted`, as off, is the paper's
            kernel of 1/(m n) to the letter, under which Theorem 1 fails at a border from some τ on.

    Raises:
        UnreadableError: an operator that this reading does not know.
    """
    on = mask.to(torch.float64).expand(image.shape)[None]
    z = image[None].masked_fill(on == 0, 0.0)
    reading = Reading(threshold, padding == "counted")
    reading.marks[z] = Marks(on, torch.ones_like(on))
    with torch.no_grad(), reading:
        return model(z)


class Reading(TorchDispatchMode):
    """Every operator on a marked tensor: its value, and the marks of its value."""

    def __init__(self, threshold: float, counts_padding: bool = False) -> None:
        super().__init__()
        self.threshold, self.counts_padding = threshold, counts_padding
        self.marks = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        made = [x for x in _flat((*args, *kwargs.values())) if isinstance(x, Tensor) and x in self.marks]
        out = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if not made or name in CREATING:
            return out
        results = [x for x in _flat(out) if isinstance(x, Tensor)]
        if all(self.marks[x] is None for x in made):  # all of it is on, and so is whatever is made of it
            for value in results:
                self.marks[value] = None
            return out
        rule = RULES.get(name.removesuffix("_") if func._schema.is_mutable else name)
        if rule is None:
            raise UnreadableError(name)
        marks = rule(self, func, out, *args, **kwargs)
        for value, mark in zip(results, marks if isinstance(marks, list) else [marks], strict=False):
            if mark.on.shape != value.shape:
                raise UnreadableError(f"{name} of {tuple(mark.on.shape)} to {tuple(value.shape)}")
            self.marks[value] = None if bool((mark.on == 1).all()) and not self.counts_padding else mark
            if name not in MOVING:  # what only moves was zero before
                value.masked_fill_(mark.on == 0, 0.0)
        return out

    def of(self, x: Tensor) -> Marks:
        """The marks of an operand: one that was not made from the image is on, and not real."""
        marks = self.marks.get(x)
        ones = torch.ones(x.shape, dtype=torch.float64) if marks is None else marks.on
        return marks or Marks(ones, ones if x in self.marks else 1 - ones)

    def counted(self, marks: Marks, count: Callable[[Tensor], Tensor]) -> Marks:
        """On where more than τ of what is real is on, by a count of either; where nothing is real: on, and not real."""
        kept, there = count(marks.on * marks.real), count(marks.real)
        nothing = there == 0
        on = kept / there.masked_fill(nothing, 1.0) > self.threshold
        return Marks((on | nothing).double(), (~nothing).double())


def _flat(items: Any) -> list[Any]:
    if isinstance(items, (list, tuple)):
        return [item for some in items for item in _flat(some)]
    return [items]


# What becomes of the marks


def same(self: Reading, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> Marks:
    """Position by position."""
    return self.of(x)


def moved(self: Reading, func: Any, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The marks go where the values go."""
    if "view" in str(func):  # the marks may lie in memory otherwise than the values
        func = aten.reshape
    on, real = (_flat(func(part, *args, **kwargs)) for part in self.of(x))
    return [Marks(*pair) for pair in zip(on, real, strict=True)]


def joined(self: Reading, func: Any, out: Tensor, a: Any, b: Any, *args: Any, **kwargs: Any) -> Marks:
    """A sum is on where either is, a product where both are; what is smaller is broadcast, and changes nothing."""
    made = [x for x in (a, b) if isinstance(x, Tensor) and x in self.marks]
    full = [x for x in made if x.numel() == out.numel()]
    if not full:
        raise UnreadableError(f"{func} of a masked tensor with a larger one")
    if len(full) == 1:
        return self.of(full[0])
    first, second = map(self.of, full)
    if "mul" in str(func):
        return Marks(first.on * second.on, _real(first, second, first.on * second.on))
    if not any(word in str(func) for word in ("add", "sub", "maximum")):
        raise UnreadableError(f"{func} of two masked tensors")
    on = torch.maximum(first.on, second.on)
    return Marks(on, _real(first, second, on))


def _real(a: Marks, b: Marks, on: Tensor) -> Tensor:
    """Made from the image where one of the two is on and made from it; what is off counts as real."""
    return torch.maximum(torch.maximum(a.on * a.real, b.on * b.real), 1 - on)


def convolved(
    self: Reading, func: Any, out: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any,
    dilation: Any, transposed: bool, output_padding: Any, groups: int,
) -> Marks:  # fmt: skip
    """Lines 5 to 7: the same convolution with a kernel of ones, of what is on by what is real."""
    ones = torch.ones(weight.shape, dtype=torch.float64)
    how = (None, stride, padding, dilation, transposed, output_padding, groups)
    if self.counts_padding and not transposed:
        on = aten.convolution(self.of(x).on, ones / ones[0].numel(), *how) > self.threshold + 1e-12
        return Marks(on.double(), torch.ones(out.shape, dtype=torch.float64))
    return self.counted(self.of(x), lambda part: aten.convolution(part, ones, *how))


def averaged(self: Reading, func: Any, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Marks:
    """An average of ones and zeros, also in windows, is a count."""
    return self.counted(self.of(x), lambda part: func(part, *args, **kwargs))


def pooled(
    self: Reading, func: Any, out: Tensor, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor: Any = None,
) -> Marks:  # fmt: skip
    """Average pooling: the sum over each window."""
    return self.counted(self.of(x), lambda part: summed(func, part, kernel, stride, padding, ceil_mode))


def summed(func: Any, part: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool) -> Tensor:
    """The sum over the windows of a pool of two or three dimensions."""
    pool = aten.avg_pool3d if "3d" in str(func) else aten.avg_pool2d
    return pool(part, kernel, stride, padding, ceil_mode, True, 1)


def max_pooled(
    self: Reading, func: Any, out: Any, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> Marks:  # fmt: skip
    """Max pooling reads the windows that average pooling would."""
    if set(_flat(dilation)) != {1}:
        raise UnreadableError("max pooling with dilation")
    return self.counted(self.of(x), lambda part: summed(func, part, kernel, stride, padding, ceil_mode))


def adaptively_max_pooled(self: Reading, func: Any, out: Any, x: Tensor, size: Any) -> Marks:
    """As adaptive average pooling."""
    return self.counted(self.of(x), lambda part: aten._adaptive_avg_pool2d(part, size))


def reduced(self: Reading, func: Any, out: Tensor, x: Tensor, dims: Any = (), keepdim: bool = False, **_: Any) -> Marks:
    """A mean, sum or maximum over whole dimensions."""
    over = list(range(x.ndim)) if dims is None or dims == [] else dims
    return self.counted(self.of(x), lambda part: part.sum(over, keepdim=keepdim))


def resized(self: Reading, func: Any, out: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Marks:
    """What has any weight is read; weights are no counts, so this is for τ = 0."""
    if self.threshold and "nearest" not in str(func):
        raise UnreadableError(f"{func} at a threshold above 0")
    return self.counted(self.of(x), lambda part: func(part, *args, **kwargs))


def padded(self: Reading, func: Any, out: Tensor, x: Tensor, amounts: Any, value: Any = 0) -> Marks:
    """What is put around is on, and not real."""
    on, real = self.of(x)
    return Marks(aten.constant_pad_nd(on, amounts, 1.0), aten.constant_pad_nd(real, amounts, 0.0))


def beside(self: Reading, func: Any, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> Marks:
    """Each part keeps its marks; one that had none is on."""
    on, real = zip(*map(self.of, parts), strict=True)
    return Marks(func(list(on), dim), func(list(real), dim))


def times_matrix(self: Reading, func: Any, out: Tensor, x: Tensor, matrix: Tensor) -> Marks:
    """A linear layer reads all of the last dimension; one row has no positions left, and is no checkpoint."""
    if matrix in self.marks:
        raise UnreadableError(f"{func} of two masked tensors")
    if len(x) == 1:
        return Marks(torch.ones(out.shape, dtype=torch.float64), torch.ones(out.shape, dtype=torch.float64))
    return self.counted(self.of(x), lambda part: part.sum(-1, keepdim=True).expand(out.shape))


def plus_times_matrix(
    self: Reading, func: Any, out: Tensor, bias: Tensor, x: Tensor, matrix: Tensor, **_: Any
) -> Marks:
    """The same with a bias."""
    return times_matrix(self, func, out, x, matrix)


def normalised(self: Reading, func: Any, out: Any, x: Tensor, *args: Any) -> Marks:
    """A norm with statistics of its input, zeros included: the shape and the mask stay."""
    return self.of(x)


POINTWISE = (
    *("relu", "relu6", "hardtanh", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid", "tanh", "leaky_relu", "elu"),
    *("mish", "clamp", "clamp_min", "clamp_max", "neg", "abs", "clone", "_to_copy", "detach", "dropout", "softplus"),
    *("pow", "sqrt", "rsqrt", "exp", "log", "erf", "prelu", "celu", "selu"),
)
MOVING = (
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "split", "unbind"),
    *("split_with_sizes", "unsqueeze", "squeeze", "alias", "flip", "roll", "pixel_shuffle", "pixel_unshuffle"),
    *("reflection_pad2d", "replication_pad2d", "upsample_nearest2d", "repeat", "channel_shuffle"),
)
CREATING = {"ones_like", "zeros_like", "empty_like", "new_zeros", "new_ones", "new_empty", "new_full", "full_like"}
RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(POINTWISE, same),
    **dict.fromkeys(MOVING, moved),
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum", "rsub"), joined),
    **dict.fromkeys(("native_batch_norm", "native_layer_norm", "native_group_norm"), normalised),
    **dict.fromkeys(("mean", "sum", "amax"), reduced),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_linear1d"), resized),
    "_adaptive_avg_pool2d": averaged,
    "_adaptive_avg_pool3d": averaged,
    "adaptive_max_pool2d": adaptively_max_pooled,
    "avg_pool2d": pooled,
    "avg_pool3d": pooled,
    "max_pool2d_with_indices": max_pooled,
    "max_pool3d_with_indices": max_pooled,
    "convolution": convolved,
    "constant_pad_nd": padded,
    "cat": beside,
    "stack": beside,
    "mm": times_matrix,
    "addmm": plus_times_matrix,
}
