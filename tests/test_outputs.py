"""What a model's outputs mean: each version of one network gives the plain network's part, with confidences by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.benchmark.images import ModelImage
from suffice.engine import seeded
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.outputs import Meaning, as_tensor, found_out

SIZE = 32


class Plain(nn.Module):
    """Logits of two classes: how bright the lower half is, and how bright the top left corner."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(3, 2)
        self.head.weight.data = torch.tensor([[6.0, 0.5, 0.1], [0.5, 14.0, 0.2]])
        self.head.bias.data = torch.tensor([-2.4, -5.6])

    def forward(self, x: Tensor) -> Tensor:
        parts = x[:, :, 16:].mean((1, 2, 3)), x[:, :, :10, :12].mean((1, 2, 3)), self.conv(x).relu().mean((1, 2, 3))
        return self.head(torch.stack(parts, 1))


class Version(nn.Module):
    """The plain network, followed by something."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.plain, self.end = Plain(), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.plain(x))


def classifier_of(module: Any, **options: Any) -> suffice.Classifier:
    return suffice.Classifier(module, input_size=(SIZE, SIZE), mean=(0, 0, 0), std=(1, 1, 1), **options)


def corner_image() -> Tensor:
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 0.2
    image[:, :10, :12] += 0.7
    return image


def by_hand(image: Tensor) -> float:
    """The probability of class 1, in float64."""
    logits = Plain()(image[None]).detach().double()[0]
    return float(torch.exp(logits[1]) / torch.exp(logits).sum())


def difference(logits: Tensor) -> Tensor:
    return (logits[:, 1] - logits[:, 0])[:, None]


VERSIONS: dict[str, tuple[Callable[[Tensor], Tensor], str, bool]] = {
    "logits": (lambda z: z, "logits", False),
    "log-softmax": (lambda z: z.log_softmax(1), "logits", False),
    "softmax": (lambda z: z.softmax(1), "probabilities", False),
    "one logit": (difference, "binary", False),
    "one logit of no dimension": (lambda z: difference(z)[:, 0], "binary", False),
    "one sigmoid": (lambda z: difference(z).sigmoid(), "binary", True),
    "(N, K, 1, 1) of probabilities": (lambda z: z.softmax(1)[:, :, None, None].flatten(1), "probabilities", False),
}


@pytest.mark.parametrize("occlusion", ["zero", "robust", "deactivate"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_a_network_gives_the_part_of_the_plain_one(version: str, occlusion: str) -> None:
    end, outputs, sigmoids = VERSIONS[version]
    image = corner_image()
    plain = suffice.explain(classifier_of(Plain()), image, occlusion=occlusion, block=4)
    classifier = classifier_of(Version(end))
    found = suffice.explain(classifier, image, occlusion=occlusion, block=4)
    assert classifier.meaning == Meaning(outputs, sigmoids)  # type: ignore[arg-type]
    assert plain.sufficient
    assert 0 < plain.area < 0.5
    assert found.target == plain.target == 1
    assert torch.equal(found.mask, plain.mask)
    assert found.confidence == pytest.approx(by_hand(image), abs=1e-6)
    if occlusion == "zero":
        shown = torch.where(found.mask, image, torch.zeros(()))
        assert found.explanation_confidence == pytest.approx(by_hand(shown), abs=1e-6)
        assert found.explanation_confidence >= 0.5 * found.confidence


@pytest.mark.parametrize("version", VERSIONS)
def test_scores_and_masks_that_learn_are_those_of_the_plain_network(version: str) -> None:
    image, end = corner_image(), VERSIONS[version][0]
    heat = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    names = ["insertion", "deletion", "msi", "fid_plus", "confidence", "confidence_drop", "robustness_solid"]
    expected = suffice.score(classifier_of(Plain()), image, heat, names, occlusion="zero", count=20)
    found = suffice.score(classifier_of(Version(end)), image, heat, names, occlusion="zero", count=20)
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    settings: dict[str, Any] = {"occlusion": "zero", "steps": 15, "robustness": "none", "block": 8}
    plain = suffice.explain(classifier_of(Plain()), image, "activation-matching", **settings)
    learnt = suffice.explain(classifier_of(Version(end)), image, "activation-matching", **settings)
    assert learnt.sufficient
    assert learnt.area == pytest.approx(plain.area, abs=0.05)


def test_gradients_reach_either_class_of_one_logit() -> None:
    image = corner_image()[None]
    maps = [
        saliency_maps(classifier_of(Version(difference)), image, torch.tensor([k]), "grad-cam", layer="plain.conv").raw
        for k in (0, 1)
    ]
    assert maps[1].abs().sum() > 0
    torch.testing.assert_close(maps[0], -maps[1])


# Labels that do not exclude each other


class Labels(nn.Module):
    """Label 0: bright at the top left; label 1: bright at the bottom right; label 2: never.

    After jacobgil/pytorch-grad-cam, issues 328 and 410 (many binary outputs).
    """

    def forward(self, x: Tensor) -> Tensor:
        def bright(part: Tensor) -> Tensor:
            return (part.mean((1, 2, 3)) - 0.4) * 40

        never = torch.full((len(x),), -9.0)
        return torch.stack([bright(x[:, :, :8, :8]), bright(x[:, :, -8:, -8:]) - 4, never], 1)


class Sigmoids(Labels):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sigmoid()


def two_bright_corners() -> Tensor:
    image = torch.full((3, SIZE, SIZE), 0.1)
    image[:, :8, :8] = image[:, -8:, -8:] = 0.9
    return image


@pytest.mark.parametrize("module", [Labels, Sigmoids])
@pytest.mark.parametrize("label", [0, 1])
def test_each_present_label_has_its_own_part(module: type[nn.Module], label: int) -> None:
    image = two_bright_corners()
    classifier = classifier_of(module(), outputs="labels")
    found = suffice.explain(classifier, image, target=label, occlusion="zero", block=4)
    sigmoid = float(torch.sigmoid(Labels()(image[None])[0, label].double()))
    assert found.confidence == pytest.approx(sigmoid, abs=1e-6)
    assert found.confidence > 0.999
    assert found.sufficient
    assert found.area <= 64 / SIZE**2
    corner = found.mask[:8, :8] if label == 0 else found.mask[-8:, -8:]
    assert int(corner.sum()) == int(found.mask.sum()) > 0
    shown = torch.where(found.mask, image, torch.zeros(()))
    assert found.explanation_confidence == pytest.approx(
        float(torch.sigmoid(Labels()(shown[None])[0, label])), abs=1e-6
    )
    assert not any("own choice" in note for note in found.notes)


def test_a_label_that_is_absent_is_said_to_be() -> None:
    classifier = classifier_of(Labels(), outputs="labels")
    found = suffice.explain(classifier, two_bright_corners(), target=2, occlusion="zero", block=4)
    assert found.confidence == pytest.approx(1 / (1 + torch.e**9), rel=1e-3)
    assert not found.sufficient
    assert "For the whole image the model says that this label is absent (0.00)." in found.notes


def test_a_label_of_just_one_half_is_present() -> None:
    meaning = Meaning("labels")
    logits = torch.tensor([[0.0, -1e-6, 3.0]])
    assert [float(meaning.margins(logits, k)) > 0 for k in range(3)] == [True, False, True]


def test_metrics_of_labels_are_of_their_sigmoids() -> None:
    """Insertion by hand: the top left corner first, so that label 0 comes and label 1 does not matter."""
    image, heat = two_bright_corners(), torch.zeros(SIZE, SIZE)
    heat[:8, :8] = 1.0
    classifier = classifier_of(Labels(), outputs="labels")
    scores = suffice.score(
        classifier, image, heat, ["insertion", "confidence", "robustness_solid"], target=0, occlusion="zero", step=0.5
    )
    dark, lit = (float(torch.sigmoid(torch.tensor((value - 0.4) * 40.0))) for value in (0.0, 0.9))
    # Thresholds 1, 0.5, 0: nothing is above 1, the corner above 0.5 and above 0 (the rest is exactly 0).
    assert scores["insertion"] == pytest.approx((dark / 2 + lit + lit / 2) / 2, abs=1e-6)
    assert scores["confidence"] == pytest.approx(lit, abs=1e-6)
    assert scores["robustness_solid"] == 1.0


def test_a_benchmark_has_the_sigmoid_of_a_label() -> None:
    classifier = classifier_of(Labels(), outputs="labels")
    image = ModelImage(classifier, two_bright_corners(), label=None)
    logits = Labels()(two_bright_corners()[None])[0]
    assert [image.confidence(k) for k in range(3)] == pytest.approx(logits.sigmoid().tolist(), abs=1e-6)
    assert image.top == 0


# What is found out, and what is said


def test_what_is_found_out_is_kept_in_words() -> None:
    said = {
        name: found_out(values, None)[1]
        for name, values in {
            "logits": torch.tensor([[3.0, -1.0], [0.0, 2.0]]),
            "probabilities": torch.tensor([[0.25, 0.75], [1.0, 0.0]]),
            "small": torch.tensor([[0.2, 0.2], [0.9, 0.3]]),
            "one": torch.tensor([[-2.0], [3.0]]),
            "one sigmoid": torch.tensor([0.2, 0.9]),
        }.items()
    }
    assert said == {
        "logits": "outputs are taken to be logits of classes that exclude each other (--outputs)",
        "probabilities": "outputs are taken to be probabilities, as they are at least 0 and have sum 1 (--outputs)",
        "small": "outputs are taken to be logits, though all lie in [0, 1]; if they are independent labels, say so "
        "(--outputs labels)",
        "one": "the one output is taken to be a logit, of class 1 (--outputs)",
        "one sigmoid": "the one output is taken to be a probability, as it lies in [0, 1], of class 1 (--outputs)",
    }


def test_one_row_with_sum_one_is_not_enough() -> None:
    """Logits that happen to be at least 0 with sum 1 for one image."""

    def colours(x: Tensor) -> Tensor:
        return x.mean((2, 3))

    image = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    classifier = classifier_of(colours)
    assert torch.allclose(classifier.logits(image), torch.tensor([[0.2, 0.3, 0.5]]))
    assert classifier.meaning == Meaning("logits")


@pytest.mark.parametrize(
    ("outputs", "end", "complaint"),
    [
        ("probabilities", lambda z: z, "expected probabilities, at least 0 and with sum 1; got values from"),
        ("probabilities", lambda z: z.sigmoid(), "expected probabilities, at least 0 and with sum 1; got values from"),
        ("logits", difference, "at least 2 classes) from Version; got (1, 1): say --outputs binary"),
        ("binary", lambda z: z, "expected one output a row for outputs=binary; got (1, 2)"),
    ],
)
def test_outputs_that_are_not_what_was_said_are_refused(
    outputs: str, end: Callable[[Tensor], Tensor], complaint: str
) -> None:
    classifier = classifier_of(Version(end), outputs=outputs)
    with pytest.raises(InputError) as error:
        classifier.logits(corner_image()[None])
    assert complaint in str(error.value)


def test_an_unknown_meaning_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"expected outputs as one of logits, .*; got 'labls' \(did you mean labels\?\)"
    ):
        classifier_of(Plain(), outputs="labls")


def test_sigmoids_that_turn_out_to_be_none_are_an_error_and_not_a_guess() -> None:
    """In [0, 1] for noise, black and white, and not for another image."""

    def sneaky(x: Tensor) -> Tensor:
        value = x.mean((1, 2, 3))
        return torch.where((value > 0.2) & (value < 0.3), 5.0, value)[:, None]

    classifier = classifier_of(sneaky)
    classifier.logits(torch.ones(1, 3, SIZE, SIZE))
    assert classifier.meaning == Meaning("binary", sigmoids=True)
    with pytest.raises(
        InputError, match=r"expected outputs in \[0, 1\], as all were when first asked; got values from 5"
    ):
        classifier.logits(torch.full((1, 3, SIZE, SIZE), 0.25))


@pytest.mark.parametrize(
    ("version", "is_said"),
    [
        (lambda logits: (logits, logits[:, :1]), True),
        (lambda logits: [logits, logits, logits], True),
        (lambda logits: (logits,), False),
        (lambda logits: {"logits": logits, "hidden": logits}, False),
    ],
)
def test_the_first_of_several_outputs_is_an_assumption(version: Any, is_said: bool) -> None:
    classifier = classifier_of(Version(version), outputs="logits")
    classifier.logits(corner_image()[None])
    sentences = [text for text in classifier.assumptions if "outputs that the model returns" in text]
    assert [text.split(":")[0][-18:] for text in sentences] == ["the first is taken"] * is_said


def test_a_model_that_cannot_be_asked_about_noise_is_said_to() -> None:
    def picky(x: Tensor) -> Tensor:
        if float(x.amax()) > 0.99:
            raise RuntimeError("too bright for me")
        return x.mean((2, 3)) * 9

    classifier = classifier_of(picky)
    classifier.logits(torch.full((1, 3, SIZE, SIZE), 0.5))
    assert classifier.assumed["outputs"] == (
        "the model could not be asked about noise, black and white (too bright for me): its outputs are taken to be "
        "logits (--outputs), and the same when it is asked twice"
    )


# Models that answer differently when asked twice


def dropping(x: Tensor) -> Tensor:
    return torch.nn.functional.dropout(x.mean((2, 3)), 0.5, training=True)


def of_the_batch(x: Tensor) -> Tensor:
    colours = x.mean((2, 3))
    return colours - colours.mean(0)


@pytest.mark.parametrize("module", [dropping, of_the_batch])
def test_a_model_that_answers_differently_when_asked_twice_is_said_to(module: Callable[[Tensor], Tensor]) -> None:
    classifier = classifier_of(module)
    classifier.logits(corner_image()[None])
    assert any("answers differently when asked twice" in sentence for sentence in classifier.assumptions)


def test_a_model_that_repeats_its_answers_is_not() -> None:
    classifier = classifier_of(Plain())
    classifier.logits(corner_image()[None])
    assert not any("asked twice" in sentence for sentence in classifier.assumptions)
    assert classifier.forward_passes == 1, "what finds out is not counted"


@pytest.mark.parametrize("given", [None, "logits"])
def test_complex_numbers_are_not_halved_without_a_word(given: Any) -> None:
    classifier = classifier_of(Version(lambda logits: torch.complex(logits, 3 * logits)), outputs=given)
    with pytest.raises(InputError, match="expected logits of real numbers; got complex64"):
        suffice.explain(classifier, corner_image(), "causal", "min")
    plain = classifier_of(Plain())
    for image in (corner_image() * 1j, corner_image().numpy().astype(complex)):
        with pytest.raises(InputError, match="expected images of real numbers; got complex"):
            plain.logits(image[None])
        with pytest.raises(InputError, match="expected images of real numbers; got complex"):
            suffice.explain(plain, image, "causal", "min")


def test_what_is_broadcast_takes_no_memory_of_its_own() -> None:
    once = np.arange(3, dtype=np.uint8)
    tensor = as_tensor(np.broadcast_to(once, (10**6, 10**4, 3)))
    assert tensor.shape == (10**6, 10**4, 3)
    assert tensor.untyped_storage().nbytes() == 3
    assert tensor[7, 8].tolist() == [0, 1, 2]
    turned = as_tensor(np.arange(6).reshape(2, 3)[::-1])
    assert turned.tolist() == [[3, 4, 5], [0, 1, 2]]
