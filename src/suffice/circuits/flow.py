"""How channels pass through one operator: which channels of the layers before each element of a tensor is made from.

A `Flow` says it for one tensor. `labels` gives each element a row; each term is a matrix from the channels of one layer
to those rows: how much weight lies between. A convolution contributes the L1 norms of its kernels (the paper's
‖W_{d,s}‖₁), a batch norm the scale of each channel, a residual addition the identity; what only moves elements about
(reshape, chunk, a channel shuffle, flattening before a linear layer) is applied to the labels themselves. Along a path
of several operators the matrices are multiplied, and over several paths they are added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from suffice.errors import InputError

# A term's key: which layer it comes from, and how. `weight`: through kernels; `identity`: a skip connection, moved and
# scaled at most; `gate`: by way of a factor, as of squeeze-and-excitation or of attention's queries and keys.
Key = tuple[int, str]


@dataclasses.dataclass(eq=False)
class Flow:
    """Where a tensor's elements come from.

    Attributes:
        labels: int64, broadcasts to the tensor's shape; the row that an element belongs to, -1 for none (padding).
        rows: how many rows there are.
        terms: (rows, channels of a layer) each, at least 0; None stands for the identity.
        origin: path of the module that weighed or added last.
    """

    labels: Tensor
    rows: int
    terms: dict[Key, Tensor | None]
    origin: str = ""

    def with_labels(self, labels: Tensor) -> Flow:
        """The same rows, elsewhere."""
        return dataclasses.replace(self, labels=labels)

    def scaled(self, gain: Tensor, kind: str | None = None) -> Flow:
        """Each row times its gain, (rows,); `kind` as in `mapped`."""
        terms: dict[Key, Tensor | None] = {}
        for (layer, old), term in self.terms.items():
            scaled = torch.diag(gain) if term is None else gain[:, None] * term
            _add(terms, (layer, old if kind is None or old == "gate" else kind), scaled, self.rows)
        return dataclasses.replace(self, terms=terms)

    def mapped(self, matrix: Tensor, kind: str | None) -> Flow:
        """New rows made of the old ones by (new rows, rows); `kind` replaces all but `gate`."""
        terms: dict[Key, Tensor | None] = {}
        for (layer, old), term in self.terms.items():
            key = (layer, old if kind is None or old == "gate" else kind)
            _add(terms, key, matrix if term is None else matrix @ term, len(matrix))
        return dataclasses.replace(self, rows=len(matrix), terms=terms)


def along(dim: int, rank: int, count: int) -> Tensor:
    """Labels 0, 1, … along one dimension.

    >>> along(1, 3, 2).tolist()
    [[[0], [1]]]
    """
    return torch.arange(count).view([-1 if d == dim % rank else 1 for d in range(rank)])


def compact(labels: Tensor) -> Tensor:
    """The same labels with size 1 along each dimension that they do not vary along."""
    for dim in range(labels.ndim):
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1 and bool((labels == first).all()):
            labels = first
    return labels.contiguous()


def row_means(flow: Flow, values: Tensor) -> Tensor:
    """Mean of values, which broadcast with the labels, over each row: (rows,)."""
    values = values.detach().to("cpu", torch.float32)
    if values.ndim > flow.labels.ndim:
        raise InputError("expected a factor of no more dimensions than the activation that it scales")
    values, labels = torch.broadcast_tensors(values, flow.labels)
    known = labels.flatten() >= 0
    labels, values = labels.flatten()[known], values.flatten()[known]
    count = torch.bincount(labels, minlength=flow.rows)
    return torch.bincount(labels, weights=values, minlength=flow.rows).float() / count.clamp(min=1)


def merged(flows: Iterable[Flow]) -> Flow:
    """The sum of tensors: a row for each pair of rows that meet in an element, with the terms of both."""
    first, *rest = flows
    for other in rest:
        rank = max(first.labels.ndim, other.labels.ndim)
        a, b = (f.labels[(None,) * (rank - f.labels.ndim)] for f in (first, other))
        origin = first.origin
        if a.shape == b.shape and bool((a == b).all()):
            rows = max(first.rows, other.rows)
            terms: dict[Key, Tensor | None] = {}
            for flow in (first, other):
                for key, term in flow.terms.items():
                    _add(terms, key, term if flow.rows == rows else _extended(term, flow.rows, rows), rows)
            first = Flow(a, rows, terms, origin)
            continue
        a, b = torch.broadcast_tensors(a, b)
        pairs, labels = torch.unique((a + 1) * (other.rows + 1) + (b + 1), return_inverse=True)
        of_a, of_b = pairs // (other.rows + 1) - 1, pairs % (other.rows + 1) - 1
        terms = {}
        for flow, of in ((first, of_a), (other, of_b)):
            for key, term in flow.terms.items():
                full = as_matrix(term, flow.rows)
                _add(terms, key, full[of.clamp(min=0)] * (of >= 0)[:, None], len(pairs))
        first = Flow(compact(labels), len(pairs), terms, origin)
    return first


def collapsed(flow: Flow, dims: Iterable[int], *, mean: bool = False) -> Flow:
    """Rows that differ only along `dims` become one: their sum, or their mean."""
    labels, full = flow.labels, flow.labels
    for dim in dims:
        labels = labels.amax(dim, keepdim=True)
    if labels.shape == full.shape:
        return flow
    new, labels = torch.unique(labels, return_inverse=True)
    matrix = torch.zeros(len(new), flow.rows)
    known = full >= 0
    matrix[labels.expand_as(full)[known], full[known]] = 1
    if mean:
        matrix /= matrix.sum(1, keepdim=True).clamp(min=1)
    return flow.mapped(matrix, "weight").with_labels(labels)


def as_gate(flow: Flow) -> Flow:
    """The same rows, by way of a factor."""
    terms: dict[Key, Tensor | None] = {}
    for (layer, _), term in flow.terms.items():
        _add(terms, (layer, "gate"), term, flow.rows)
    return dataclasses.replace(flow, terms=terms)


def _add(terms: dict[Key, Tensor | None], key: Key, term: Tensor | None, rows: int) -> None:
    if key in terms:
        term = _extended(terms[key], rows, rows) + _extended(term, rows, rows)
    terms[key] = term


def _extended(term: Tensor | None, rows: int, wanted: int) -> Tensor:
    """A term as a matrix, with rows of zeros after its own."""
    matrix = as_matrix(term, rows)
    return F.pad(matrix, (0, 0, 0, wanted - rows)) if wanted > rows else matrix


def as_matrix(term: Tensor | None, rows: int) -> Tensor:
    """A term of a flow; None stands for the identity."""
    return torch.eye(rows) if term is None else term


def label_sums(values: Tensor, labels: Tensor, rows: int) -> Tensor:
    """The sum of all values of each label: (rows,), of the dtype of the values.

    Args:
        values: on the CPU.
        labels: int64, broadcasts to the values: the row of each element, -1 for none.
        rows: how many there are.

    >>> label_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, -1]]), 2)
    tensor([4., 0.])
    """
    for dim in range(values.ndim):
        if labels.shape[dim] == 1:
            values = values.sum(dim, keepdim=True)
    labels, values = labels.flatten(), values.flatten()
    known = labels >= 0
    return torch.bincount(labels[known], weights=values[known], minlength=rows)
