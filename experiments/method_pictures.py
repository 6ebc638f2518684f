"""The picture on the page of each method: how it comes to its part; some minutes on one thread.

    python experiments/method_pictures.py [grad-cam | lime | …] …

Sample photo and default model, but for attention: a small transformer that tells stripes on noise apart, trained here.
They are written into docs/pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage.segmentation import mark_boundaries
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import suffice
from docs_pictures import SAMPLE, draw, show
from suffice.explainers.attention import AttentionWeights
from suffice.explainers.cam import finer_scores
from suffice.explainers.lime import LimeSettings, samples, superpixels
from suffice.features import last_stage, record
from suffice.report.figures import saliency_image

Panel = tuple[str, Any]
KINDS = ("across", "down", "both")


def row(panels: Sequence[Panel]) -> Figure:
    """Side by side: images (C, H, W), anything that matplotlib draws, or maps (h, w), each on a scale of its own."""
    figure = Figure(figsize=(2.5 * len(panels), 2.9), layout="constrained")
    for axis, (title, image) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        if isinstance(image, Tensor) and image.ndim == 3:
            show(axis, image, title)
        else:
            axis.imshow(image, cmap="magma")
            axis.set_axis_off()
        axis.set_title(title, fontsize=11)
    return figure


def explained(classifier: suffice.Classifier, image: Tensor, method: str, **settings: Any) -> suffice.Explanation:
    """An explanation; ends the program where its part is none."""
    found = suffice.explain(classifier, image, method, **settings)
    if not found.sufficient:
        raise SystemExit(f"expected a part that suffices by {method}; got none")
    return found


def last_panels(found: suffice.Explanation, image: Tensor) -> list[Panel]:
    """The map, and the part."""
    return [
        ("the map", saliency_image(found.saliency)),
        (f"the part: {found.area:.1%}", torch.where(found.mask, image, image * 0.25)),
    ]


def activations_and_gradients(
    classifier: suffice.Classifier, image: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The last maps (C, h, w), and the gradient of a score of the logits (1, K) in each of their places."""
    stage = last_stage(classifier)
    with torch.enable_grad(), record(classifier, [stage], gradients=True) as recorded:
        logits = classifier.module(classifier.normalise(image[None]))
        (gradient,) = torch.autograd.grad(score(logits).sum(), recorded[stage.name])
    return stage.maps(recorded[stage.name].detach())[0], stage.maps(gradient)[0]


def weights_of(method: str, maps: Tensor, gradients: Tensor) -> Tensor:
    """What each map, or each of its places, is weighted by."""
    if method == "layer-cam":
        return gradients.relu()
    if method == "grad-cam++":
        squares, cubes = gradients**2, gradients**3
        alpha = squares / (2 * squares + maps.sum((1, 2), keepdim=True) * cubes + 1e-6)
        return (gradients.relu() * alpha).sum((1, 2), keepdim=True)
    return gradients.mean((1, 2), keepdim=True)


def by_gradients(method: str) -> Callable[[], Figure]:
    """The photo, the three terms that count most, and their sum."""

    def figure() -> Figure:
        classifier = suffice.load_classifier(device="cpu")
        image = suffice.load_image(SAMPLE, classifier)
        found = explained(classifier, image, method)
        maps, gradients = activations_and_gradients(classifier, image, lambda logits: logits[:, found.target])
        weights = weights_of(method, maps, gradients)
        terms = weights * maps
        strongest = terms.sum((1, 2)).topk(3).indices.tolist()
        names = [
            f"map {channel} × its gradients"
            if method == "layer-cam"
            else f"map {channel} × {float(weights[channel]):.4f}"
            for channel in strongest
        ]
        shown = [(name, terms[channel]) for name, channel in zip(names, strongest, strict=True)]
        return row([(found.target_name or "", image), *shown, *last_panels(found, image)])

    return figure


def finer_cam() -> Figure:
    """Grad-CAM of the class, of what is most like it, and Finer-CAM."""
    classifier = suffice.load_classifier(device="cpu")
    image = suffice.load_image(SAMPLE, classifier)
    found = explained(classifier, image, "finer-cam")
    logits = classifier.logits(image[None])[0]
    classes = (logits - logits[found.target]).abs().argsort()[:3].tolist()
    panels = []
    for index in classes:
        of_class = saliency_of(classifier, image, lambda logits, index=index: logits[:, index])
        panels.append((f"Grad-CAM of\n{(classifier.class_names or [])[index]}", of_class))
    target = torch.tensor([found.target])
    apart = saliency_of(classifier, image, lambda logits: finer_scores(logits, target, 1.0, 3))
    return row([*panels, ("what sets it apart", apart), *last_panels(found, image)[1:]])


