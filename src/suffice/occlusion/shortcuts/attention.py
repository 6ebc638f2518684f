"""Linear layers, matrix products and attention of the tokens that are stored."""

from typing import Any

from suffice.occlusion.rules import attention as rules
from suffice.occlusion.rules.activation import plain
from suffice.occlusion.shortcuts.activation import Crops, StoredActivation, shortcut, whole
from suffice.occlusion.shortcuts.crops import mixes, padded, same_crops


@shortcut("linear")
def linear(func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """Of dimensions that are stored whole, where nothing is mixed."""
    if not isinstance(x, StoredActivation) or mixes(x, (-1,)) or padded(x):
        return NotImplemented
    return x.derive(func(x.value, plain(whole(weight)), plain(whole(bias))), x.mask, crops=x.crops)


@shortcut("product")
def matmul(func: Any, a: Any, b: Any) -> Any:
    """The same of what both factors store."""
    crops = None if func.__name__ == "__rmatmul__" else _product_crops(a, b)
    return NotImplemented if crops is None else _with_crops(rules.matmul(func, a, b), crops)


def _with_crops(x: Any, crops: Crops | None) -> StoredActivation:
    assert isinstance(x, StoredActivation)
    return x if crops is None else x.derive(x.value, x.mask, crops=crops)


def _product_crops(a: Any, b: Any) -> Crops | None:
    """The crops of a matrix product, if both factors store the same of what is summed over; None: take them whole."""
    of_a, of_b = _crops_of(a), _crops_of(b)
    rank = plain(a).ndim
    if (of_a is None and of_b is None) or rank != plain(b).ndim or rank < 2:
        return None
    if any(isinstance(t, StoredActivation) and padded(t) for t in (a, b)):
        return None
    of_a, of_b = of_a or (None,) * rank, of_b or (None,) * rank
    if any(of_a[:-2]) or any(of_b[:-2]) or not same_crops(of_a[-1:], of_b[-2:-1]):
        return None
    return (*of_a[:-1], of_b[-1])


def _crops_of(x: Any) -> Crops | None:
    return x.crops if isinstance(x, StoredActivation) else None


@shortcut("softmax")
def softmax(func: Any, x: StoredActivation, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What is not stored is left out."""
    if x.crops is None or padded(x):
        return NotImplemented
    dim = kwargs.pop("dim", dim)
    tokens = x.tokens or mixes(x, (dim,))
    out = rules.softmax(func, x, dim, *args, **kwargs)
    return x.derive(out.value, out.mask, tokens=tokens, crops=x.crops)


@shortcut("attention")
def scaled_dot_product_attention(
    func: Any, query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """Attention over the keys that are stored."""
    of_q, of_k, of_v = map(_crops_of, (query, key, value))
    if not any(c is not None for c in (of_q, of_k, of_v)):
        return NotImplemented
    causal = args[1] if len(args) > 1 else kwargs.get("is_causal", False)
    tokens_only = all(c is None or not any((*c[:-2], c[-1])) for c in (of_q, of_k, of_v))
    if attn_mask is not None or causal or not same_crops(of_k, of_v) or not tokens_only:
        return NotImplemented
    out = rules.scaled_dot_product_attention(func, query, key, value, None, *args, **kwargs)
    return _with_crops(out, of_q or (None,) * out.ndim)
