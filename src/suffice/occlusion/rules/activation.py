"""The masked activation, and the table that says how a mask passes through each operator.

Activation-Deactivation carries a mask beside every activation ("AD^(i) = (O^(i), M'_i)", Definition 5 of
*Activation-Deactivation: A General Framework for Robust Post-hoc Explainable AI*). Here the pair is one object that
models take for a tensor; each operator they call on it is looked up in `DEACTIVATION_RULES` and answered by its rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from suffice.operator_rules import NoRuleError, RuleTable


class DeactivationSettings(NamedTuple):
    """What a forward pass holds fixed: see `suffice.occlusion.deactivation.deactivated_forward`."""

    threshold: float = 0.0
    add: Literal["union", "intersection"] = "union"
    pooling: Literal["literal", "renormalised"] = "literal"
    some_row_full: bool = False
    """Some image of the batch is kept whole, so its row must come out bit for bit as in a plain forward pass."""
    fill: Callable[[Tensor, Tensor, Sequence[int]], Tensor] | None = None
    """What a convolution reads where its input is off: (value, on, kernel size) -> value. None: zeros."""


class Mask(NamedTuple):
    """Which positions are active. Both tensors are bool, have the value's rank and broadcast to its shape."""

    on: Tensor
    """True = active. A size of 1 says that the mask does not vary along that dimension."""
    constant: Tensor | None = None
    """True = not made from the image: padding, class tokens. Always on, and never counted (None: no such position)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Mask:
        """Do the same to both tensors."""
        return Mask(function(self.on), None if self.constant is None else function(self.constant))


class Activation(Tensor):
    """An activation and its mask; to the model it looks like the activation alone.

    The object holds no data of its own, so an operator that escapes the rules fails loudly in `__torch_dispatch__`
    instead of computing with the mask forgotten.

    >>> mask = Mask(torch.tensor([[True, True, False]]))
    >>> x = Activation(torch.tensor([[1.0, 2.0, 5.0]]), mask, DeactivationSettings())
    >>> y = x + 1  # each position for itself: the mask stays
    >>> y.value, y.mask.on, y.checkpoint()
    (tensor([[2., 3., 6.]]), tensor([[ True,  True, False]]), tensor([[2., 3., 0.]]))
    >>> y.sum(-1).value
    tensor([5.])

    Attributes:
        value: the plain activation. What it holds where the mask is off has no meaning.
        mask: of the value; None: all of it is on, in every image of the batch.
        settings: of the forward pass.
        tokens: attention has made tokens of the positions: what is off is left out of averages too, never read as zero.
    """

    value: Tensor
    mask: Mask | None
    settings: DeactivationSettings
    tokens: bool
    full_shape: torch.Size
    # Models ask these constantly; attributes of our own spare a trip through __torch_function__.
    dtype: torch.dtype = None  # type: ignore[assignment]
    device: torch.device = None  # type: ignore[assignment]

    @staticmethod
    def __new__(  # noqa: D102
        cls, value: Tensor, mask: Mask | None, settings: DeactivationSettings, tokens: bool = False
    ) -> Self:
        shape, dtype, device = value.shape, value.dtype, value.device
        self: Self = make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.full_shape, self.dtype, self.device = shape, dtype, device
        self.value, self.mask, self.settings, self.tokens = value, mask, settings, tokens
        return self

    def derive(self, value: Tensor, mask: Mask | None, *, tokens: bool | None = None) -> Self:
        """A new activation computed from this one: same settings, its own value and mask."""
        return type(self)(value, mask, self.settings, self.tokens if tokens is None else tokens)

    def overwrite(self, mask: Mask | None, tokens: bool | None = None) -> Self:
        """The same activation, whose value an operator has changed in place, with its new mask."""
        self.mask, self.tokens = mask, self.tokens if tokens is None else tokens
        return self

    def checkpoint(self) -> Tensor:
        """Deactivate: the value, zero wherever the mask is off (z ⊙ M, line 14 of Algorithm 1)."""
        if self.mask is None:
            return self.value
        return _copied(self.value).masked_fill_(~self.mask.on, 0.0)  # no product: 0 · ∞ is no number

    def result(self) -> Tensor:
        """The plain value that leaves the model; the last checkpoint (O ⊙ M', Definition 5) where it has positions."""
        if self.mask is None or all(size == 1 for size in (*self.mask.on.shape[1:], *self.full_shape[2:])):
            return self.value
        return self.checkpoint()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        activations = [*_activations_in(args), *_activations_in(kwargs.values())]
        all_on = bool(activations) and all(x.mask is None for x in activations)
        if all_on and func not in ASKED_ALWAYS and (func in DEACTIVATION_RULES or DEACTIVATION_RULES.refuses(func)):
            # Everything is on, and stays so: the plain operator on the plain values.
            source = next((x for x in activations if x.tokens), activations[0])
            return as_activations(func(*map(plain, args), **{k: plain(v) for k, v in kwargs.items()}), source, args)
        return DEACTIVATION_RULES.find(func)(func, *args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        raise NoRuleError(str(func))

    shape = property(lambda self: self.full_shape)
    ndim = property(lambda self: len(self.full_shape))
    is_cuda = property(lambda self: self.device.type == "cuda")
    requires_grad = property(lambda self: self.value.requires_grad)
    is_nested = property(lambda self: False)

    def size(self, dim: int | None = None) -> Any:  # noqa: D102 - as in torch
        return self.full_shape if dim is None else self.full_shape[dim]

    def dim(self) -> int:  # noqa: D102
        return len(self.full_shape)

    def numel(self) -> int:  # noqa: D102
        return self.full_shape.numel()

    def is_floating_point(self) -> bool:  # noqa: D102
        return self.dtype.is_floating_point

    def __len__(self) -> int:
        return self.full_shape[0]

    def __repr__(self) -> str:  # type: ignore[override]
        on = "all" if self.mask is None else f"{int(self.mask.on.sum())}/{self.mask.on.numel()}"
        return f"{type(self).__name__}(shape={tuple(self.shape)}, on={on})"


make_wrapper_subclass = Tensor._make_wrapper_subclass

DeactivationRule = TypeVar("DeactivationRule", bound=Callable[..., Any])

DEACTIVATION_RULES: RuleTable[Callable[..., Any]] = RuleTable("deactivation")
"""The rule of each operator: called as rule(operator, *args, **kwargs) with the operator's own arguments."""

ASKED_ALWAYS: set[Any] = set()
"""Operators whose rule is asked even if all is on; for others the operator itself is called then."""


def deactivation_rule(*operators: Any, always: bool = False) -> Callable[[DeactivationRule], DeactivationRule]:
    """Make a function the rule by which masks pass through some operators.

    The rule is called with the operator and the operator's own arguments, and returns what the operator would, with
    activations for tensors. `docs/deactivation.md` shows one.

    Args:
        operators: families of `suffice.operators.FAMILIES`; from outside of this package operators themselves, such as
            `torch.cumsum`, `torch.Tensor.cumsum` and `torch.ops.my_library.my_operator`.
        always: the rule is asked even if all is on; else the operator itself is called then.

    Raises:
        InputError: a family that does not exist, or an operator that has a rule.
    """

    def register(rule: DeactivationRule) -> DeactivationRule:
        found = DEACTIVATION_RULES.add(rule, *operators)
        if always:
            ASKED_ALWAYS.update(found)
        return rule

    return register


def plain(x: Any) -> Any:
    """The value of an activation, also inside of a list; anything else as it is."""
    kind = type(x)
    if kind is list or kind is tuple:
        return kind(map(plain, x))
    return x.value if isinstance(x, Activation) else x


def as_activations(out: Any, source: Activation, args: Sequence[Any]) -> Any:
    """What an operator returned, on everywhere; an activation that it changed in place stays that activation."""
    if isinstance(out, Tensor):
        first = args[0] if args else None
        if isinstance(first, Activation) and out is first.value:
            return first
        return source.derive(out, None)
    if isinstance(out, (tuple, list)):
        return type(out)([as_activations(o, source, ()) for o in out])
    return out


def _copied(value: Tensor) -> Tensor:
    """A copy that lies in memory like the value, also where that is a slice: else sums would be rounded differently."""
    lengths = sorted((stride, size) for stride, size in zip(value.stride(), value.shape, strict=True) if size > 1)
    apart = all(stride * size <= after for (stride, size), (after, _) in itertools.pairwise(lengths))
    if not apart or any(stride == 0 for stride, _ in lengths):
        return value.clone()
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).copy_(value)


def _activations_in(arguments: Any) -> list[Activation]:
    found = []
    for x in arguments:
        found += [y for y in (x if type(x) in (list, tuple) else (x,)) if isinstance(y, Activation)]
    return found
