"""The masked activation, and the table that says how a mask passes through each operator.

Activation-Deactivation carries a mask beside every activation ("AD^(i) = (O^(i), M'_i)", Definition 5 of
*Activation-Deactivation: A General Framework for Robust Post-hoc Explainable AI*). Here the pair is one object that
models take for a tensor; each operator they call on it is looked up in `RULES` and answered by its rule.
"""

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
    fill: Callable[[Tensor, Tensor, Sequence[int]], Tensor] | None = None
    """What a convolution reads where its input is off: (value, on, kernel size) -> value. None: zeros."""
    state: "State | None" = None
    """What may change during the pass. None: no shortcuts."""


class State:
    """The shortcuts of one forward pass. Each is taken on trust; where the trust fails, `RunAgainError` ends the pass.

    `defer`: a convolution's output is ours until the model reads it, so a norm and an activation function that come
    next can work in place (`suffice.occlusion.rules.fusion`). Any other operator has what waits computed first: nothing
    that a convolution reads can change before it runs. Trust: the model does not read what came before the norm.

    `unwrap`: a residual sum that is on everywhere goes back to the model as a plain tensor, and the rest of the model
    runs as if we were not there: for small images a third of the time is what an operator costs in Python. Trust: it
    meets no activation that is still masked; there a plain tensor would be taken for a constant.
    """

    def __init__(self, without: frozenset[str] = frozenset()) -> None:
        self.defer, self.unwrap = "defer" not in without, "unwrap" not in without
        self.waiting: Activation | None = None
        """The activation, at most one, that has not been computed yet."""
        self.unwrapped = False
        """A plain tensor may be an activation by now."""


class Deferred:
    """How to compute the value of an activation that waits."""

    def compute(self) -> Tensor:
        """The value, in memory that nobody else has seen."""
        raise NotImplementedError


class RunAgainError(BaseException):
    """The pass has to be run again without the shortcut that the argument names. No Exception: no model must catch it.

    >>> str(RunAgainError("unwrap"))
    'unwrap'
    """


