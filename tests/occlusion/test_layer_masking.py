"""Layer masking against hand-worked cases, a slow reading, and the invariants of every occlusion."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.occlusion.layer_masking import filled_from_neighbours, layer_masked_forward


def test_filling_by_hand() -> None:
    value = torch.tensor([[[[8.0, 2.0, 5.0], [5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]]])
    on = torch.tensor([[[[1, 1, 0], [0, 0, 0], [0, 0, 0]]]], dtype=torch.bool)
    once = torch.tensor([[[[8.0, 2.0, 2.0], [5.0, 5.0, 2.0], [0.0, 0.0, 0.0]]]])
    torch.testing.assert_close(filled_from_neighbours(value, on, 1), once)
    twice = filled_from_neighbours(value, on, 2)
    torch.testing.assert_close(twice[0, 0, 2], torch.tensor([5.0, 4.0, 3.5]))
    torch.testing.assert_close(twice[0, 0, :2], once[0, 0, :2])
    assert not filled_from_neighbours(value, torch.zeros_like(on), 3).any()


def slowly_filled(value: np.ndarray, on: np.ndarray, times: int) -> np.ndarray:
    value, on = value * on, on.copy()
    for _ in range(times):
        new, reached = value.copy(), on.copy()
        for i, j in zip(*np.nonzero(~on), strict=True):
            rows, columns = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
            near = on[rows, columns]
            if near.any():
                new[:, i, j] = value[:, rows, columns][:, near].mean(1)
                reached[i, j] = True
        value, on = new, reached
    return value


@pytest.mark.parametrize("kind", ["one mask", "a mask a channel", "with gradients"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_filling_of_any_mask_read_slowly(kind: str, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    for density in (0.02, 0.2, 0.8):
        value = torch.randn(3, 2, 7, 9, generator=generator).contiguous(memory_format=layout)
        on = torch.rand(3, 1, 7, 9, generator=generator) < density
        given = on.repeat(1, 2, 1, 1) if kind == "a mask a channel" else on
        value.requires_grad_(kind == "with gradients")
        before = given.clone()
        for times in (1, 3):
            filled = filled_from_neighbours(value, given, times).detach().numpy()
            for row in range(3):
                expected = slowly_filled(value.detach()[row].numpy(), on[row, 0].numpy(), times)
                np.testing.assert_allclose(filled[row], expected, atol=1e-6)
        assert torch.equal(given, before)


def test_two_convolutions_read_slowly() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 5, stride=2, padding=2), nn.Conv2d(4, 2, 3, padding=1)
    images = torch.randn(1, 3, 24, 24)
    mask = torch.zeros(24, 24, dtype=torch.bool)
    mask[3:9, 4:10] = True
    mask[20, 20] = True
    with torch.no_grad():
        z = torch.from_numpy(slowly_filled(images[0].numpy(), mask.numpy(), 5))
        z = F.relu(first(z))
        on = F.max_pool2d(mask[None].float(), 5, 2, 2)[0] > 0
        z = second(torch.from_numpy(slowly_filled(z.numpy(), on.numpy(), 3)))
        on = F.max_pool2d(on[None].float(), 3, 1, 1)[0] > 0
        expected = (z * on).sum((1, 2)) / on.sum()
        model = nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        torch.testing.assert_close(layer_masked_forward(model, images, mask[None])[0], expected)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_everything_kept_changes_nothing_and_nothing_leaks(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=10).eval()
    images = torch.randn(3, 3, 64, 64)
    masks = torch.ones(3, 64, 64, dtype=torch.bool)
    masks[1, :, :40] = False
    masks[2] = False
    hidden = images.masked_fill(~masks[:, None], torch.nan)
    with torch.inference_mode():
        plain: Tensor = model(images)
        logits = layer_masked_forward(model, images, masks)
        assert torch.equal(logits[0], plain[0])
        assert torch.equal(logits, layer_masked_forward(model, hidden, masks))
        assert logits.isfinite().all()
        assert (logits[1:] - plain[1:]).abs().max() > 0


def test_bad_masks() -> None:
    with pytest.raises(InputError, match="bool masks"):
        layer_masked_forward(nn.Conv2d(3, 1, 3), torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8))
