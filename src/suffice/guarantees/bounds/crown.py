"""Bounds of a network's logits over boxes of images, batched: by intervals, and by straight lines that go backward.

| bound | of the neurons inside | of the margins |
|---|---|---|
| `interval` | intervals | intervals |
| `crown-ibp` | intervals | backward |
| `crown` | backward where intervals leave open on which side of a bend they are, the tighter of both | backward |

Source: Gowal et al., *On the Effectiveness of Interval Bound Propagation*; Zhang et al., *Towards Stable and Efficient
Training of Verifiably Robust Neural Networks* (CROWN-IBP); Zhang et al., *Efficient Neural Network Robustness
Certification with General Activation Functions* (CROWN).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Box, Rows, summed
from suffice.guarantees.bounds.network import Network, Node

Method = Literal["interval", "crown-ibp", "crown"]
METHODS: tuple[str, ...] = get_args(Method)

_NUMBERS = 2_000_000  # of one batch of rows, at its largest
_DENSE = 0.3  # share of a map's neurons at a place that are open, from which all of them go back side by side


@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """What each node of a network lies between, over each of some boxes of images.

    Attributes:
        boxes: by node.
        intervals: the same as the boxes of the nodes before left it, before any line went backward from it.
        opened: by node from which lines went backward, the elements from which they did, bool (B, …).
    """

    boxes: list[Box]
    intervals: list[Box]
    opened: dict[int, Tensor]


def bounds_of(network: Network, images: Box, method: Method = "crown", base: Bounds | None = None) -> Bounds:
    """What each node lies between.

    Args:
        network: of which.
        images: boxes (B, C, H, W) in [0, 1].
        method: of the neurons inside; see above.
        base: bounds by the same method over one box; what the boxes do not change of it is taken from there.
    """
    found, intervals, opened = [images], [images], dict[int, Tensor]()
    changed = [] if base is None else [(images.lower != base.boxes[0].lower) | (images.upper != base.boxes[0].upper)]
    bounded = set(network.bounded) if method == "crown" else set()
    for number, node in enumerate(network.nodes[1:], 1):
        assert node.layer is not None
        box = node.layer.interval(*(found[i] for i in node.inputs))
        wanted = None
        if base is not None:
            wanted = node.layer.reached(*(changed[i] for i in node.inputs))
            changed.append(wanted)
            box = _where(wanted, box, base.intervals[number])
        intervals.append(box)
        if number in bounded and not node.exact:
            opened[number] = open_ = _open(network, number, box)
            if base is not None and wanted is not None:
                # What is open by its neighbours alone may have been closed in the base.
                wanted = changed[number] = wanted | (open_ & ~base.opened[number])
                open_ = open_ & wanted
            box = _refined(network, number, box, found, open_)
        found.append(box if base is None or wanted is None else _where(wanted, box, base.boxes[number]))
    return Bounds(found, intervals, opened)


def _where(wanted: Tensor, box: Box, other: Box) -> Box:
    return Box(torch.where(wanted, box.lower, other.lower), torch.where(wanted, box.upper, other.upper))


def _open(network: Network, number: int, box: Box) -> Tensor:
    """The elements of a node whose bounds make a difference to what reads it."""
    found = torch.zeros_like(box.lower, dtype=torch.bool)
    for reader in network.nodes[number + 1 :]:
        if number in reader.inputs and reader.layer is not None and (open_ := reader.layer.open(box)) is not None:
            found |= open_
    return found


def _refined(network: Network, number: int, box: Box, found: list[Box], open_: Tensor) -> Box:
    """The box of a node, tighter where it is open."""
    lower, upper = box.lower.clone(), box.upper.clone()
    node = network.nodes[number]
    places = open_.any(1).nonzero() if node.patches else open_.nonzero()
    together = node.patches and int(open_.sum()) > _DENSE * len(places) * node.shape[0]
    places = places if together else open_.nonzero()
    step = max(1, _NUMBERS // (_largest(network, number) * (2 * node.shape[0] if together else 2)))
    for part in places.split(step) if len(places) else ():
        one = _columns(node, part, lower.dtype) if together else _neurons(node, part, lower.dtype)
        ends = _back(network, number, one, found)
        half = ends.shape[1] // 2
        where = (part[:, 0], slice(None), part[:, 1], part[:, 2]) if together else tuple(part.T)
        low = torch.maximum(lower[where], ends[:, :half].view(lower[where].shape))
        high = torch.minimum(upper[where], -ends[:, half:].view(lower[where].shape))
        # Rounding may put two ends that are equal in the other order. What came along by being beside what is open
        # stays as it was, so that no bound depends on what else is in the batch.
        lower[where] = torch.where(open_[where], torch.minimum(low, high), lower[where])
        upper[where] = torch.where(open_[where], torch.maximum(low, high), upper[where])
    return Box(lower, upper)


def _largest(network: Network, number: int) -> int:
    """How many numbers a row has on its way to the image, at most."""
    node = network.nodes[number]
    if not node.patches:
        return max(torch.Size(each.shape).numel() for each in network.nodes[: number + 1])
    size, most = (1, 1), 1
    while node.layer is not None:
        size = node.layer.read_by(size) if hasattr(node.layer, "read_by") else size
        node = network.nodes[node.inputs[0]]
        most = max(most, node.shape[0] * size[0] * size[1])
    return most


def _neurons(node: Node, places: Tensor, dtype: torch.dtype) -> Rows:
    """Rows that are single elements of a node and their opposites: by them both ends are lower bounds."""
    count, patch = len(places), node.patches
    which = torch.arange(count)
    one = torch.zeros(count, 2, *((node.shape[0], 1, 1) if patch else node.shape), dtype=dtype)
    inside = (places[:, 1], 0, 0) if patch else tuple(places[:, 1:].T)
    one[(which, 0, *inside)], one[(which, 1, *inside)] = 1.0, -1.0
    return Rows(one, places[:, 0], one.new_zeros(count, 2), places[:, 2:] if patch else None)


def _columns(node: Node, places: Tensor, dtype: torch.dtype) -> Rows:
    """Rows that are all channels of a node at some places (box, row, column) of its map, then their opposites."""
    one = torch.eye(node.shape[0], dtype=dtype)
    both = torch.cat([one, -one])[None, :, :, None, None]
    return Rows(both, places[:, 0], both.new_zeros(len(places), both.shape[1]), places[:, 1:])


def _back(network: Network, number: int, rows: Rows, found: Sequence[Box]) -> Tensor:
    """Least values (M, S) of rows of a node over their boxes."""
    return least(to_image(network, number, rows, found), found[0])


def to_image(network: Network, number: int, rows: Rows, found: Sequence[Box]) -> Rows:
    """Rows of a node, as rows of the image that are nowhere larger in the boxes."""
    waiting = {number: rows}
    for current in range(number, 0, -1):
        if current not in waiting:
            continue
        node, rows = network.nodes[current], waiting.pop(current)
        assert node.layer is not None
        rows = rows if node.layer.ignores_outside else rows.inside(node.shape[1:])
        parts = node.layer.back(rows, *(found[i] for i in node.inputs))
        for i, part in zip(node.inputs, parts, strict=True):
            known = waiting.get(i)
            waiting[i] = part if known is None else part.plus(part.coefficients + known.coefficients, known.constant)
    return waiting[0]


def least(rows: Rows, images: Box) -> Tensor:
    """Least values (M, S) of rows of the image over their boxes."""
    centre, radius = rows.of((images.lower + images.upper) / 2), rows.of((images.upper - images.lower) / 2)
    coefficients = rows.coefficients
    return summed(coefficients, centre) - summed(coefficients.abs(), radius) + rows.constant


def form_rows(network: Network, box: Tensor, forms: Tensor) -> Rows:
    """Linear forms of the logits, (M, K), each over the box of that number in `box`, int64 (M,), as rows."""
    coefficients = forms.to(network.dtype).view(len(forms), 1, *network.nodes[-1].shape)
    return Rows(coefficients, box, torch.zeros(len(forms), 1, dtype=network.dtype))


def form_bounds(network: Network, bounds: Bounds, box: Tensor, forms: Tensor, method: Method = "crown") -> Tensor:
    """Lower bounds (M,) of linear forms of the logits, such as margins, the tighter of intervals and lines.

    Args:
        network, bounds: of which, by `bounds_of`.
        box: int64 (M,), over which box each is bounded.
        forms: (M, K), their coefficients.
        method: `interval` leaves the lines out.
    """
    last, forms = bounds.boxes[-1], forms.to(network.dtype)
    low, high = last.lower.flatten(1)[box], last.upper.flatten(1)[box]
    by_interval = (forms.clamp(min=0) * low + forms.clamp(max=0) * high).sum(1)
    if method == "interval" or not len(box):
        return by_interval
    step = max(1, _NUMBERS // max(torch.Size(node.shape).numel() for node in network.nodes))
    rows = zip(box.split(step), forms.split(step), strict=True)
    end = len(network.nodes) - 1
    parts = [_back(network, end, form_rows(network, *some), bounds.boxes)[:, 0] for some in rows]
    return torch.maximum(torch.cat(parts), by_interval)
