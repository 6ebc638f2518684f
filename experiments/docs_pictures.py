"""The pictures of the documentation, from the sample photos and the default model; some minutes on one thread.

    python experiments/docs_pictures.py [methods | causal | numbers | gallery] …

They are written into docs/pictures; the numbers in them are asked of the model anew.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import suffice
from suffice.buffers import keep_buffers
from suffice.images import frame_of, read_photo
from suffice.images.reading import SAMPLES
from suffice.metrics import score_maps
from suffice.metrics.scores import Scores
from suffice.occlusion import make_occlusions
from suffice.report.figures import overlay, saliency_image

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
METHODS = ("causal", "lime", "grad-cam", "layer-cam", "activation-matching")
SAMPLE = "sample:coffee"


def show(axis: Axes, image: Tensor, title: str = "") -> None:
    axis.imshow(image.permute(1, 2, 0).numpy())
    axis.set_axis_off()
    axis.set_title(title, fontsize=9)


def methods(classifier: suffice.Classifier) -> Figure:
    """Maps above, parts below."""
    photo, image = read_photo(SAMPLE), suffice.load_image(SAMPLE, classifier)
    frame = frame_of(photo.pixels.size, classifier.preprocessing)
    figure = Figure(figsize=(2.6 * len(METHODS), 4.6), layout="constrained")
    axes = figure.subplots(2, len(METHODS))
    for (above, below), name in zip(axes.T, METHODS, strict=True):
        found = suffice.explain(classifier, image, name)
        if not found.sufficient:
            raise SystemExit(f"expected a part that suffices by {name}; got none")
        above.imshow(saliency_image(found.saliency))
        above.set_title(name, fontsize=11)
        below.imshow(overlay(found, photo, frame).crop(frame.box))
        below.set_title(f"{found.area:.1%}; {found.forward_passes:,} images", fontsize=10)
        for axis in (above, below):
            axis.set_axis_off()
    return figure


def causal(classifier: suffice.Classifier) -> Figure:
    """The photo, and its part under each of the four colours."""
    image = suffice.load_image(SAMPLE, classifier)
    found = suffice.explain(classifier, image)
    figure = Figure(figsize=(13, 2.9), layout="constrained")
    shown = [("the photo", image), *painted(classifier, image, found.mask)]
    for axis, (name, each) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        confidence = float(classifier.confidences(classifier.logits(each[None]))[0, found.target])
        show(axis, each, f"{name}: {found.target_name} {confidence:.2f}")
    return figure


def painted(classifier: suffice.Classifier, image: Tensor, mask: Tensor) -> list[tuple[str, Tensor]]:
    """The part under each colour of the default."""
    found = []
    for occlusion in make_occlusions(classifier, "robust"):
        assert occlusion.background is not None
        found.append((occlusion.name, torch.where(mask, image, occlusion.background(image[None])[0])))
    return found


def numbers(classifier: suffice.Classifier) -> Figure:
    """Area and ρ of a part that suffices, and of a corner of equal size; curves of a map, and of it upside down."""
    image = suffice.load_image(SAMPLE, classifier)
    found = suffice.explain(classifier, image)
    side = round(float(found.mask.sum()) ** 0.5)
    corner = torch.zeros_like(found.mask)
    corner[:side, :side] = True
    colours = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.7, 0.3], [0.2, 0.3, 0.9], [1.0, 1.0, 1.0]])
    heat = suffice.explain(classifier, image, "grad-cam").saliency
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(2, 6, width_ratios=(1, 1, 1, 1, 1, 2.2))
    rows = (
        ("sufficient", found.mask, heat, "Grad-CAM's map"),
        ("not sufficient", corner, 1 - heat, "the same map upside down"),
    )
    for row, (name, mask, ranking, map_name) in enumerate(rows):
        rho = suffice.robustness_solid(classifier, image, mask, found.target).rho
        area = f"area {float(mask.float().mean()):.1%}, ρ {rho:.0%}"
        show(axes[row][0], torch.where(mask, image, image * 0.25), f"{name}\n{area}")
        for axis, colour in zip(axes[row][1:5], colours, strict=True):
            each = torch.where(mask, image, colour[:, None, None])
            kept = int(classifier.logits(each[None])[0].argmax()) == found.target
            show(axis, each, "keeps the class" if kept else "loses the class")
        names = ["insertion_percent", "deletion_percent", "msi"]
        curves(axes[row][5], score_maps(classifier, image, {"": ranking}, names, found.target)[""], map_name)
    return figure


def curves(axis: Axes, scores: Scores, name: str) -> None:
    """Insertion and deletion by percentage."""
    values = scores.of_map(0)
    axis.set_title(f"{name}: MSI {values['msi']:.2f}", fontsize=9)
    for name, style in (("insertion_percent", "-"), ("deletion_percent", "--")):
        curve = scores.curves[name]
        along = torch.linspace(0, 1, curve.values.shape[1])
        axis.plot(along, curve.values[0], style, label=f"{name.removesuffix('_percent')} {values[name]:.2f}")
    axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel("share of the pixels, in the map's order", fontsize=8)
    axis.legend(fontsize=8)


def gallery(classifier: suffice.Classifier) -> Figure:
    """The sample photos, explained by default."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(SAMPLES)), SAMPLES, strict=True):
        photo = read_photo(f"sample:{name}")
        found = suffice.explain(classifier, suffice.load_image(photo, classifier))
        axis.imshow(overlay(found, photo, frame_of(photo.pixels.size, classifier.preprocessing)))
        axis.set_axis_off()
        axis.set_title(f"{found.target_name}: {found.area:.1%}", fontsize=10)
    return figure


DRAWN: dict[str, Callable[[suffice.Classifier], Figure]] = {
    "methods": methods,
    "causal": causal,
    "numbers": numbers,
    "gallery": gallery,
}


def draw(about: str, drawn: Mapping[str, Callable[[], Figure]]) -> None:
    """Draw the pictures that a call names, or all of them."""
    parser = argparse.ArgumentParser(description=about.split("\n\n")[0])
    parser.add_argument("which", nargs="*", metavar="|".join(drawn), help="all unless named")
    chosen = parser.parse_args().which or list(drawn)
    if unknown := [name for name in chosen if name not in drawn]:
        parser.error(f"expected names among {', '.join(drawn)}; got {unknown[0]}")
    keep_buffers()
    PICTURES.mkdir(exist_ok=True)
    for name in chosen:
        file = f"{name.replace('++', '-plus-plus')}.png"
        drawn[name]().savefig(PICTURES / file, dpi=80)
        print(f"docs/pictures/{file}", flush=True)


def of_the_default_model(figure: Callable[[suffice.Classifier], Figure]) -> Figure:
    return figure(suffice.load_classifier(device="cpu"))


if __name__ == "__main__":
    draw(__doc__, {name: functools.partial(of_the_default_model, figure) for name, figure in DRAWN.items()})