class Mask(NamedTuple):
    """Which positions are active. Both tensors are bool, have the value's rank and broadcast to its shape."""

    on: Tensor
    """True = active. A size of 1 says that the mask does not vary along that dimension."""
    constant: Tensor | None = None
    """True = not made from the image: padding, class tokens. Always on, and never counted (None: no such position)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mask":
        """Do the same to both tensors."""
        return Mask(function(self.on), None if self.constant is None else function(self.constant))


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


class Activation(Tensor):
    """An activation and its mask; to the model it looks like the activation alone.

    The object holds no data of its own, so an operator that escapes the rules fails loudly in `__torch_dispatch__`
    instead of computing with the mask forgotten.
    """

    mask: Mask | None = None
    """The mask of the value; None: all that is stored is on, in every image of the batch."""
    settings: Settings
    clean: bool = False
    """Known to be zero wherever the mask is off."""
    tokens: bool = False
    """Attention has made tokens of the positions: what is off is left out of averages too, never read as zero."""
    crops: Crops | None = None
    """Which part of the activation is stored; None: all of it."""
    full_shape: torch.Size
    """What the model believes the shape to be."""
    deferred: Deferred | None = None
    """How to compute the value, as long as it waits."""
    _value: Tensor | None = None

    # Models ask these constantly; attributes of our own spare a trip through __torch_function__.
    dtype: torch.dtype = None  # type: ignore[assignment]
    device: torch.device = None  # type: ignore[assignment]

    @staticmethod
    def __new__(  # noqa: D102
        cls,
        value: Tensor,
        mask: Mask | None,
        settings: Settings,
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
        self: Self = _make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        self.full_shape = shape
        self.settings = settings
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
        """The plain activation, or the stored part of it. What it holds where the mask is off has no meaning."""
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

    def hand_over(self) -> Deferred:
        """Wait no longer: the value is known, or is to be computed by another activation."""
        deferred, self.deferred = self.deferred, None
        state = self.settings.state
        assert deferred is not None
        if state is not None and state.waiting is self:
            state.waiting = None
        return deferred

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        if rule is None:
            raise NoRuleError(getattr(func, "__name__", str(func)))
        kwargs = kwargs or {}
        source, all_on, nested = _found(args, kwargs)
        if source is None:  # deep inside something else: the rule knows, or says that it does not
            return rule(func, *args, **kwargs)
        state = source.settings.state
        if state is not None:
            if (waiting := state.waiting) is not None:
                if waiting is source and (follow := FOLLOWERS.get(func)) is not None:
                    out = follow(*args, **kwargs)
                    if out is not None:
                        return out
                waiting.value  # noqa: B018 - computes it
            if state.unwrapped and not all_on and func in JOINING and _holds_unknown(args, kwargs):
                raise RunAgainError("unwrap")
        if not all_on or func in ALWAYS_BY_RULE:
            return rule(func, *args, **kwargs)
        # Everything is on, and stays so: the plain operator on the plain values.
        if nested:
            out = func(*map(_plain_nested, args), **{k: _plain_nested(v) for k, v in kwargs.items()})
        elif kwargs:
            out = func(*map(plain, args), **{k: plain(v) for k, v in kwargs.items()})
        else:
            out = func(*map(plain, args))
        return _as_activations(out, source, args)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        raise NoRuleError(str(func))

    shape = property(lambda self: self.full_shape)
    ndim = property(lambda self: len(self.full_shape))
    is_cuda = property(lambda self: self.device.type == "cuda")
    requires_grad = property(lambda self: self.deferred is None and self.value.requires_grad)
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
        stored = "not yet" if self._value is None else tuple(self._value.shape)
        return f"Activation(shape={tuple(self.shape)}, stored={stored}, on={on})"


class NoRuleError(Exception):
    """A masked activation met an operator that has no rule; the argument names the operator."""


Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}
"""The rule of each operator: called as rule(operator, *args, **kwargs) with the operator's own arguments."""

ALWAYS_BY_RULE: set[Any] = set()
"""Operators whose rule is asked even if all is on."""


JOINING: set[Any] = set()
"""Operators for which it matters whether an operand is a plain tensor or an activation that is on everywhere."""


