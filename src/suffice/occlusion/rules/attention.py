"""Linear layers, matrix products and attention.

A deactivated token is left out of attention: its score becomes -∞ before the softmax, so nobody attends to it, and
the result for the other tokens is that of running the model on them alone.
"""

from typing import Any

import torch
from torch import Tensor

from suffice.occlusion.rules.activation import Activation, Mask, deactivation_rule, plain
from suffice.occlusion.rules.combine import summed_mask
from suffice.occlusion.rules.masks import filled, reduced_mask, varies
from suffice.operator_rules import NoRuleError


@deactivation_rule("linear")
def linear(func: Any, x: Any, weight: Any, bias: Any = None) -> Activation:
    """Mixes the last dimension: a checkpoint only if the mask varies along it (flattened maps, token mixing)."""
    if not isinstance(x, Activation):
        raise NoRuleError("linear layer of a plain tensor with a masked weight")
    value = x.checkpoint() if varies(x, (-1,)) else x.value
    return x.derive(func(value, plain(weight), plain(bias)), reduced_mask(x, (-1,)))


def _on(x: Any) -> Tensor:
    """Where an operand is on, with the rank of its value; a constant is on everywhere."""
    mask = x.mask if isinstance(x, Activation) else None
    value = plain(x)
    if mask is None:
        return torch.ones([1] * value.ndim, dtype=torch.bool, device=value.device)
    on: Tensor = mask.on
    return on


def _is_masked(x: Any) -> bool:
    return isinstance(x, Activation) and x.mask is not None


def product_mask(a: Any, b: Any) -> Mask | None:
    """Entry (i, j) of a matrix product is on where some k is on both in row i and in column j."""
    if not _is_masked(a) and not _is_masked(b):
        return None
    on_a, on_b = _on(a), _on(b)
    if on_a.shape[-1] == 1 and on_b.shape[-2] == 1:
        return Mask(on_a & on_b)
    length = plain(a).shape[-1]
    left = on_a.expand(*on_a.shape[:-1], length).to(torch.float64)
    right = on_b.expand(*on_b.shape[:-2], length, on_b.shape[-1]).to(torch.float64)
    return Mask(left @ right > 0)


@deactivation_rule("product")
def matmul(func: Any, a: Any, b: Any) -> Any:
    """Scores (queries by keys), weighted sums of values, token mixing: what is off adds nothing."""
    if func.__name__ == "__rmatmul__":
        return torch.matmul(b, a)
    source = a if isinstance(a, Activation) else b
    tokens = any(isinstance(t, Activation) and t.tokens for t in (a, b))
    if plain(a).ndim < 2 or plain(b).ndim < 2:
        if _is_masked(b) or (_is_masked(a) and varies(a, (-1,))):
            raise NoRuleError("matmul with a vector")
        return source.derive(func(plain(a), plain(b)), a.mask and a.mask.map(lambda m: m.squeeze(-1)))
    # Zero the operands if positions are mixed: one side alone would do but for infinities on the other.
    mixed = (_is_masked(a) and varies(a, (-1,))) or (_is_masked(b) and varies(b, (-2,)))
    values = [t.checkpoint() if mixed and isinstance(t, Activation) else plain(t) for t in (a, b)]
    return source.derive(func(*values), _product_mask(a, b), tokens=tokens)


def _product_mask(a: Any, b: Any) -> Mask | None:
    """Of a product of two activations, or of one with a parameter, which is a linear layer."""
    linear = not isinstance(b, Activation) and plain(b).ndim == 2 and varies(a, (-1,))
    return reduced_mask(a, (-1,)) if linear else product_mask(a, b)


