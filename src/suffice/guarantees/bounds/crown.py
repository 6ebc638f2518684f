"""Bounds of a network's logits over boxes of images, batched: by intervals, and by straight lines that go backward.

| bound | of the neurons inside | of the margins |
|---|---|---|
| `interval` | intervals | intervals |
| `crown-ibp` | intervals | backward |
| `crown` | backward where intervals leave open on which side of a bend they are, the tighter of both | backward |
| `alpha-crown` | as `crown`, by lines whose slopes were found by gradients (`slopes.py`) | likewise |

Source: Gowal et al., *On the Effectiveness of Interval Bound Propagation*; Zhang et al., *Towards Stable and Efficient
Training of Verifiably Robust Neural Networks* (CROWN-IBP); Zhang et al., *Efficient Neural Network Robustness
Certification with General Activation Functions* (CROWN).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from suffice.guarantees.bounds.layer import Box, Rows, summed
from suffice.guarantees.bounds.network import Network, Node
from suffice.guarantees.bounds.rectifier import Rectifier

Method = Literal["interval", "crown-ibp", "crown", "alpha-crown"]
METHODS: tuple[str, ...] = get_args(Method)

Slopes = dict[tuple[int, int], Tensor]
"""Of the lines below a ReLU, in [0, 1]: by the node whose rows go backward and the ReLU's own node, (N, S, …).