def _holds_unknown(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether an operand may be an activation that was unwrapped: a plain tensor that is no parameter."""
    for x in (*args, *kwargs.values()):
        for y in x if type(x) in (list, tuple) else (x,):
            if type(y) is Tensor and y.ndim > 0:
                return True
    return False


FOLLOWERS: dict[Any, Callable[..., Any]] = {}
"""Operators that can join a convolution that waits: called with their own arguments, None if they cannot after all."""


def _found(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Activation | None, bool, bool]:
    """The first activation among the arguments (the first of tokens, if any is); all on? any inside a list?"""
    found: Any = None
    all_on, nested = True, False
    for x in (*args, *kwargs.values()) if kwargs else args:
        kind = type(x)
        if kind is Activation:
            if x.mask is not None or x.crops is not None:
                all_on = False
            if found is None or (x.tokens and not found.tokens):
                found = x
        elif kind is list or kind is tuple:
            for y in x:
                if type(y) is Activation:
                    nested = True
                    if y.mask is not None or y.crops is not None:
                        all_on = False
                    if found is None or (y.tokens and not found.tokens):
                        found = y
    return found, all_on, nested


def _plain_nested(x: Any) -> Any:
    if type(x) is Activation:
        return x.value
    return type(x)(map(plain, x)) if type(x) in (list, tuple) else x


def _as_activations(out: Any, source: Activation, args: Sequence[Any]) -> Any:
    if isinstance(out, Tensor):
        first = args[0] if args else None
        if type(first) is Activation and out is first._value:  # in place
            return first
        return Activation(out, None, source.settings, tokens=source.tokens)
    if isinstance(out, (tuple, list)):
        return type(out)([_as_activations(o, source, ()) for o in out])
    return out


_make_wrapper_subclass = Tensor._make_wrapper_subclass

_NAMESPACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)


def rule(names: str, *, crops: bool = False, always: bool = False, joins: bool = False) -> Callable[[Rule], Rule]:
    """Give a rule to every operator of these names (with spaces between), functions and tensor methods alike.

    crops: the rule knows what to do with activations that are stored in part; others are handed them whole.
    always: the rule is asked even if all is on; else the operator itself is called then.
    joins: a second operand that is a plain tensor is a constant, and may be none once something has been unwrapped.
    """

    def register(function: Rule) -> Rule:
        entry = function if crops else _given_whole(function)
        for name in names.split():
            found = [getattr(space, name) for space in _NAMESPACES if hasattr(space, name)]
            operators = [f for f in found if callable(f) or hasattr(f, "__set__")]  # not torch.half, torch.cpu
            if not operators:
                raise AttributeError(f"torch has no operator called {name!r}")
            for operator in operators:
                key = operator if callable(operator) else operator.__get__  # x.T is a getter
                RULES[key] = entry
                if always:
                    ALWAYS_BY_RULE.add(key)
                if joins:
                    JOINING.add(key)
        return function

    return register


def _given_whole(function: Rule) -> Rule:
    def with_whole_activations(func: Any, *args: Any, **kwargs: Any) -> Any:
        return function(func, *map(whole, args), **{k: whole(v) for k, v in kwargs.items()})

    return with_whole_activations


def whole(x: Any) -> Any:
    """Store all of an activation again, with zeros where it was not; lists of activations too, anything else as it is.

    The activation itself is changed, not copied: it stays the same activation.
    """
    if isinstance(x, (list, tuple)):
        return type(x)(map(whole, x)) if any(isinstance(t, Activation) for t in x) else x
    if not isinstance(x, Activation) or x.crops is None:
        return x
    value, crops = checkpoint(x), x.crops
    on = value.new_ones([1] * value.ndim, dtype=torch.bool) if x.mask is None else x.mask.on
    constant = None
    for d, crop in enumerate(crops):
        if crop is None:
            continue
        on = on.expand(*on.shape[:d], value.shape[d], *on.shape[d + 1 :])
        if crop.positions is not None:
            spread_out = [*value.shape[:d], crop.size, *value.shape[d + 1 :]]
            value = value.new_zeros(spread_out).index_copy(d, crop.positions, value)
            on = on.new_zeros([*on.shape[:d], crop.size, *on.shape[d + 1 :]]).index_copy(d, crop.positions, on)
            continue
        around = [0, 0] * (value.ndim - 1 - d) + [crop.start, crop.size - crop.start - value.shape[d]]
        value, on = F.pad(value, around), F.pad(on, around)
        if crop.real != (0, crop.size):
            position = torch.arange(crop.size, device=value.device)
            padding = (position < crop.real[0]) | (position >= crop.real[1])
            padding = padding.reshape([-1 if i == d else 1 for i in range(value.ndim)])
            constant = padding if constant is None else constant | padding
    x.value, x.crops, x.clean = value, None, True
    x.mask = Mask(on) if constant is None else Mask(on | constant, constant)
    return x


def plain(x: Any) -> Any:
    """The value of an activation; anything else as it is."""
    return x.value if type(x) is Activation else x


def derive(
    source: Activation,
    value: Tensor,
    mask: Mask | None,
    *,
    clean: bool = False,
    tokens: bool | None = None,
    crops: Crops | None = None,
) -> Activation:
    """A new activation computed from `source`: same settings, its own value, mask and crops."""
    return Activation(value, mask, source.settings, clean, source.tokens if tokens is None else tokens, crops)


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
            value.mul_(x.mask.on.to(value.dtype))  # bool times float takes twice as long
        x.clean = True
    return x.value
