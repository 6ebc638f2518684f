"""captum's and Quantus's ways of calling an explainer give the numbers that `suffice.explain` gives."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Attribution, NoiseTunnel
from captum.metrics import infidelity
from torch import Tensor, nn

import suffice
from suffice.captum import SufficientPart
from suffice.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def classifier() -> suffice.Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 4)).eval()
    return suffice.Classifier(network, input_size=(16, 16), mean=MEAN, std=STD, outputs="logits", repeatable=True)


@pytest.fixture
def images() -> Tensor:
    return torch.rand((3, 3, 16, 16), generator=torch.Generator().manual_seed(1)).mul(255).round() / 255


def test_attributions_are_the_saliency_of_explain(classifier: suffice.Classifier, images: Tensor) -> None:
    method, targets = SufficientPart(classifier, occlusion="zero", block=4), [0, 1, 3]
    attributions = method.attribute(classifier.normalise(images), target=torch.tensor(targets))
    parts = method.parts(classifier.normalise(images), target=targets)
    assert isinstance(method, Attribution)
    assert attributions.shape == images.shape
    for image, target, found, part in zip(images, targets, attributions, parts, strict=True):
        expected = suffice.explain(classifier, image, occlusion="zero", target=target, block=4)
        assert torch.equal(part[0], expected.mask)
        for channel in found:
            torch.testing.assert_close(channel, expected.saliency)


def test_without_a_target_the_models_own_choice_is_explained(classifier: suffice.Classifier, images: Tensor) -> None:
    method = SufficientPart(classifier, occlusion="zero", block=4)
    found = method.explanations(classifier.normalise(images))
    assert [each.target for each in found] == classifier.logits(images).argmax(1).tolist()


def test_captums_own_tools_call_it(classifier: suffice.Classifier, images: Tensor) -> None:
    method, inputs = SufficientPart(classifier, "grad-cam", occlusion="zero", cell=4), classifier.normalise(images)
    once = method.attribute(inputs, target=1)
    # Without noise, the mean over samples is the attribution itself.
    tunnel = NoiseTunnel(method)
    torch.testing.assert_close(tunnel.attribute(inputs, nt_samples=2, stdevs=0.0, target=1), once)
    found = infidelity(
        method.logits_of_inputs,
        lambda x: (torch.zeros_like(x) + 0.01, x - 0.01),
        inputs,
        once,
        target=torch.tensor([1, 1, 1]),
        n_perturb_samples=1,
    )
    before, after = (method.logits_of_inputs(x)[:, 1] for x in (inputs, inputs - 0.01))
    expected = ((0.01 * once).flatten(1).sum(1) - (before - after)) ** 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_what_was_not_normalised_is_an_error(classifier: suffice.Classifier, images: Tensor) -> None:
    method = SufficientPart(classifier)
    with pytest.raises(InputError, match=r"normalised by mean .* pixels would be"):
        method.attribute(images * 255)
    with pytest.raises(InputError, match=r"expected inputs \(N, 3, 16, 16\); got \(3, 16, 16\)"):
        method.attribute(images[0])
    with pytest.raises(InputError, match="one target, or one for each of 3 inputs; got 2"):
        method.attribute(classifier.normalise(images), target=[1, 2])
    signals = suffice.Classifier(lambda x: x.mean(2), input_size=(8,), mean=(0, 0), std=(1, 1))
    with pytest.raises(InputError, match=r"suffice\.captum needs an input with two dimensions"):
        SufficientPart(signals).attribute(torch.rand(1, 2, 8))
    with pytest.raises(InputError, match=r"expected a suffice\.Classifier.*got Linear"):
        SufficientPart(nn.Linear(2, 2))  # type: ignore[arg-type]
