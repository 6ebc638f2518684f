"""The curves of a method that learns are drawn, and of one that does not there is nothing."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

import suffice
from suffice.images import frame_of
from suffice.report.html import polyline
from suffice.report.page import make_entry, render_report


class Corner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.full((len(x),), 0.5), x[:, 0, :8, :8].mean((1, 2))], 1) * 20


def page(method: str, **settings: object) -> str:
    from PIL import Image

    from suffice.images import Photo

    classifier = suffice.Classifier(Corner(), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
    photo = Photo(Image.new("RGB", (16, 16), (250, 200, 10)), path="photo.png")
    found = suffice.explain(classifier, torch.full((3, 16, 16), 0.9), method, "zero", **settings)  # type: ignore[arg-type]
    frame = frame_of(photo.pixels.size, classifier.preprocessing)
    return render_report([make_entry(found, photo, frame, directory="", command="suffice")], command="suffice")


def test_a_curve_for_each_term() -> None:
    learnt = page("activation-matching", steps=7, lambdas="0,4,0,15,.3,15,6", budget=0)
    drawn = re.findall(r'aria-label="(\w+) over 7 steps"><polyline class="curve" points="([^"]+)"', learnt)
    assert {name for name, _ in drawn} == {"ce", "kl", "area", "bin", "tv", "rob"}
    assert all(len(points.split()) == 7 for _, points in drawn)
    assert "What it learnt" not in page("causal", block=4)


def test_equal_values_lie_in_the_middle() -> None:
    assert polyline([3.0, 3.0], 10, 20) == "0,10 10,10"
    assert polyline([3.0], 10, 20) == "0,10"
