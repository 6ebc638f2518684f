"""Slopes of the lines below ReLUs, found by gradients so that margins over one box are bounded as tightly as may be.

Below a ReLU whose bend lies inside its interval every line through the bend with a slope from 0 to 1 is sound; CROWN
takes 0 or 1. Here each neuron has a slope of its own for each of the margins, and for each end of each neuron inside
that lines go backward from. What is found for one box is sound in any other, and about as tight in one that differs in
a pixel.

Source: Xu et al., *Fast and Complete: Enabling Complete Verification with Rapid and Massively Parallel Incomplete
Verifiers* (alpha-CROWN).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suffice.guarantees.bounds.crown import (
    Bounds,
    Slopes,
    bounds_of,
    columns,
    form_bounds,
    form_rows,
    largest,
    neurons,
    to_image,
)
from suffice.guarantees.bounds.layer import Box, Rows
from suffice.guarantees.bounds.network import Network
from suffice.guarantees.bounds.rectifier import Rectifier

_MOST = 8_000_000  # numbers of the slopes for one node; with more its lines stay those of CROWN
_RATE = 0.25
_ENOUGH = 0.3  # logits; what a margin has beyond the goal counts no more than that
_STALLED = 0.02  # of what is missing: if a step gains less, the goal is given up


def optimised(
    network: Network,
    images: Box,
    forms: Tensor,
    needed: Tensor,
    steps: int,
    goal: float = math.inf,
    near: Slopes | None = None,
) -> Bounds:
    """Bounds over one box whose slopes raise the least of some forms of the logits.

    Args:
        network: of which.
        images: one box (1, C, H, W).
        forms: (R, K), such as margins.
        needed: (R,), what each must exceed.
        steps: of Adam, at most.
        goal: the least form exceeds what it must by so much: then no step is taken any more. A finite goal is given up
            where the steps no longer lead there.
        near: slopes to start from; None for those of CROWN.

    Returns:
        The best that were found, of CROWN's among them.
    """
    with torch.no_grad():
        if near is None:
            best = bounds_of(network, images, "crown")
            start = first_slopes(network, best, forms)
            best = Bounds(best.boxes, best.intervals, best.opened, start)
        else:
            start = {key: value.to(network.dtype) for key, value in near.items()}
            best = bounds_of(network, images, "crown", slopes=start)
        least = float(_left(network, best, forms, needed).min())
    if least > goal:
        return best
    slopes = {key: value.clone().requires_grad_() for key, value in start.items()}
    if not slopes:
        return best
    # The first bounds are those of the slopes that it starts from.
    optimiser, before = torch.optim.Adam(slopes.values(), _RATE), -math.inf
    for _ in range(steps):
        with torch.enable_grad():
            found = bounds_of(network, images, "crown", slopes=slopes)
            left = _left(network, found, forms, needed)
        value = float(left.detach().min())
        if value > least:
            kept = {key: each.detach().clone() for key, each in slopes.items()}
            boxes, intervals = (
                [Box(*(end.detach() for end in box)) for box in every] for every in (found.boxes, found.intervals)
            )
            best, least = Bounds(boxes, intervals, found.opened, kept), value
        if least > goal or (value - before < _STALLED * (goal - value) < math.inf):
            break
        before = value
        optimiser.zero_grad()
        with torch.enable_grad():
            (-left.clamp(max=max(value, 0.0) + _ENOUGH).sum()).backward()
        optimiser.step()
        with torch.no_grad():
            for each in slopes.values():
                each.clamp_(0, 1)
    return best


def _left(network: Network, bounds: Bounds, forms: Tensor, needed: Tensor) -> Tensor:
    return form_bounds(network, bounds, torch.zeros(len(forms), dtype=torch.int64), forms) - needed


def first_slopes(network: Network, bounds: Bounds, forms: Tensor) -> Slopes:
    """The slopes that CROWN has in one box, of all rows that there can be."""
    found: Slopes = {}
    for number in bounds.opened:
        node = network.nodes[number]
        if node.patches:
            places = torch.ones(1, *node.shape[1:]).nonzero()
            count, rows = 2 * node.shape[0], columns(node, places, network.dtype)
        else:
            places = torch.ones(1, *node.shape).nonzero()
            count, rows = 2, neurons(node, places, network.dtype)
        if len(places) * count * largest(network, number) <= _MOST:
            found |= _slopes_on_the_way(network, number, rows, bounds)
    end = len(network.nodes) - 1
    rows = form_rows(network, torch.zeros(len(forms), dtype=torch.int64), forms)
    return found | _slopes_on_the_way(network, end, rows, bounds)


def _slopes_on_the_way(network: Network, number: int, rows: Rows, bounds: Bounds) -> Slopes:
    """By ReLU that rows of a node pass on their way to the image, those that CROWN takes there."""
    found: Slopes = {}

    def note(current: int, rows: Rows) -> None:
        node = network.nodes[current]
        if isinstance(node.layer, Rectifier) and node.layer.has_free_slope:
            below = rows.of(node.layer.lines(bounds.boxes[node.inputs[0]]).lower_slope)
            shape = torch.broadcast_shapes(below.shape, rows.coefficients.shape)
            found[number, current] = below.expand(shape).clone()

    to_image(network, number, rows, bounds.boxes, seen=note)
    return found