N are the rows there can be of that node: places of its map where it has patches, else its elements; of the last node
the forms. S and what follows are as of the rows' coefficients.
"""

_NUMBERS = 2_000_000  # of one batch of rows, at its largest
_DENSE = 0.3  # share of a map's neurons at a place that are open, from which all of them go back side by side


@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """What each node of a network lies between, over each of some boxes of images.

    Attributes:
        boxes: by node.
        intervals: the same as the boxes of the nodes before left it, before any line went backward from it.
        opened: by node from which lines went backward, the elements from which they did, bool (B, …).
        slopes: of the lines below; empty for those of CROWN.
    """

    boxes: list[Box]
    intervals: list[Box]
    opened: dict[int, Tensor]
    slopes: Slopes = dataclasses.field(default_factory=dict)


def bounds_of(
    network: Network, images: Box, method: Method = "crown", base: Bounds | None = None, slopes: Slopes | None = None
) -> Bounds:
    """What each node lies between.

    Args:
        network: of which.
        images: boxes (B, C, H, W) in [0, 1].
        method: of the neurons inside; see above.
        base: bounds by the same method over one box; what the boxes do not change of it is taken from there, and its
            slopes.
        slopes: of the lines below, sound whatever they are; None for those of the base, or of CROWN.
    """
    slopes = slopes if slopes is not None else base.slopes if base is not None else {}
    found, intervals, opened = [images], [images], dict[int, Tensor]()
    changed = [] if base is None else [(images.lower != base.boxes[0].lower) | (images.upper != base.boxes[0].upper)]
    bounded = set(network.bounded) if method in ("crown", "alpha-crown") else set()
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
            box = _refined(network, number, box, found, open_, slopes)
        found.append(box if base is None or wanted is None else _where(wanted, box, base.boxes[number]))
    return Bounds(found, intervals, opened, slopes)


def _where(wanted: Tensor, box: Box, other: Box) -> Box:
    return Box(torch.where(wanted, box.lower, other.lower), torch.where(wanted, box.upper, other.upper))


def _open(network: Network, number: int, box: Box) -> Tensor:
    """The elements of a node whose bounds make a difference to what reads it."""
    found = torch.zeros_like(box.lower, dtype=torch.bool)
    for reader in network.nodes[number + 1 :]:
        if number in reader.inputs and reader.layer is not None and (open_ := reader.layer.open(box)) is not None:
            found |= open_
    return found


def _refined(network: Network, number: int, box: Box, found: list[Box], open_: Tensor, slopes: Slopes) -> Box:
    """The box of a node, tighter where it is open."""
    lower, upper = box.lower.clone(), box.upper.clone()
    node = network.nodes[number]
    places = open_.any(1).nonzero() if node.patches else open_.nonzero()
    free = any(start == number for start, _ in slopes)
    together = node.patches and (free or int(open_.sum()) > _DENSE * len(places) * node.shape[0])
    places = places if together else open_.nonzero()
    step = max(1, _NUMBERS // (largest(network, number) * (2 * node.shape[0] if together else 2)))
    for part in places.split(step) if len(places) else ():
        one = columns(node, part, lower.dtype) if together else neurons(node, part, lower.dtype)
        which = row_numbers(node, part) if free else None
        ends = least(to_image(network, number, one, found, slopes, which), found[0])
        half = ends.shape[1] // 2
        where = (part[:, 0], slice(None), part[:, 1], part[:, 2]) if together else tuple(part.T)
        low = torch.maximum(lower[where], ends[:, :half].view(lower[where].shape))
        high = torch.minimum(upper[where], -ends[:, half:].view(lower[where].shape))
        # Rounding may put two ends that are equal in the other order. What came along by being beside what is open
        # stays as it was, so that no bound depends on what else is in the batch.
        lower[where] = torch.where(open_[where], torch.minimum(low, high), lower[where])
        upper[where] = torch.where(open_[where], torch.maximum(low, high), upper[where])
    return Box(lower, upper)


def largest(network: Network, number: int) -> int:
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


def neurons(node: Node, places: Tensor, dtype: torch.dtype) -> Rows:
    """Rows that are single elements of a node and their opposites: by them both ends are lower bounds."""
    count, patch = len(places), node.patches
    which = torch.arange(count)
    one = torch.zeros(count, 2, *((node.shape[0], 1, 1) if patch else node.shape), dtype=dtype)
    inside = (places[:, 1], 0, 0) if patch else tuple(places[:, 1:].T)
    one[(which, 0, *inside)], one[(which, 1, *inside)] = 1.0, -1.0
    return Rows(one, places[:, 0], one.new_zeros(count, 2), places[:, 2:] if patch else None)


def columns(node: Node, places: Tensor, dtype: torch.dtype) -> Rows:
    """Rows that are all channels of a node at some places (box, row, column) of its map, then their opposites."""
    one = torch.eye(node.shape[0], dtype=dtype)
    both = torch.cat([one, -one])[None, :, :, None, None]
    return Rows(both, places[:, 0], both.new_zeros(len(places), both.shape[1]), places[:, 1:])


def row_numbers(node: Node, places: Tensor) -> Tensor:
    """Which of the rows of a node, int64 (M,), those at these places (box, row, column) or elements (box, …) are."""
    size = node.shape[1:] if node.patches else node.shape
    number = torch.zeros(len(places), dtype=torch.int64)
    for place, length in zip(places[:, places.shape[1] - len(size) :].T, size, strict=True):
        number = number * length + place
    return number


def to_image(
    network: Network,
    number: int,
    rows: Rows,
    found: Sequence[Box],
    slopes: Slopes | None = None,
    which: Tensor | None = None,
    seen: Callable[[int, Rows], None] | None = None,
) -> Rows:
    """Rows of a node, as rows of the image that are nowhere larger in the boxes.

    Args:
        network, number, rows: of which node.
        found: the boxes of the nodes before it.
        slopes: of the lines below.
        which: int64 (M,), the rows' numbers among those that the slopes are of.
        seen: called with each node's number and its rows, before they go through it.
    """
    waiting, slopes = {number: rows}, slopes or {}
    for current in range(number, 0, -1):
        if current not in waiting:
            continue
        node, rows = network.nodes[current], waiting.pop(current)
        assert node.layer is not None
        rows = rows if node.layer.ignores_outside else rows.inside(node.shape[1:])
        if seen is not None:
            seen(current, rows)
        own = slopes.get((number, current))
        if own is not None and isinstance(node.layer, Rectifier):
            own = own if which is None else own[which]
            parts = node.layer.back(rows, found[node.inputs[0]], slopes=own)
        else:
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


def form_bounds(
    network: Network,
    bounds: Bounds,
    box: Tensor,
    forms: Tensor,
    method: Method = "crown",
    which: Tensor | None = None,
) -> Tensor:
    """Lower bounds (M,) of linear forms of the logits, such as margins, the tighter of intervals and lines.

    Args:
        network, bounds: of which, by `bounds_of`.
        box: int64 (M,), over which box each is bounded.
        forms: (M, K), their coefficients.
        method: `interval` leaves the lines out.
        which: int64 (M,), the forms' numbers among those that the slopes of the bounds are of; None: all of them.
    """
    last, forms = bounds.boxes[-1], forms.to(network.dtype)
    low, high = last.lower.flatten(1)[box], last.upper.flatten(1)[box]
    by_interval = (forms.clamp(min=0) * low + forms.clamp(max=0) * high).sum(1)
    if method == "interval" or not len(box):
        return by_interval
    step = max(1, _NUMBERS // max(torch.Size(node.shape).numel() for node in network.nodes))
    which = torch.arange(len(box)) if which is None else which
    end, found, parts = len(network.nodes) - 1, bounds.boxes, list[Tensor]()
    for boxes, some, numbers in zip(box.split(step), forms.split(step), which.split(step), strict=True):
        rows = to_image(network, end, form_rows(network, boxes, some), found, bounds.slopes, numbers)
        parts.append(least(rows, found[0])[:, 0])
    return torch.maximum(torch.cat(parts), by_interval)
