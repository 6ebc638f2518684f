"""Figures 4, 5 and 8 of activation matching, on the data at hand, by one command.

    python experiments/activation_matching_figures.py all --photos PHOTO… --data DATA --weights FILE --out figures

Figure 4 (`am-figure-4.png`): photos, the learnt part, and beside it what Grad-CAM points at, with as many pixels; with
`--beside attention --model timm:vit_base_patch16_224 --photo-weights FILE` the attention maps of its right half. Figure
5 (`am-figure-5.png`): digits, the part that is proved while all else changes by up to ε, and the learnt part. Figure 8
(`am-figure-8.png`): a digit of each class, and its learnt part. DATA holds MNIST/raw, FILE the weights of
`suffice.models.three_layers:mnist`, as `suffice train-classifier mnist` makes them. Figure 5 takes minutes a digit with
it, and seconds with `--digit-model suffice.models.three_layers:mnist_strided`, which has no pooling. Area and
confidence of each part are printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import suffice
from am_transfer import highest
from suffice.buffers import keep_buffers
from suffice.datasets import load_dataset
from suffice.images import to_model

matplotlib.use("Agg")
from matplotlib import pyplot

Panel = tuple[Tensor, str]
"""An image (C, H, W) in [0, 1], and what stands below it."""


def shown(image: Tensor, mask: Tensor) -> Tensor:
    """The part alone, on a grey that neither photos nor strokes have much of."""
    return image * mask + (0.85 if len(image) == 3 else 0.4) * ~mask


def words(found: suffice.Explanation) -> str:
    return f"{found.area:.1%}, confidence {found.explanation_confidence:.2f}"


def figure_4(arguments: argparse.Namespace) -> list[list[Panel]]:
    classifier = suffice.load_classifier(arguments.model, weights=arguments.photo_weights, device="cpu")
    rows = []
    for path in arguments.photos:
        image = suffice.load_image(path, classifier)
        ours = suffice.explain(
            classifier, image, "activation-matching", "zero", keep_confidence=1.0, steps=arguments.steps
        )
        theirs = suffice.explain(classifier, image, arguments.beside, "zero", keep_confidence=0.5)
        ranking = theirs.saliency if theirs.raw_saliency is None else theirs.raw_saliency
        mask = highest(ranking, int(ours.mask.sum()))
        alone = classifier.confidences(suffice.masked_logits(classifier, image[None], mask[None], "zero"))[0]
        heat = theirs.saliency / (theirs.saliency.max() + 1e-9)
        confidence = f"confidence {float(alone[ours.target]):.2f}"
        rows.append(
            [
                (image, f"{ours.target_name}, {ours.confidence:.2f}"),
                (shown(image, ours.mask), f"learnt: {words(ours)}"),
                (image * heat, f"{arguments.beside}"),
                (shown(image, mask), f"its highest {ours.area:.1%}: {confidence}"),
            ]
        )
    return rows


def digits(arguments: argparse.Namespace, count: int) -> tuple[suffice.Classifier, Tensor]:
    """The first test digit of each of `count` classes that the network gets right."""
    classifier = suffice.load_classifier(
        arguments.digit_model, weights=arguments.weights, class_names=list("0123456789"), device="cpu"
    )
    dataset = load_dataset("mnist", arguments.data, "test")
    images = torch.stack([to_model(dataset.photo(index), classifier) for index in range(200)])
    chosen = classifier.logits(images).argmax(1).tolist()
    first = {label: i for i, label in reversed(list(enumerate(dataset.labels[:200]))) if chosen[i] == label}
    return classifier, images[[first[label] for label in sorted(first)[:count]]]


def figure_5(arguments: argparse.Namespace) -> list[list[Panel]]:
    classifier, images = digits(arguments, arguments.digits)
    rows = []
    for image in images:
        proved = suffice.explain(classifier, image, "abductive", "zero", epsilon=arguments.epsilon)
        ours = suffice.explain(classifier, image, "activation-matching", "zero", keep_confidence=1.0, noise_std=0.1)
        rows.append(
            [
                (image, f"{ours.target_name}, {ours.confidence:.2f}"),
                (shown(image, proved.mask), f"proved for ε {arguments.epsilon:g}: {proved.area:.1%}"),
                (shown(image, ours.mask), f"learnt: {words(ours)}"),
            ]
        )
    return rows


def figure_8(arguments: argparse.Namespace) -> list[list[Panel]]:
    classifier, images = digits(arguments, 10)
    found = suffice.explain_batch(classifier, images, "zero", 0.9, noise_std=0.1)
    first = [(image, f"{one.target_name}, {one.confidence:.2f}") for image, one in zip(images, found, strict=True)]
    return [first, [(shown(image, one.mask), words(one)) for image, one in zip(images, found, strict=True)]]


FIGURES = {"4": figure_4, "5": figure_5, "8": figure_8}


def draw(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Panels in rows as one PNG; what stands below each is printed as well."""
    wide, high = len(rows[0]), len(rows)
    figure, axes = pyplot.subplots(high, wide, figsize=(2.1 * wide, 2.3 * high), squeeze=False, layout="constrained")
    for places, row in zip(axes, rows, strict=True):
        for place, (image, text) in zip(places, row, strict=True):
            grey = len(image) == 1
            place.imshow(image[0].numpy() if grey else image.permute(1, 2, 0).numpy(), "gray", vmin=0, vmax=1)
            place.set_xlabel(text, fontsize=7)
            place.set_xticks([])
            place.set_yticks([])
        print(" | ".join(text for _, text in row), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(f"wrote {path}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("figure", choices=("all", *FIGURES))
    parser.add_argument("--photos", nargs="*", default=["sample:coffee"])
    parser.add_argument("--model", help="of the photos")
    parser.add_argument("--photo-weights")
    parser.add_argument("--beside", default="grad-cam", help="the map of figure 4: grad-cam, attention, …")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--digit-model", default="suffice.models.three_layers:mnist")
    parser.add_argument("--weights", help="of the digits' network")
    parser.add_argument("--digits", type=int, default=4, help="of figure 5")
    parser.add_argument("--epsilon", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    for name, make in FIGURES.items():
        if arguments.figure in ("all", name):
            if name != "4" and (arguments.data is None or arguments.weights is None):
                sys.exit(f"expected --data and --weights for figure {name}; got none")
            draw(make(arguments), arguments.out / f"am-figure-{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
