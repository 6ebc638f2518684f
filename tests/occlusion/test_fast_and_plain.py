"""A fast pass equals the plain one, operator by operator as the rules have it, on networks made of random parts.

What the plain one is worth by itself is seen in `test_deactivation_reference.py` and `test_rules.py`.
"""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import PARTS, random_masks, random_network
from torch import Tensor, nn

from suffice.occlusion.deactivation import deactivated_forward, masked_forward
from suffice.occlusion.layer_masking import layer_fill
from suffice.occlusion.rules import DeactivationSettings
from suffice.occlusion.shortcuts import fusion

# Of even kernels, which are meant to be among the parts.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")

NETWORK = {
    "names": st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=6),
    "seed": st.integers(0, 2**31 - 1),
    "count": st.sampled_from([1, 2, 4]),
}
OPTIONS = {
    "threshold": st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5]),
    "add": st.sampled_from(["union", "intersection"]),
    "pooling": st.sampled_from(["literal", "renormalised"]),
}


def example(names: list[str], seed: int, count: int, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images and masks."""
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return random_network(names, seed).to(dtype), images.to(dtype), random_masks(seed, count)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(**NETWORK, **OPTIONS)
def test_fast_equals_plain(names, seed, count, **options) -> None:
    check(names, seed, count, **options)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, derandomize=True)
@given(**NETWORK, **OPTIONS)
def test_fast_equals_plain_on_thousands(names, seed, count, **options) -> None:
    check(names, seed, count, **options)


def check(names: list[str], seed: int, count: int, **options) -> None:
    """The same logits by both; those of a plain pass where all is kept, to the last bit; and nothing leaks."""
    model, images, masks = example(names, seed, count, torch.float64)
    hidden = images.masked_fill(~masks[:, None], torch.nan)
    whole = masks.flatten(1).all(1)
    with torch.inference_mode():
        unmasked = model(images.clone())  # some parts work in place
        fast = deactivated_forward(model, hidden.clone(), masks, **options)
        plain = deactivated_forward(model, hidden.clone(), masks, **options, fast=False)
    assert plain.isfinite().all()
    torch.testing.assert_close(fast, plain, rtol=1e-8, atol=1e-8)
    assert torch.equal(fast[whole], unmasked[whole])
    assert torch.equal(plain[whole], unmasked[whole])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**NETWORK, **OPTIONS)
def test_norms_folded_into_kernels(names, seed, count, **options) -> None:
    model, images, masks = example(["block", *names, "block"], seed, count, torch.float32)
    with torch.inference_mode(), mock.patch.object(fusion, "_LARGE", 1):
        fast = deactivated_forward(model, images.clone(), masks, **options)
        plain = deactivated_forward(model, images.clone(), masks, **options, fast=False)
    torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max().clamp(min=1)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**NETWORK)
def test_layer_masking(names, seed, count) -> None:
    model, images, masks = example(names, seed, count, torch.float64)
    chosen = DeactivationSettings(0.0, "intersection", "renormalised", fill=layer_fill)
    with torch.inference_mode():
        fast = masked_forward(model, images.clone(), masks, chosen)
        plain = masked_forward(model, images.clone(), masks, chosen, fast=False)
    torch.testing.assert_close(fast, plain, rtol=1e-8, atol=1e-8)


SMOOTH = ["convolution", "depthwise", "grouped", "concatenation", "squeeze_and_excitation", "context", "transposed"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(**NETWORK | {"names": st.lists(st.sampled_from(SMOOTH), min_size=1, max_size=5)}, **OPTIONS)
def test_gradients(names, seed, count, **options) -> None:
    model, images, masks = example(names, seed, count, torch.float64)
    found = []
    for fast in (True, False):
        x = images.clone().requires_grad_()
        logits = deactivated_forward(model, x * 1.0, masks, **options, fast=fast)
        found.append(torch.autograd.grad(logits.square().sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)
