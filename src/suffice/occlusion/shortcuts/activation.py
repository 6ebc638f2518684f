"""An activation of which only a part is stored, or that waits to be computed; and the table of shortcuts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.occlusion.rules.activation import (
    ASKED_ALWAYS,
    DEACTIVATION_RULES,
    Activation,
    DeactivationSettings,
    Mask,
    as_activations,
    make_wrapper_subclass,
    plain,
)
from suffice.occlusion.shortcuts.state import Deferred, PassState, RunAgainError
from suffice.operators import FAMILIES, operators_of


class Crop(NamedTuple):
    """What is stored along one dimension: a window of the positions, or some of them. The rest is off in every image.

    What is off is zero, so an operator computed on the window is exact, and costs less.
    """

    size: int
    """How many positions the model believes there are."""
    start: int
    """The first position of the window (0 if `positions` says which are stored)."""
    on: tuple[int, int]
    """Nothing before the first or from the second position on is on."""
    real: tuple[int, int]
    """Positions outside are zero padding that a convolution still has to read."""
    positions: Tensor | None = None
    """The stored positions where they are not in a row (tokens), int64, ascending."""


Crops = tuple[Crop | None, ...]
"""A crop for each dimension; None: all of it is stored."""


class StoredActivation(Activation):
    """An activation of which a part is stored (`value`), that part's mask, and what the model believes it to be.

    Attributes:
        crops: which part is stored; None: all of it.
        clean: known to be zero wherever the mask is off.
        deferred: how to compute the value, as long as it waits.
        state: of the forward pass.
    """

    mask: Mask | None = None
    tokens: bool = False
    clean: bool = False
    crops: Crops | None = None
    deferred: Deferred | None = None
    state: PassState
    _value: Tensor | None = None

    @staticmethod
    def __new__(  # noqa: D102
        cls,
        value: Tensor,
        mask: Mask | None,
        settings: DeactivationSettings,
        state: PassState,
        clean: bool = False,
        tokens: bool = False,
        crops: Crops | None = None,
        deferred: Deferred | None = None,
        stored: Sequence[int] | None = None,
    ) -> Self:
        # With `deferred` the value is only one of the same type and device, and `stored` the shape to come.
        shape = value.shape if stored is None else torch.Size(stored)
        if crops is not None:
            if any(c is not None for c in crops):
                shape = torch.Size([n if c is None else c.size for n, c in zip(shape, crops, strict=True)])
            else:
                crops = None
        dtype, device = value.dtype, value.device
        self: Self = make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.full_shape = shape
        self.settings = settings
        self.state = state
        self.dtype = dtype
        self.device = device
        # The rest has defaults in the class: this is called for every operator of a model.
        if deferred is None:
            self._value = value
        else:
            self.deferred = deferred
        if mask is not None:
            self.mask = mask
        if crops is not None:
            self.crops = crops
        if clean:
            self.clean = True
        if tokens:
            self.tokens = True
        return self

    @property
    def value(self) -> Tensor:
        """The plain activation, or the stored part of it."""
        if self._value is None:
            if self.deferred is None:
                raise RunAgainError("defer")
            self.value = self.deferred.compute()
        return self._value  # type: ignore[return-value]

    @value.setter
    def value(self, value: Tensor) -> None:
        self._value = value
        if self.deferred is not None:
            self.hand_over()

    requires_grad = property(lambda self: self.deferred is None and self.value.requires_grad)

    def hand_over(self) -> Deferred:
        """Wait no longer: the value is known, or is to be computed by another activation."""
        deferred, self.deferred = self.deferred, None
        assert deferred is not None
        if self.state.waiting is self:
            self.state.waiting = None
        return deferred

    def derive(
        self,
        value: Tensor,
        mask: Mask | None,
        *,
        tokens: bool | None = None,
        clean: bool = False,
        crops: Crops | None = None,
    ) -> Self:
        """A new activation computed from this one: same settings, its own value, mask and crops."""
        tokens = self.tokens if tokens is None else tokens
        return type(self)(value, mask, self.settings, self.state, clean, tokens, crops)

    def overwrite(self, mask: Mask | None, tokens: bool | None = None, clean: bool = False) -> Self:
        """The same activation, whose value an operator has changed in place, with its new mask."""
        self.clean = clean
        return super().overwrite(mask, tokens)

    def checkpoint(self) -> Tensor:
        """Deactivate: the value, zero wherever the mask is off (z ⊙ M, line 14 of Algorithm 1).

        Works in place when no gradient is asked for: what is off is never read before it is zeroed, by whoever shares
        it.
        """
        if self.mask is not None and not self.clean:
            value = self.value
            shared_memory = 0 in value.stride()
            if shared_memory or (value.requires_grad and torch.is_grad_enabled()):
                self.value = value * self.mask.on
            else:
                value.mul_(self.mask.on.to(value.dtype))  # bool times float takes twice as long
            self.clean = True
        return self.value

    def result(self) -> Tensor:
        """The plain value that leaves the model, all of it; the last checkpoint where it has positions."""
        whole(self)
        return super().result()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = DEACTIVATION_RULES.get(func)
        kwargs = kwargs or {}
        source, all_on, cropped, nested = _found(args, kwargs)
        if rule is None and not (all_on and DEACTIVATION_RULES.refuses(func)):
            rule = DEACTIVATION_RULES.find(func)
        if source is None:  # deep inside something else: the rule knows, or says that it does not
            assert rule is not None
            return rule(func, *args, **kwargs)
        state = source.state
        if (waiting := state.waiting) is not None:
            if waiting is source and (follow := FOLLOWERS.get(func)) is not None:
                out = follow(*args, **kwargs)
                if out is not None:
                    return out
            waiting.value  # noqa: B018 - computes it
        if state.unwrapped and not all_on and func not in _ALONE and _holds_unknown(args, kwargs):
            raise RunAgainError("unwrap")
        if all_on and func not in _ASKED_IF_ALL_ON and func not in ASKED_ALWAYS:
            # Everything is on, and stays so: the plain operator on the plain values.
            if nested:
                out = func(*map(plain, args), **{k: plain(v) for k, v in kwargs.items()})
            elif kwargs:
                out = func(*map(_value_of, args), **{k: _value_of(v) for k, v in kwargs.items()})
            else:
                out = func(*map(_value_of, args))
            return as_activations(out, source, args)
        if (faster := SHORTCUTS.get(func)) is not None:
            out = faster(func, *args, **kwargs)
            if out is not NotImplemented:
                return out
        assert rule is not None
        if cropped:
            args, kwargs = tuple(map(whole, args)), {k: whole(v) for k, v in kwargs.items()}
        return rule(func, *args, **kwargs)

    def __repr__(self) -> str:  # type: ignore[override]
        stored = "not yet" if self._value is None else tuple(self._value.shape)
        return f"{super().__repr__()[:-1]}, stored={stored})"


Shortcut = TypeVar("Shortcut", bound=Callable[..., Any])

SHORTCUTS: dict[Any, Callable[..., Any]] = {}
"""Operators to functions like their rules. They get activations as they are stored, and may answer NotImplemented."""

_ASKED_IF_ALL_ON: set[Any] = set()

FOLLOWERS: dict[Any, Callable[..., Any]] = {}
"""Operators that can join a convolution that waits: called with their own arguments, None if they cannot after all."""

_JOINING = (
    *("product", "product and sum", "contraction", "attention", "packed attention", "addition", "larger of two"),
    *("multiplication", "division", "function of two", "logic of two", "comparison", "multiplication and sum"),
    *("interpolation of two", "choice", "concatenation", "stack", "write"),
)
_ALONE = set(operators_of(*(family for family in FAMILIES if family not in _JOINING)))
"""Operators that read no other activation: a plain tensor among their operands is a parameter, whatever else happened.