@deactivation_rule("product and sum")
def add_matmul(func: Any, x: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """β · x + α · a b."""
    values = [t.checkpoint() if isinstance(t, Activation) else t for t in (x, a, b)]
    out = func(*values, beta=beta, alpha=alpha)
    factors = [t for t in (a, b) if isinstance(t, Activation)]
    source = factors[0] if factors else x
    mask = _product_mask(a, b) if factors else x.mask
    if factors and isinstance(x, Activation) and x.numel() == out.numel():  # a smaller one is broadcast
        mask = summed_mask(mask, x.mask, x.settings)
    return source.derive(out, mask, tokens=any(isinstance(t, Activation) and t.tokens for t in (x, a, b)))


@deactivation_rule("contraction")
def einsum(func: Any, equation: str, *operands: Any) -> Any:
    """Like a matrix product: on where some term of the sum is on in all its factors."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    equation = equation.replace(" ", "")
    if "." in equation or "->" not in equation:
        raise NoRuleError(f"einsum {equation!r}")
    terms, result = equation.split("->")
    labels = terms.split(",")
    summed = {c for term in labels for c in term} - set(result)
    varying = {
        c
        for term, x in zip(labels, operands, strict=True)
        if isinstance(x, Activation) and x.mask is not None
        for c, size in zip(term, x.mask.on.shape, strict=True)
        if size != 1
    }
    mixed = bool(summed & varying)
    values = [x.checkpoint() if mixed and isinstance(x, Activation) else plain(x) for x in operands]
    out = func(equation, *values)
    activations = [x for x in operands if isinstance(x, Activation)]
    tokens = any(x.tokens for x in activations)
    if all(x.mask is None for x in activations):
        return activations[0].derive(out, None, tokens=tokens)
    factors, factor_terms = [], []
    for term, x in zip(labels, operands, strict=True):
        if _is_masked(x):
            # A label of size 1 here that varies in another operand is left out of this factor.
            sizes = dict(zip(term, x.mask.on.shape, strict=True))
            factor_terms.append("".join(c for c in term if sizes[c] != 1))
            factors.append(x.mask.on.reshape([size for size in sizes.values() if size != 1]).double())
    kept = "".join(c for c in result if c in varying)
    on = torch.einsum(f"{','.join(factor_terms)}->{kept}", *factors) > 0
    shape = iter(on.shape)
    on = on.reshape([next(shape) if c in varying else 1 for c in result])
    return activations[0].derive(out, Mask(on), tokens=tokens)


@deactivation_rule("softmax")
def softmax(func: Any, x: Activation, dim: Any = None, *args: Any, **kwargs: Any) -> Activation:
    """What is off is left out, as if it were not there."""
    dim = kwargs.pop("dim", dim)
    if x.mask is None or x.mask.on.shape[dim] == 1:
        return x.derive(func(x.value, dim, *args, **kwargs), x.mask)
    on = x.mask.on
    left_out = ~on & on.any(dim, keepdim=True)  # where all is off there is nothing to attend to: any finite value does
    out = func(filled(x.value, left_out, -torch.inf), dim, *args, **kwargs)
    return x.derive(out, x.mask, tokens=True)


def _keys_on(*keys: Any) -> Tensor | None:
    """Which keys are on, as (..., 1, S), from operands shaped (..., S, E); None if all are."""
    masks = [_on(k) for k in keys if _is_masked(k)]
    if not masks:
        return None
    on = masks[0]
    for m in masks[1:]:
        on = on & m
    if on.shape[-1] != 1:
        on = on.any(-1, keepdim=True)
    return on.transpose(-2, -1)


def _attending(on: Tensor, attn_mask: Tensor | None) -> Tensor:
    """The attention mask with the keys that are off left out; a query that has none left attends to all."""
    if attn_mask is None:
        return on | ~on.any(-1, keepdim=True)
    if attn_mask.dtype == torch.bool:
        both = on & attn_mask
        return both | (attn_mask & ~both.any(-1, keepdim=True))
    return attn_mask.masked_fill(~(on | ~on.any(-1, keepdim=True)), -torch.inf)


@deactivation_rule("attention")
def scaled_dot_product_attention(
    func: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> Activation:
    """Attention (..., L, E) over the keys that are on; a result is on where its query is."""
    source = next(t for t in (query, key, value) if isinstance(t, Activation))
    q, k, v, bias = plain(query), plain(key), plain(value), plain(attn_mask)
    on = _keys_on(key, value)
    if on is None:
        out = func(q, k, v, bias, dropout_p, is_causal, **kwargs)
    else:
        if is_causal:
            raise NoRuleError("causal scaled_dot_product_attention")
        if on.shape[-1] == 1:
            on = on.expand(*on.shape[:-1], k.shape[-2])
        out = func(q, k, v, _attending(on, bias), dropout_p, **kwargs)
        if source.settings.some_row_full:
            # Another kernel runs without a mask; rows that are all on must have its very bits.
            unmasked = func(q, k, v, bias, dropout_p, **kwargs)
            out = unmasked.where(on.all(-1, keepdim=True), out)
    return source.derive(out, _query_mask(query, on), tokens=True)


def _query_mask(query: Any, keys_on: Tensor | None) -> Mask | None:
    if isinstance(query, Activation):
        mask = query.mask
        if mask is not None and mask.on.shape[-1] != 1:
            mask = mask.map(lambda m: m.any(-1, keepdim=True))
        return mask
    # A learned query looks at whatever is on.
    return None if keys_on is None else Mask(keys_on.any(-1, keepdim=True))


@deactivation_rule("packed attention", always=True)
def multi_head_attention(
    func: Any, query: Any, key: Any, value: Any, *args: Any, key_padding_mask: Any = None, **kwargs: Any
) -> Any:
    """nn.MultiheadAttention's own function, operands (L, N, E): keys that are off become its key padding."""
    source = next(t for t in (query, key, value) if isinstance(t, Activation))
    q, k, v = plain(query), plain(key), plain(value)
    on = None
    if _is_masked(key) or _is_masked(value):
        columns = _keys_on(key.transpose(0, 1), value.transpose(0, 1))  # (N, 1, S)
        assert columns is not None
        on = columns.squeeze(1).expand(k.shape[1], k.shape[0])
    if on is None:
        out, weights = _unmasked_multi_head_attention(func, q, k, v, *args, key_padding_mask=key_padding_mask, **kwargs)
    else:
        if key_padding_mask is not None:
            raise NoRuleError("multi-head attention with a key padding mask of its own")
        none_on = ~on.any(1, keepdim=True)
        off = torch.zeros(on.shape, dtype=q.dtype, device=q.device).masked_fill(~(on | none_on), -torch.inf)
        out, weights = func(q, k, v, *args, key_padding_mask=off, **kwargs)
        if source.settings.some_row_full:
            whole, _ = _unmasked_multi_head_attention(func, q, k, v, *args, key_padding_mask=None, **kwargs)
            out = torch.where(on.all(1)[None, :, None], whole, out)
    mask = _query_mask(query, on[:, None] if on is not None else None)
    if mask is not None and not isinstance(query, Activation):
        mask = mask.map(lambda m: m.transpose(0, 1))
    return source.derive(out, mask, tokens=True), None if weights is None else source.derive(weights, None)


def _unmasked_multi_head_attention(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
    """As nn.MultiheadAttention computes it on plain tensors, which includes its fast path without gradients."""
    embed_dim, heads, w_in, b_in, bias_k, bias_v, zero_attn, _dropout, w_out, b_out = args[:10]
    fast = (
        torch.backends.mha.get_fastpath_enabled()
        and q.ndim == 3
        and q.stride(0) < q.stride(1)  # only batch_first modules take it, and they hand over a transposed view
        and q.data_ptr() == k.data_ptr() == v.data_ptr()
        and q.shape == k.shape
        and w_in is not None
        and b_in is not None
        and heads % 2 == 0
        and bias_k is None
        and bias_v is None
        and not zero_attn
        and kwargs.get("attn_mask") is None
        and kwargs.get("key_padding_mask") is None
        and not kwargs.get("training", True)
        and not kwargs.get("use_separate_proj_weight", False)
        and not torch.is_autocast_enabled(q.device.type)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in (q, w_in, b_in, w_out, b_out)))
    )
    if not fast:
        return func(q, k, v, *args, **kwargs)
    q = q.transpose(0, 1)
    out, weights = torch._native_multi_head_attention(
        q, q, q, embed_dim, heads, w_in, b_in, w_out, b_out, None, kwargs.get("need_weights", True),
        kwargs.get("average_attn_weights", True), None,
    )  # fmt: skip
    return out.transpose(0, 1), weights
