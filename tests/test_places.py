"""Maps and detections read at a place, against the map itself and against a detector whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import suffice
from suffice.occlusion import make_occlusion
from suffice.occlusion.deactivation import deactivated_forward

SIZE = 32


class Segments(nn.Module):
    """Down, up and a skip, with a bias in the last layer: scores of four classes at half of the input's resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mix = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": 4 * self.head(torch.relu(self.mix(torch.relu(self.down(x)))))}


def classifier_of(network: nn.Module) -> suffice.Classifier:
    return suffice.Classifier(
        network.eval(), input_size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=["a", "b", "c", "d"]
    )


@pytest.fixture(scope="module")
def segments() -> suffice.Classifier:
    torch.manual_seed(0)
    return classifier_of(Segments())


@pytest.fixture(scope="module")
def lraspp() -> suffice.Classifier:
    torch.manual_seed(0)
    network = torchvision.models.get_model(
        "lraspp_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
    )
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator))
    return classifier_of(network)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def masks() -> Tensor:
    """A box far from the corner, scattered cells, nothing, everything."""
    found = torch.zeros(4, SIZE, SIZE, dtype=torch.bool)
    found[0, 16:28, 14:30] = True
    cells = torch.rand(8, 8, generator=torch.Generator().manual_seed(3)) > 0.7
    found[1] = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)
    found[3] = True
    return found


@pytest.mark.parametrize("occlusion", ["zero", "deactivate"])
def test_a_place_reads_the_map(segments: suffice.Classifier, occlusion: str) -> None:
    module, some = segments.require_module("a test"), images(4)
    shown = torch.where(masks()[:, None], some, torch.tensor(0.5))
    with torch.no_grad():
        if occlusion == "zero":
            whole = module(segments.normalise(shown))["out"]
        else:
            whole = deactivated_forward(module, segments.normalise(some), masks())["out"]
    region = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    region[3:9, 20:31] = True  # half of some positions of the map
    inside = region.reshape(16, 2, 16, 2).float().mean((1, 3))
    for place, expected in (
        (suffice.Pixel(21, 18), whole[:, :, 10, 9]),
        (suffice.Region(region), (whole * inside).sum((2, 3)) / inside.sum()),
    ):
        found = suffice.masked_logits(segments.at(place), some, masks(), occlusion)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["segments", "lraspp"])
def test_a_place_does_not_depend_on_the_other_masks_of_its_batch(name: str, request: pytest.FixtureRequest) -> None:
    classifier = request.getfixturevalue(name)
    corner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    corner[:4, :4] = True
    for place in (suffice.Pixel(1, 1), suffice.Region(corner)):
        here = classifier.at(place)
        together = suffice.masked_logits(here, images(4), masks(), "deactivate")
        for n in range(4):
            alone = suffice.masked_logits(here, images(4)[n : n + 1], masks()[n : n + 1], "deactivate")
            torch.testing.assert_close(alone[0], together[n], rtol=1e-5, atol=1e-5)
        assert not together[2].any()  # nothing is kept: the map is off, and zero
    assert suffice.masked_logits(classifier.at(suffice.Pixel(1, 1)), images(4), masks(), "zero")[
        2
    ].any()  # not of a fill


def test_a_pixel_is_explained_by_what_it_sees(segments: suffice.Classifier) -> None:
    place, before = suffice.Pixel(10, 20), segments.forward_passes
    found = suffice.explain(segments, images(1)[0], target=place, occlusion="min", block=1, keep_confidence=0.9)
    assert found.sufficient
    assert segments.forward_passes - before == found.forward_passes > 0  # one network, one count
    rows, columns = found.mask.nonzero().T
    # Of the map's position (5, 10) the receptive field is rows 7 to 13 and columns 17 to 23.
    assert 7 <= int(rows.min()) <= int(rows.max()) <= 13
    assert 17 <= int(columns.min()) <= int(columns.max()) <= 23
    shown = torch.where(found.mask, images(1), 0.0)
    with torch.no_grad():
        scores = segments.require_module("a test")(segments.normalise(shown))["out"][0, :, 5, 10]
    assert int(scores.argmax()) == found.target
    assert found.target_name == "abcd"[found.target]
    assert float(scores.softmax(0)[found.target]) == pytest.approx(found.explanation_confidence, abs=1e-5)
    assert "Explained is what the model says of the pixel at row 10, column 20." in found.notes


