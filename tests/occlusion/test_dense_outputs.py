"""Maps as outputs: zero where they are off, whichever other masks share the batch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from suffice.occlusion.deactivation import deactivated_forward

SPEC = importlib.util.spec_from_file_location("algorithm_1", Path(__file__).parents[2] / "experiments/algorithm_1.py")
assert SPEC is not None
assert SPEC.loader is not None
algorithm = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(algorithm)

SIZE = 48


class Segments(nn.Module):
    """Down, up and a skip, with a bias in the last layer: a score for each class and pixel."""

    def __init__(self, upsample: bool = True) -> None:
        super().__init__()
        self.down, self.mix = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.skip, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        low = torch.relu(self.mix(torch.relu(self.down(x))))
        if not self.upsample:
            return self.head(low)
        return self.head(nn.functional.interpolate(low, scale_factor=2.0, mode="nearest") + self.skip(x))


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            elif name.endswith("bias"):
                tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4)

    return build


def example() -> tuple[Tensor, Tensor]:
    """Images, and masks that keep a small box, scattered cells, nothing, and everything."""
    images = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(4, SIZE, SIZE, dtype=torch.bool)
    masks[0, 10:18, 20:30] = True
    cells = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) > 0.7
    masks[1] = cells.repeat_interleave(8, 0).repeat_interleave(8, 1)
    masks[3] = True
    return images, masks


def maps(output: Any) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else list(output.values())


MODELS = {
    "segments": Segments,
    "without a skip": lambda: Segments(upsample=False),
    "fcn_resnet50": torchvision_model("fcn_resnet50"),
    "lraspp_mobilenet_v3_large": torchvision_model("lraspp_mobilenet_v3_large"),
}


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_a_map_does_not_depend_on_the_other_masks_of_its_batch(name: str, fast: bool) -> None:
    torch.manual_seed(0)
    model = randomised(MODELS[name]())
    images, masks = example()
    with torch.no_grad():
        together = maps(deactivated_forward(model, images, masks, fast=fast))
        whole = maps(model(images))
        for n in range(len(images)):
            alone = maps(deactivated_forward(model, images[n : n + 1], masks[n : n + 1], fast=fast))
            for one, both, plain in zip(alone, together, whole, strict=True):
                torch.testing.assert_close(one[0], both[n], rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    for both, plain in zip(together, whole, strict=True):
        assert torch.equal(both[3], plain[3])  # Theorem 1


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_off_in_a_map_is_zero(fast: bool, threshold: float) -> None:
    torch.manual_seed(0)
    model = randomised(Segments())
    images, masks = example()
    with torch.no_grad():
        out = deactivated_forward(model, images, masks, threshold=threshold, fast=fast)
    assert not out[2].any()  # nothing is kept
    assert not out[0, :, :5].any()  # far from the box
    assert out[0, :, 12:16, 22:28].all()


def test_what_is_off_is_zero_in_the_reading_of_algorithm_1() -> None:
    """The same map, by the reading that shares no code with the rules."""
    torch.manual_seed(0)
    model = randomised(Segments()).double()
    images, masks = example()
    out = deactivated_forward(model, images.double(), masks)
    for n in range(3):
        torch.testing.assert_close(
            out[n], algorithm.algorithm_1(model, images[n].double(), masks[n])[0], rtol=0, atol=1e-12
        )