def saliency_of(classifier: suffice.Classifier, image: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Grad-CAM of a score, at the resolution of the maps."""
    maps, gradients = activations_and_gradients(classifier, image, score)
    return (weights_of("grad-cam", maps, gradients) * maps).sum(0).relu()


def kpca_cam() -> Figure:
    """How far each place lies from the mean of all, and the component along which they differ most."""
    classifier = suffice.load_classifier(device="cpu")
    image = suffice.load_image(SAMPLE, classifier)
    found = explained(classifier, image, "kpca-cam")
    maps, _ = activations_and_gradients(classifier, image, lambda logits: logits[:, found.target])
    return row(
        [
            (found.target_name or "", image),
            (f"length of {len(maps)} maps", maps.norm(dim=0)),
            ("distance from the mean", (maps - maps.mean((1, 2), keepdim=True)).norm(dim=0)),
            *last_panels(found, image),
        ]
    )


def lime() -> Figure:
    """The patches, one random set of them, their coefficients, and the part."""
    classifier = suffice.load_classifier(device="cpu")
    image = suffice.load_image(SAMPLE, classifier)
    found = explained(classifier, image, "lime")
    patches = superpixels(image, LimeSettings())
    shown = samples(int(patches.max()) + 1, 2, np.random.default_rng([0]))[1][patches]
    return row(
        [
            (f"{patches.max() + 1} patches", mark_boundaries(image.permute(1, 2, 0).numpy(), patches, color=(1, 1, 0))),
            ("a random set", torch.where(torch.from_numpy(shown), image, torch.zeros(()))),
            ("their coefficients", saliency_image(found.saliency)),
            *last_panels(found, image)[1:],
        ]
    )


def activation_matching() -> Figure:
    """The part after a few steps, and after all."""
    classifier = suffice.load_classifier(device="cpu")
    image = suffice.load_image(SAMPLE, classifier)
    panels: list[Panel] = [("the photo", image)]
    for steps in (10, 40, 150):
        found = suffice.explain(classifier, image, "activation-matching", occlusion="zero", steps=steps)
        part = torch.where(found.mask, image, torch.zeros(()))
        panels.append((f"{steps} steps: " + (f"{found.area:.1%}" if found.sufficient else "none"), part))
    return row(panels)


def lax() -> Figure:
    """What is asked of the network, and what of the adapter."""
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 10), ylim=(0, 3))
    axis.set_axis_off()
    boxes = {
        "image": (1, 2.2),
        "features": (4, 2.2),
        "logits": (8, 2.2),
        "adapter\n(trained once)": (6, 0.8),
        "map": (9, 0.8),
    }
    for name, (x, y) in boxes.items():
        colour = "#ffd23f" if "adapter" in name or name == "map" else "#dde3ea"
        axis.text(x, y, name, ha="center", va="center", fontsize=11, bbox={"boxstyle": "round,pad=0.5", "fc": colour})
    for start, end, word in (
        ((1.6, 2.2), (3.2, 2.2), "network"),
        ((4.8, 2.2), (7.4, 2.2), "network"),
        ((4.4, 1.85), (5.1, 1.0), ""),
        ((6.9, 0.8), (8.5, 0.8), ""),
    ):
        axis.annotate("", end, start, arrowprops={"arrowstyle": "->"})
        axis.text((start[0] + end[0]) / 2, start[1] + 0.12, word, ha="center", fontsize=9)
    return figure


def stripes(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noise (N, 3, 32, 32) with a patch of 8 x 8 pixels of stripes, and which way they go (N,)."""
    images = 0.5 + 0.15 * torch.randn(count, 1, 32, 32, generator=random).clamp(-2, 2).expand(-1, 3, -1, -1).clone()
    labels = torch.randint(len(KINDS), (count,), generator=random)
    row_of, column_of = torch.arange(8)[:, None] // 2 % 2, torch.arange(8)[None] // 2 % 2
    patterns = torch.stack([row_of.expand(8, 8), column_of.expand(8, 8), row_of ^ column_of]).float()
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = (4 * torch.randint(7, (2,), generator=random)).tolist()
        image[:, top : top + 8, left : left + 8] = patterns[label]
    return images, labels


def transformer() -> tuple[suffice.Classifier, Tensor]:
    """A small ViT that was trained on `stripes`, and an image that it has not seen."""
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    network = VisionTransformer(32, 4, num_layers=3, num_heads=2, hidden_dim=48, mlp_dim=96, num_classes=len(KINDS))
    nn.init.trunc_normal_(network.heads[0].weight, std=0.02)
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    for _ in range(500):
        images, labels = stripes(64, random)
        loss = nn.functional.cross_entropy(network((images - 0.5) / 0.25), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    classifier = suffice.Classifier(
        network.eval(), input_size=(32, 32), mean=0.5, std=0.25, class_names=KINDS, device="cpu"
    )
    unseen, labels = stripes(200, random)
    right = classifier.logits(unseen).argmax(1) == labels
    print(f"the transformer is right on {float(right.float().mean()):.0%} of images that it has not seen", flush=True)
    return classifier, unseen[right][0]


def attention(method: str) -> Callable[[], Figure]:
    """What the class token attends to in each layer, and the map."""

    def figure() -> Figure:
        classifier, image = transformer()
        found = explained(classifier, image, method, occlusion="mean", cell=4)
        with torch.no_grad(), AttentionWeights() as seen:
            classifier.module(classifier.normalise(image[None]))
        panels = [(f"layer {number}", layer[0, 0, 1:].view(8, 8)) for number, layer in enumerate(seen.layers, 1)]
        return row([(f"stripes: {found.target_name}", image), *panels, *last_panels(found, image)])

    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    **{name: by_gradients(name) for name in ("grad-cam", "grad-cam++", "layer-cam")},
    "finer-cam": finer_cam,
    "kpca-cam": kpca_cam,
    "lime": lime,
    "lax": lax,
    "attention": attention("attention"),
    "attention-rollout": attention("attention-rollout"),
    "activation-matching": activation_matching,
}


if __name__ == "__main__":
    draw(__doc__, DRAWN)
