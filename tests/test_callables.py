"""Functions that take arrays, and the channels last: found out when they are asked, or said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.callables import BlackBox
from suffice.errors import InputError
from suffice.explainers import saliency_maps

HEIGHT, WIDTH = 6, 10


def means(array: Any) -> Any:
    """Of (N, H, W, 3)."""
    return array[..., :HEIGHT, :WIDTH, :].mean((1, 2))


class KerasLike:
    """As Keras's models are called: arrays with the channels last in, an array of its own kind out."""

    input_shape = (None, HEIGHT, WIDTH, 3)

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Any) -> Any:
        self.shapes.append(tuple(images.shape))
        if images.shape[1:] != (HEIGHT, WIDTH, 3):
            raise ValueError(f"Input is incompatible with layer: expected shape {self.input_shape}")
        return OtherArray(np.asarray(images).mean((1, 2)))


class OtherArray:
    """What another library returns."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._values


def arrays_first(images: Any) -> Any:
    assert isinstance(images, np.ndarray)
    assert images.shape[1] == 3
    return images.mean((2, 3))


def tensors_last(images: Any) -> Any:
    assert isinstance(images, Tensor)
    assert images.shape[3] == 3
    return images.mean((1, 2))


def classify(function: Any, **options: Any) -> suffice.Classifier:
    return suffice.Classifier(function, input_size=(HEIGHT, WIDTH), mean=(0, 0, 0), std=(1, 1, 1), **options)


@pytest.mark.parametrize(
    ("function", "way"),
    [
        (lambda x: x.mean((2, 3)), "tensors"),
        (arrays_first, "arrays"),
        (KerasLike(), "arrays with the channels last"),
        (tensors_last, "tensors with the channels last"),
    ],
)
def test_the_way_of_a_function_is_found_out_when_it_is_asked(function: Any, way: str) -> None:
    images = torch.rand(3, 3, HEIGHT, WIDTH)
    classifier = classify(function)
    torch.testing.assert_close(classifier.logits(images), images.mean((2, 3)))
    assert isinstance(classifier.module, BlackBox)
    assert classifier.module.way == way
    explanation = suffice.explain(classifier, images[0], occlusion="min", block=2)
    expected = suffice.explain(classify(lambda x: x.mean((2, 3))), images[0], occlusion="min", block=2)
    assert torch.equal(torch.as_tensor(explanation.mask), torch.as_tensor(expected.mask))


def test_what_a_model_says_of_its_shape_is_not_tried_out() -> None:
    model = KerasLike()
    classify(model).logits(torch.rand(2, 3, HEIGHT, WIDTH))
    assert all(shape[1:] == (HEIGHT, WIDTH, 3) for shape in model.shapes)


def test_a_layout_that_is_said_is_taken() -> None:
    def either(images: Any) -> Any:  # square, and of three channels either way: no error tells them apart
        return images[:, 0, 0, :3]

    images = torch.rand(1, 3, 3, 3)
    first, last = (
        suffice.Classifier(either, input_size=(3, 3), mean=(0, 0, 0), std=(1, 1, 1), layout=layout)
        for layout in ("channels-first", "channels-last")
    )
    assert torch.equal(first.logits(images)[0], images[0, 0, 0, :3])
    assert torch.equal(last.logits(images)[0], images[0, :, 0, 0])
    with pytest.raises(InputError, match="expected layout channels-first or channels-last; got 'nhwc'"):
        suffice.Classifier(either, layout="nhwc")  # type: ignore[arg-type]


def test_what_a_function_raises_by_itself_comes_through() -> None:
    def fails(images: Any) -> Any:
        raise ZeroDivisionError("my own fault")

    with pytest.raises(ZeroDivisionError, match="my own fault"):
        classify(fails).logits(torch.rand(1, 3, HEIGHT, WIDTH))


def test_a_function_that_fails_later_is_not_asked_in_another_way() -> None:
    asked: list[int] = []

    def tires(images: Any) -> Any:
        asked.append(len(images))
        if len(asked) > 3:
            raise RuntimeError("tired")
        return images.mean((2, 3))

    classifier = classify(tires, outputs="logits", repeatable=True)
    for _ in range(3):
        classifier.logits(torch.rand(1, 3, HEIGHT, WIDTH))
    with pytest.raises(RuntimeError, match="tired"):
        classifier.logits(torch.rand(1, 3, HEIGHT, WIDTH))
    assert len(asked) == 4


def test_a_batch_that_does_not_fit_is_halved_and_not_asked_in_another_way() -> None:
    shapes: list[tuple[int, ...]] = []

    def small(images: Any) -> Any:
        shapes.append(tuple(images.shape))
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory (a test)")
        return images.mean((2, 3))

    classifier = classify(small, outputs="logits", repeatable=True)
    images = torch.rand(8, 3, HEIGHT, WIDTH)
    torch.testing.assert_close(classifier.logits(images), images.mean((2, 3)))
    assert all(shape[1:] == (3, HEIGHT, WIDTH) for shape in shapes)


class Last(nn.Module):
    """A network of PyTorch for images with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[3] == 3
        return self.head(self.conv(images.permute(0, 3, 1, 2)).relu().mean((2, 3)))


def test_a_network_that_takes_the_channels_last_can_be_looked_into() -> None:
    images, network = torch.rand(2, 3, HEIGHT, WIDTH), Last().eval()
    classifier = classify(network, layout="channels-last")
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(images), network(images.permute(0, 2, 3, 1)))
    assert saliency_maps(classifier, images, method="grad-cam").raw.std() > 0
    kept = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    assert torch.equal(suffice.masked_logits(classifier, images, kept), classifier.logits(images))
    assert suffice.trace_circuit(classifier, images[0], share=0.5, random=0).channels > 0
