"""How the terms of the weighted objective shape a mask: Figure 3 of activation matching, for one photo.

    python experiments/activation_matching_ablation.py PHOTO --out activation-matching-ablation.png
    python experiments/activation_matching_ablation.py imagenet20/imagenet_00_243.jpg --box .6,0,1,.45   # a dog's leash

With `--box` (left, top, right, bottom, as shares of what the model sees) it is printed which share of each part lies in
that box, and beside it which share of the image the box is: a part that has nothing to do with it has about as much.

The weights are those of the paper's house finch (EfficientNet): that of activations alone, and all with the terms for
area and total variation left out, as they are, made heavier or lighter; each mask is the smallest that kept the label
with a U-Net of its own. The last panel is the mode without weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import torch

import suffice
from suffice.buffers import keep_buffers

matplotlib.use("Agg")
from matplotlib import pyplot

CASES = {  # act, CE, KL, area, bin, TV, rob
    "matching alone": "1,0,0,0,0,0,0",
    "no area term": "1,4,.4,0,.3,15,6",
    "no total variation": "1,4,.4,15,.3,0,6",
    "both": "1,4,.4,15,.3,15,6",
    "heavy": "1,4,.4,60,.3,30,6",
    "light": "1,4,.4,4,.3,4,6",
    "without weights": "",
}


def share_in(mask: torch.Tensor, box: list[float]) -> tuple[float, float]:
    """Which share of a mask, bool (H, W), lies in a box of shares (left, top, right, bottom), and of the image.

    >>> share_in(torch.tensor([[True, True], [True, False]]), [0.5, 0, 1, 1])
    (0.3333333333333333, 0.5)
    """
    height, width = mask.shape
    left, top, right, bottom = (round(share * side) for share, side in zip(box, (width, height) * 2, strict=True))
    inside = torch.zeros_like(mask)
    inside[top:bottom, left:right] = True
    return int((mask & inside).sum()) / max(1, int(mask.sum())), int(inside.sum()) / mask.numel()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("photo")
    parser.add_argument("--out", type=Path, default=Path("activation-matching-ablation.png"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--box", type=lambda text: [float(word) for word in text.split(",")])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    classifier = suffice.load_classifier(arguments.model, weights=arguments.weights, device="cpu")
    image = suffice.load_image(arguments.photo, classifier)
    figure, axes = pyplot.subplots(1, 1 + len(CASES), figsize=(2.3 * (1 + len(CASES)), 3.0), layout="constrained")
    for place, (name, lambdas) in zip(axes[1:], CASES.items(), strict=True):
        found = suffice.explain(
            classifier,
            image,
            "activation-matching",
            "zero",
            keep_confidence=0.0 if lambdas else 1.0,
            lambdas=lambdas,
            steps=arguments.steps,
            budget=0,
        )
        shown = image * found.mask + 0.85 * ~found.mask
        place.imshow(shown.permute(1, 2, 0).numpy())
        kept = "label kept" if found.sufficient else "label lost"
        words = f"{found.area:.1%}, confidence {found.explanation_confidence:.2f}, {kept}"
        place.set_title(f"{name}\n{lambdas.replace(',', ', ') or 'constraints'}", fontsize=8)
        place.set_xlabel(words, fontsize=8)
        if arguments.box:
            inside, size = share_in(found.mask, arguments.box)
            words += f"\n{inside:.0%} in the box ({size:.0%} of the image)"
            place.set_xlabel(words, fontsize=8)
        print(f"{name}: {words.replace(chr(10), ', ')}; {found.seconds:.0f} s", flush=True)
        if place is axes[1]:
            axes[0].imshow(image.permute(1, 2, 0).numpy())
            axes[0].set_title(f"{found.target_name}\nwhole image", fontsize=8)
            axes[0].set_xlabel(f"confidence {found.confidence:.2f}", fontsize=8)
    for place in axes:
        place.set_xticks([])
        place.set_yticks([])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