For all others, those of packages from outside among them, it may be an activation that was unwrapped.
"""


def shortcut(*families: str, always: bool = False) -> Callable[[Shortcut], Shortcut]:
    """Make a function the shortcut of some families of operators.

    Args:
        families: of `suffice.operators.FAMILIES`.
        always: it is asked even if all is on.
    """

    def register(function: Shortcut) -> Shortcut:
        operators = operators_of(*families)
        SHORTCUTS.update(dict.fromkeys(operators, function))
        if always:
            _ASKED_IF_ALL_ON.update(operators)
        return function

    return register


def _holds_unknown(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operand may be an activation that was unwrapped: a plain tensor that is no parameter."""
    for x in (*args, *kwargs.values()):
        for y in x if type(x) in (list, tuple) else (x,):
            if type(y) is Tensor and y.ndim > 0:
                return True
    return False


def _found(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[StoredActivation | None, bool, bool, bool]:
    """The first activation among the arguments (the first of tokens, if any is); all on? any cropped? any in a list?"""
    found: Any = None
    all_on, cropped, nested = True, False, False
    for x in (*args, *kwargs.values()) if kwargs else args:
        kind = type(x)
        if kind is StoredActivation:
            if x.crops is not None:
                all_on, cropped = False, True
            elif x.mask is not None:
                all_on = False
            if found is None or (x.tokens and not found.tokens):
                found = x
        elif kind is list or kind is tuple:
            for y in x:
                if type(y) is StoredActivation:
                    nested = True
                    if y.crops is not None:
                        all_on, cropped = False, True
                    elif y.mask is not None:
                        all_on = False
                    if found is None or (y.tokens and not found.tokens):
                        found = y
    return found, all_on, cropped, nested


def _value_of(x: Any) -> Any:
    return x.value if type(x) is StoredActivation else x


def whole(x: Any) -> Any:
    """Store all of an activation again, with zeros where it was not; lists of activations too, anything else as it is.

    The activation itself is changed, not copied: it stays the same activation.
    """
    kind = type(x)
    if kind is not StoredActivation:
        nested = (kind is list or kind is tuple) and any(type(t) is StoredActivation for t in x)
        return kind(map(whole, x)) if nested else x
    if x.crops is None:
        return x
    value, crops = x.checkpoint(), x.crops
    mask = Mask(value.new_ones([1] * value.ndim, dtype=torch.bool)) if x.mask is None else x.mask
    paddings = []
    for d, crop in enumerate(crops):
        if crop is None:
            continue
        everywhere = functools.partial(_everywhere, dim=d, crop=crop, stored=value.shape[d])
        value, mask = everywhere(value), mask.map(everywhere)
        if crop.real != (0, crop.size):
            position = torch.arange(crop.size, device=value.device)
            padding = (position < crop.real[0]) | (position >= crop.real[1])
            paddings.append(padding.reshape([-1 if i == d else 1 for i in range(value.ndim)]))
    for padding in paddings:
        mask = Mask(mask.on | padding, padding if mask.constant is None else mask.constant | padding)
    x.value, x.crops, x.mask, x.clean = value, None, mask, True
    return x


def _everywhere(part: Tensor, dim: int, crop: Crop, stored: int) -> Tensor:
    """All positions of one dimension, zero where they are not stored."""
    part = part.expand(*part.shape[:dim], stored, *part.shape[dim + 1 :])
    if crop.positions is not None:
        everything = part.new_zeros([*part.shape[:dim], crop.size, *part.shape[dim + 1 :]])
        return everything.index_copy(dim, crop.positions, part)
    return F.pad(part, [0, 0] * (part.ndim - 1 - dim) + [crop.start, crop.size - crop.start - stored])