def test_a_region_of_torchvisions_network_is_explained(lraspp: suffice.Classifier) -> None:
    region = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    region[8:24, 8:24] = True
    for occlusion in ("zero", "deactivate"):
        found = suffice.explain(lraspp, images(1)[0], target=suffice.Region(region), occlusion=occlusion, block=8)
        logits = suffice.masked_logits(lraspp.at(suffice.Region(region)), images(1), found.mask[None], occlusion)
        assert found.sufficient
        assert int(logits.argmax()) == found.target
    for target in (0, "b"):
        asked = suffice.Question(lraspp, images(1)[0], suffice.Pixel(3, 4, target), occlusion="zero")
        assert asked.target == {0: 0, "b": 1}[target]


# Detectors


class RedSquares:
    """Finds the left half where it is red, and the right half where it is green, with the mean as the score."""

    def __call__(self, x: Tensor) -> list[dict[str, Tensor]]:
        half = x.shape[3] // 2
        found = []
        for image in x:
            scores = torch.stack([image[0, :, :half].mean(), image[1, :, half:].mean(), image[0, :, half:].mean()])
            boxes = torch.tensor([[0.0, 0, half, SIZE], [half, 0, SIZE, SIZE], [half, 0, SIZE, SIZE]])
            there = scores > 0.05
            found.append({"boxes": boxes[there], "labels": torch.tensor([1, 2, 1])[there], "scores": scores[there]})
        return found


def test_the_score_of_a_box_is_the_largest_score_times_overlap() -> None:
    classifier = suffice.Classifier(RedSquares(), input_size=(SIZE, SIZE), mean=(0,) * 3, std=(1,) * 3)
    image = torch.zeros(3, SIZE, SIZE)
    image[0, :, :16], image[1, :, 16:] = 0.9, 0.8
    here = classifier.at(suffice.DetectedBox((0, 0, 8, SIZE), 1))  # half of the box that there is
    shown = torch.ones(1, SIZE, SIZE, dtype=torch.bool)
    shown[:, :8] = False
    p = here.confidences(suffice.masked_logits(here, image[None], shown, "min"))[0]
    assert p.tolist() == pytest.approx([1 - 0.9 * 0.75 * 0.5, 0.9 * 0.75 * 0.5], abs=1e-5)
    nothing = suffice.masked_logits(here, image[None], torch.zeros_like(shown), "min")
    assert here.confidences(nothing)[0, 1] < 1e-30
    found = suffice.explain(
        classifier,
        image,
        target=suffice.DetectedBox((16, 0, SIZE, SIZE), 2),
        occlusion="min",
        block=4,
        keep_confidence=0.9,
    )
    assert (found.target, found.target_name) == (1, "2 detected")
    assert found.sufficient
    assert not found.mask[:, :16].any()
    assert found.confidence == pytest.approx(0.8)
    assert found.explanation_confidence == pytest.approx(0.8 * float(found.mask[:, 16:].float().mean()), abs=1e-5)


def test_a_detector_under_deactivation_names_the_operator_without_a_rule() -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    classifier = suffice.Classifier(
        network.eval(), input_size=(SIZE, SIZE), mean=(0,) * 3, std=(1,) * 3, outputs="logits"
    )
    here = classifier.at(suffice.DetectedBox((0, 0, 8, 8), 1))
    with pytest.raises(suffice.InputError, match="expected operators that have a deactivation rule, got"):
        suffice.masked_logits(here, images(1), masks()[:1], "deactivate")
    assert make_occlusion(here, "zero")(images(1), masks()[:1]).shape == (1, 2)


# Calls that cannot be answered


def test_other_outputs_and_places_that_are_not_there_say_so(segments: suffice.Classifier) -> None:
    with pytest.raises(suffice.InputError, match=r"expected logits .* say where with target=suffice\.Pixel"):
        suffice.Classifier(nn.Conv2d(3, 4, 1), input_size=(8, 8), outputs="logits").logits(torch.rand(1, 3, 8, 8))
    image = images(1)[0]
    for place, message in (
        (suffice.Pixel(SIZE, 0), "expected a pixel of the input, 32 x 32; got the pixel at row 32, column 0"),
        (suffice.Region(np.zeros((SIZE, SIZE), dtype=bool)), "not empty"),
        (suffice.Region(torch.ones(4, 4, dtype=torch.bool)), r"expected a region as bool \(32, 32\)"),
        (suffice.DetectedBox((0, 0, 1, 1), 1), "expected a detector's output"),
        (suffice.Pixel(0, 0, "e"), "e"),
    ):
        with pytest.raises(suffice.InputError, match=message):
            suffice.explain(segments, image, target=place, occlusion="zero")
    flat = suffice.Classifier(lambda x: x.mean((2, 3)), input_size=(8, 8), outputs="logits")
    with pytest.raises(suffice.InputError, match="expected a map of scores"):
        flat.at(suffice.Pixel(0, 0)).logits(torch.rand(1, 3, 8, 8))
