"""Noise that goes through a network, to see what its modules return and whether that has an effect; not counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.engine import ByRow, exclusive
from suffice.features.dataflow import Dataflow, Fact, Place
from suffice.features.layout import Seen
from suffice.features.outputs import replaced, tensor_at, tensors_in
from suffice.features.stage import Stage
from suffice.outputs import as_logits


def probe(classifier: Classifier, module: nn.Module) -> list[Seen]:
    """What every module returns in one forward pass, in the order in which calls end, and what becomes of it."""
    seen: list[Seen] = []
    places: list[Place | None] = []
    calls: dict[str, int] = {}
    facts: list[Fact] | None = None
    flow = Dataflow(torch.empty(0))
    rows = 0
    handles: list[Any] = []

    def forward(root: Any, images: Tensor) -> Any:
        nonlocal facts, flow, rows
        for noted in (seen, places, calls):
            noted.clear()  # of a pass that did not fit in memory
        x, rows = classifier.normalise(images), len(images)
        with Dataflow(x) as flow:
            output = root(x)
            logits = as_logits(output)
        facts = flow.facts(places, logits)
        return output

    def hook_of(name: str) -> Any:
        def hook(submodule: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            call = calls.get(name, 0)
            calls[name] = call + 1
            found = list(tensors_in(output))
            flow.module_returned((args, kwargs), [tensor for _, tensor in found])
            for path, tensor in found:
                # What has no row for each image does not come from the images: a table of positions, windows.
                if tensor.ndim >= 1 and len(tensor) == rows:
                    seen.append(Seen(name, submodule, call, path, tuple(tensor.shape[1:])))
                    places.append(flow.place(tensor))

        return hook

    with exclusive(module):
        try:
            for name, submodule in module.named_modules():
                if isinstance(submodule, torch.jit.ScriptModule):  # whose calls nobody sees
                    continue
                handles.append(submodule.register_forward_hook(hook_of(name), with_kwargs=True))
            pass_uncounted(classifier, forward)
        finally:
            for handle in handles:
                handle.remove()
    if facts is None:
        return seen
    return [dataclasses.replace(one, fact=fact) for one, fact in zip(seen, facts, strict=True)]


def pass_uncounted(classifier: Classifier, forward: Callable[[Any, Tensor], Any]) -> tuple[Tensor, ...]:
    """Two images of noise through the network, not counted; what the question returns by row."""
    rows = 1 if classifier.batch_size == 1 else 2
    size = (rows, len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
    noise = torch.rand(size, generator=torch.Generator().manual_seed(0))
    return classifier.ask(forward, noise, batch_size=rows, counted=False).extras


def has_effect(classifier: Classifier, stage: Stage) -> bool:
    """Whether the logits are a function of what a stage returns for the places of the image.

    NaN there becomes NaN in the logits, also where a weight on the way is zero, which would stop a gradient.
    """
    calls = 0

    def start(root: nn.Module, args: Any) -> None:
        nonlocal calls
        calls = 0

    def spoil(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != stage.call + 1:
            return None
        spoilt = tensor_at(output, stage.path).clone()
        stage.maps(spoilt).fill_(torch.nan)
        return replaced(output, stage.path, spoilt)

    def forward(module: Any, images: Tensor) -> Any:
        output = module(classifier.normalise(images))
        spoilt = [bool(tensor.isnan().any()) for _, tensor in tensors_in(output)]
        for path, tensor in list(tensors_in(output)):
            output = replaced(output, path, tensor.nan_to_num())
        return ByRow(output, (torch.full((len(images),), any(spoilt)),))

    root = classifier.require_module("finding spatial activations")
    with exclusive(root):
        handles = [root.register_forward_pre_hook(start), stage.module.register_forward_hook(spoil)]
        try:
            (effect,) = pass_uncounted(classifier, forward)
        finally:
            for handle in handles:
                handle.remove()
    return bool(effect.any())
