"""Saliency maps beside the causal search: area, ρ, passes and seconds of the parts that each finds, at one γ.

    python experiments/baselines.py FOLDER [--occlusions robust zero] [--update]
    python experiments/baselines.py FOLDER --signs    # photos on which the sign of kpca-cam is not the package's
    python experiments/baselines.py --cost            # maps of many small images, beside the plain pass and the package

Every method answers the same question with the same extraction: the smallest part found, down its ranking, that keeps
the class with at least γ of its confidence. ρ is the share of 100 random solid colours on which the part keeps its
class; a photo of which no sufficient part was found is counted, and its part (all of the image) is in the means. A
method can be given settings, as in kpca-cam:sign=package. Seconds are of the clock, those of the processor beside them.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.explainers import saliency_maps
from suffice.metrics import mean_with_error, robustness_solid

SETTINGS = ("occlusion", "method", "gamma")
COLUMNS = (*SETTINGS, "photo", "target", "sufficient", "area", "rho", "forward_passes", "backward_passes")
COLUMNS += ("seconds", "cpu_seconds")
CAMS = ("grad-cam", "grad-cam++", "layer-cam", "kpca-cam", "finer-cam")
METHODS = ("causal", *CAMS)


def settings_of(method: str) -> tuple[str, dict[str, str]]:
    """Name and settings of a method as the command line gives it.

    >>> settings_of("kpca-cam:sign=package")
    ('kpca-cam', {'sign': 'package'})
    """
    name, *pairs = method.split(":")
    return name, dict(pair.split("=", 1) for pair in pairs)


def table(rows: list[dict[str, str]]) -> str:
    """Means with standard errors, an occlusion after another, in the order of the methods."""
    lines = []
    for occlusion in dict.fromkeys(row["occlusion"] for row in rows):
        lines += [f"\n{occlusion}", "| method | photos | sufficient | area | ρ | forward | backward | processor s |"]
        lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
        for method in dict.fromkeys(row["method"] for row in rows if row["occlusion"] == occlusion):
            own = [row for row in rows if (row["occlusion"], row["method"]) == (occlusion, method)]
            area, rho, forward, backward, seconds = (
                mean_with_error([float(row[name]) for row in own])
                for name in ("area", "rho", "forward_passes", "backward_passes", "cpu_seconds")
            )
            kept = sum(int(row["sufficient"]) for row in own)
            lines.append(
                f"| `{method}` | {len(own)} | {kept} | {area:.1%} | {rho:.3f} | {forward:.0f} | {backward.value:.0f} "
                f"| {seconds:.1f} |"
            )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--signs", action="store_true")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--occlusions", nargs="+", default=["robust", "zero"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--keep-confidence", type=float, default=0.5)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--threads", type=int, default=1)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_buffers()
    if arguments.cost:
        print(cost())
        return 0
    if arguments.folder is None:
        parser.error("expected a folder of photos, or --cost")
    photos = photos_of(arguments.folder)
    classifier = suffice.load_classifier(arguments.model, weights=arguments.weights, device="cpu")
    if arguments.signs:
        print(signs(classifier, photos))
        return 0
    rows = Rows("baselines.csv", COLUMNS, SETTINGS, arguments, code_of("baselines.py"))
    gamma = arguments.keep_confidence
    for photo in photos:  # so that a run that is stopped has all methods on the same photos, but for the last
        image = suffice.load_image(photo, classifier)
        known = {"photo": photo.name, "gamma": gamma, **known_by(classifier, image)}
        for occlusion in arguments.occlusions:
            for method in arguments.methods:
                asked = {"occlusion": occlusion, "method": method, **known}
                row = rows.row(asked, lambda asked=asked, image=image: explained(classifier, image, asked))  # type: ignore[misc]
                print(*row.values(), sep="  ", file=sys.stderr, flush=True)
    order = {key: index for index, key in enumerate([*arguments.occlusions, *arguments.methods])}
    print(f"γ {gamma}, {classifier.name}, {arguments.threads} thread(s)")
    print(table(sorted(rows.asked, key=lambda row: [order[row[name]] for name in ("occlusion", "method")])))
    print(rows.close())
    return 0


def explained(classifier: suffice.Classifier, image: torch.Tensor, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The part that a method finds, and its ρ."""
    name, settings = settings_of(asked["method"])
    used = time.process_time()
    found = suffice.explain(
        classifier, image, name, occlusion=asked["occlusion"], keep_confidence=asked["gamma"], **settings
    )
    used = time.process_time() - used
    return {
        "target": found.target_name,
        "sufficient": int(found.sufficient),
        "area": f"{found.area:.6f}",
        "rho": f"{robustness_solid(classifier, image, found.mask, found.target).rho:.2f}",
        "forward_passes": found.forward_passes,
        "backward_passes": found.backward_passes,
        "seconds": f"{found.seconds:.2f}",
        "cpu_seconds": f"{used:.2f}",
    }


def signs(classifier: suffice.Classifier, photos: list[Path]) -> str:
    """On how many photos the rule for the sign of kpca-cam decides otherwise than the package."""
    images = torch.stack([suffice.load_image(photo, classifier) for photo in photos])
    ours, theirs = (saliency_maps(classifier, images, method="kpca-cam", sign=s).raw for s in ("activation", "package"))
    differ = int(((ours * theirs).sum((1, 2)) < 0).sum())
    return f"kpca-cam: on {differ} of {len(photos)} photos the sign is not the package's"


def cost(count: int = 64, batch: int = 32) -> str:
    """CPU time of maps of images of 64 x 64 (ResNet-18, maps of 8 x 8) over that of the plain pass, best of three."""
    module = torchvision.models.resnet18(num_classes=10).eval()
    module.conv1.stride = module.layer4[0].conv1.stride = module.layer4[0].downsample[0].stride = (1, 1)
    classifier = suffice.Classifier(module, input_size=(64, 64), batch_size=batch)
    images, targets = torch.rand(count, 3, 64, 64), torch.randint(0, 10, (count,))

    def by_the_package() -> None:
        with GradCAM(module, [module.layer4[-1]]) as cam:
            for start in range(0, count, batch):
                rows = slice(start, start + batch)
                cam(classifier.normalise(images[rows]), [ClassifierOutputTarget(k) for k in targets[rows].tolist()])

    work = {"plain pass": lambda: classifier.logits(images)}
    work |= {
        name: lambda name=name: saliency_maps(classifier, images, targets, name)  # type: ignore[misc]
        for name in CAMS
    }
    work["GradCAM of the package, in the same batches"] = by_the_package  # type: ignore[assignment]
    seconds: dict[str, float] = {}
    for _ in range(3):
        for name, run in work.items():
            started = time.process_time()
            run()
            seconds[name] = min(seconds.get(name, math.inf), time.process_time() - started)
    plain = seconds["plain pass"]
    lines = [f"| {name} | {1000 * s / count:.1f} ms an image | {s / plain:.2f} |" for name, s in seconds.items()]
    return "\n".join(["| maps | CPU time | x plain pass |", "|---|--:|--:|", *lines])


if __name__ == "__main__":
    run_as_command(main)
