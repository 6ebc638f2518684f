"""The masked activation, and the table that says how a mask passes through each operator.

Activation-Deactivation carries a mask beside every activation ("AD^(i) = (O^(i), M'_i)", Definition 5 of
*Activation-Deactivation: A General Framework for Robust Post-hoc Explainable AI*). Here the pair is one object that
models take for a tensor; each operator they call on it is looked up in `RULES` and answered by its rule.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Settings(NamedTuple):
    """What one forward pass holds fixed: see `suffice.occlusion.deactivation.deactivated_forward`."""

    threshold: float = 0.0
    add: Literal["union", "intersection"] = "union"
    pooling: Literal["literal", "renormalised"] = "literal"
    some_row_full: bool = False
    """Some image of the batch is kept whole, so its row must come out bit for bit as in a plain forward pass."""


class Mask(NamedTuple):
    """Which positions are active. Both tensors are bool, have the value's rank and broadcast to its shape."""

    on: Tensor
    """True = active. A size of 1 says that the mask does not vary along that dimension."""
    constant: Tensor | None = None
    """True = not made from the image: padding, class tokens. Always on, and never counted (None: no such position)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mask":
        """Do the same to both tensors."""
        return Mask(function(self.on), None if self.constant is None else function(self.constant))


class Activation(Tensor):
    """An activation and its mask; to the model it looks like the activation alone.

    The object holds no data of its own, so an operator that escapes the rules fails loudly in `__torch_dispatch__`
    instead of computing with the mask forgotten.
    """

    value: Tensor
    """The plain activation. What it holds where the mask is off has no meaning, until a checkpoint zeroes it."""
    mask: Mask | None
    """None: all is on, for every image of the batch."""
    settings: Settings
    clean: bool
    """Known to be zero wherever the mask is off."""
    tokens: bool
    """Attention has made tokens of the positions: what is off is left out of averages too, never read as zero."""

    @staticmethod
    def __new__(  # noqa: D102
        cls, value: Tensor, mask: Mask | None, settings: Settings, clean: bool = False, tokens: bool = False
    ) -> Self:
        self: Self = Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=value.device)
        self.value = value
        self.mask = mask
        self.settings = settings
        self.clean = clean
        self.tokens = tokens
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        if rule is None:
            raise NoRuleError(getattr(func, "__name__", str(func)))
        return rule(func, *args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise NoRuleError(str(func))

    # Models ask these constantly; answering here spares a trip through __torch_function__.
    shape = property(lambda self: self.value.shape)
    dtype = property(lambda self: self.value.dtype)
    device = property(lambda self: self.value.device)
    ndim = property(lambda self: self.value.ndim)
    is_cuda = property(lambda self: self.value.is_cuda)
    requires_grad = property(lambda self: self.value.requires_grad)
    is_nested = property(lambda self: False)

    def size(self, dim: int | None = None) -> Any:  # noqa: D102 - as in torch
        return self.value.shape if dim is None else self.value.shape[dim]

    def dim(self) -> int:  # noqa: D102
        return self.value.ndim

    def numel(self) -> int:  # noqa: D102
        return self.value.numel()

    def is_floating_point(self) -> bool:  # noqa: D102
        return self.value.is_floating_point()

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:  # type: ignore[override]
        on = "all" if self.mask is None else f"{int(self.mask.on.sum())}/{self.mask.on.numel()}"
        return f"Activation(shape={tuple(self.value.shape)}, on={on})"


class NoRuleError(Exception):
    """A masked activation met an operator that has no rule; the argument names the operator."""


Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""The rule of each operator: called as rule(operator, *args, **kwargs) with the operator's own arguments."""

_NAMESPACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Give a rule to every operator of these names (with spaces between), functions and tensor methods alike."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            found = [getattr(space, name) for space in _NAMESPACES if hasattr(space, name)]
            operators = [f for f in found if callable(f) or hasattr(f, "__set__")]  # not torch.half, torch.cpu
            if not operators:
                raise AttributeError(f"torch has no operator called {name!r}")
            for operator in operators:
                RULES[operator if callable(operator) else operator.__get__] = function  # x.T is a getter
        return function

    return register


def plain(x: Any) -> Any:
    """The value of an activation; anything else as it is."""
    return x.value if isinstance(x, Activation) else x


def derive(
    source: Activation, value: Tensor, mask: Mask | None, *, clean: bool = False, tokens: bool | None = None
) -> Activation:
    """A new activation computed from `source`: same settings, its own value and mask."""
    return Activation(value, mask, source.settings, clean, source.tokens if tokens is None else tokens)


def checkpoint(x: Activation) -> Tensor:
    """Deactivate: the value, zero wherever the mask is off (z ⊙ M, line 14 of Algorithm 1).

    Works in place when no gradient is asked for: what is off is never read before it is zeroed, by whoever shares it.
    """
    if x.mask is not None and not x.clean:
        value = x.value
        shared_memory = 0 in value.stride()
        if shared_memory or (value.requires_grad and torch.is_grad_enabled()):
            x.value = value * x.mask.on
        else:
            value.mul_(x.mask.on)
        x.clean = True
    return x.value


def varies(x: Activation, dims: Sequence[int]) -> bool:
    """Whether the mask differs along any of these dimensions, so that an operator over them mixes on and off."""
    return x.mask is not None and any(x.mask.on.shape[d] != 1 for d in dims)


def settle(on: Tensor, constant: Tensor | None = None) -> Mask | None:
    """The mask, or None once all is on: from then on nothing is multiplied or counted any more."""
    if bool(on.all()):
        return None
    return Mask(on, constant)


def exceeds(kept: Tensor, real: Tensor | float, threshold: float) -> Tensor:
    """Where the ratio kept / real is above the threshold (Definition 4); both are whole numbers.

    The ratio is the correctly rounded float64, so 1 of 3 is not above a threshold of 1 / 3.
    """
    if threshold == 0.0:
        return kept > 0
    return kept.double() / real > threshold


def reduced_mask(x: Activation, dims: Sequence[int], *, keepdim: bool = True) -> Mask | None:
    """The mask after these dimensions are reduced to one position each, by counting what is on along them."""
    if x.mask is None:
        return None
    on, constant = x.mask
    dims = [d % on.ndim for d in dims]
    if constant is not None:
        on, constant = torch.broadcast_tensors(on, constant)
        kept = (on & ~constant).sum(dims, keepdim=True)
        real = (~constant).sum(dims, keepdim=True)
        constant = real == 0
        on = exceeds(kept, real.clamp(min=1), x.settings.threshold) | constant
    elif varies(x, dims):
        kept = on.sum(dims, keepdim=True)
        on = exceeds(kept, math.prod(on.shape[d] for d in dims), x.settings.threshold)
    if not keepdim:
        on = on.squeeze(dims)
        constant = None if constant is None else constant.squeeze(dims)
    return Mask(on, constant)
