"""What scoring a map costs: beside the plain forward pass, and beside torchcam, grad-cam and Quantus, in one run.

    python experiments/score_cost.py [PHOTO…] [--rounds 3] [--models embedded timm:resnet50 …] [--save]

Cost: all curve metrics of one map (insertion, deletion, Fid- and Fid+, each by value and by percentage, MSI), over the
plain pass: the same module, on the same distinct masked images, which lie ready in memory, in batches of the same size,
with the channels last, which is its faster way. A sweep asks a faster copy of the module (src/suffice/faster), where
there can be one; the ratio to a plain pass of that copy, which is what the sweep itself adds, is given as well.

Peers: the insertion and the deletion curve of one map in 48 steps, each 2.1% of the pixels, pixels hidden as zero after
normalisation: torchcam's `DeletionInsertionMetric`; grad-cam's `PerturbationConfidenceMetric` with a zero imputer at 47
percentiles, from either end; Quantus's `PixelFlipping`, of the map and of the map upside down, whose curve is
insertion from its end. ROAD, what grad-cam itself comes with, fills pixels in by solving equations, and gives other
curves: it is timed at its own nine percentiles.

Quantus runs in an environment of its own, since it wants another opencv; the first call makes it in `.venv-quantus`,
with the torch that runs here. Tools take turns photo by photo, one thread each. Times are those of the processor for
the process, so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import site
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import suffice
from rows import Rows, add_options, code_of, known_by, run_as_command
from suffice.buffers import keep_buffers
from suffice.classifier import Classifier
from suffice.metrics import as_saliency

QUANTUS = "quantus==0.6.0"
PHOTOS = ("sample:coffee", "sample:cat")
SETTINGS = ("model", "photo", "rounds")
FOUND = ("tool", "images", "seconds", "over_plain", "over_copy", "times_suffice", "largest_difference")
CURVES = ("insertion", "deletion", "insertion_percent", "deletion_percent")
CURVES += ("fid_minus", "fid_plus", "fid_minus_percent", "fid_plus_percent", "msi", "msi_base", "msi_penalty")
STEPS = 48  # Quantus asks for a step that divides both the pixels and, unlike 1/50 of them, the values of 3 channels
LIMIT = 1.1


def load(model: str) -> Classifier:
    """The embedded default, or a model with random weights: the cost is the same."""
    torch.manual_seed(0)
    if model == "embedded":
        return suffice.load_classifier(device="cpu")
    return suffice.load_classifier(model, weights="random", device="cpu")


def map_of(photo: str) -> Tensor:
    """A map (224, 224) as a CAM gives it: 7 x 7, resized; the same for the same photo."""
    random = np.random.default_rng(sum(map(ord, photo)))
    return as_saliency(random.gamma(1.0, size=(7, 7)).astype(np.float32), (224, 224))


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


# --- beside the plain pass ----------------------------------------------------------------------------------------


def masked_images(classifier: Classifier, image: Tensor, heat: Tensor) -> Tensor:
    """The distinct masked images that a sweep asks about, caught on their way into the model."""
    caught: list[Tensor] = []
    hook = classifier.module.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0].clone()))
    try:
        suffice.score(classifier, image, heat, CURVES)
    finally:
        hook.remove()
    return torch.cat([batch.contiguous() for batch in caught])


def cost(classifier: Classifier, photo: str, rounds: int) -> dict[str, Any]:
    image, heat = suffice.load_image(photo, classifier), map_of(photo)
    inputs = masked_images(classifier, image, heat)
    assert len(inputs.flatten(1).unique(dim=0)) == len(inputs), "a masked image was asked twice"
    classifier.batch_size = 32
    suffice.score(classifier, image, heat, "deletion_percent", step=0.5)  # makes the faster copy
    ours, plain, copied = [], [], []
    for _ in range(rounds):
        passes = classifier.forward_passes
        ours.append(cpu_seconds(lambda: suffice.score(classifier, image, heat, CURVES))[0])
        assert classifier.forward_passes - passes == len(inputs)
        for seconds, copies in ((plain, False), (copied, True)):
            ask_all = functools.partial(classifier.batched, lambda m, x: m(x), inputs, screen=True, copies=copies)
            seconds.append(cpu_seconds(ask_all)[0])
    return {
        "tool": "suffice, all curve metrics",
        "images": len(inputs),
        "seconds": statistics.median(ours),
        "over_plain": statistics.median(ours) / statistics.median(plain),
        "over_copy": statistics.median(ours) / statistics.median(copied),
    }


# --- beside the peers: functions of (module, normalised image, map, label) -> (insertion, deletion) ---------------


def with_torchcam(module: Any, x: Tensor, heat: Tensor, label: int) -> tuple[float, float]:
    from torchcam.metrics import DeletionInsertionMetric

    class GivenMap:
        model = module

        def __call__(self, *args: Any, **options: Any) -> list[Tensor]:
            return [heat[None]]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> Any:
            return contextlib.nullcontext()

    metric = DeletionInsertionMetric(GivenMap(), lambda logits: logits.softmax(1), steps=STEPS)
    metric.update(x, label)
    found = metric.summary()
    return found["insertion_auc"], found["deletion_auc"]


def with_grad_cam(module: Any, x: Tensor, heat: Tensor, label: int) -> tuple[float, float]:
    from pytorch_grad_cam.metrics.perturbation_confidence import (
        PerturbationConfidenceMetric,
        RemoveLeastRelevantFirst,
        RemoveMostRelevantFirst,
    )

    scaled = ((heat - heat.min()) / (heat.max() - heat.min())).numpy()[None]
    ends = _probabilities(module, torch.cat([x, torch.zeros_like(x)]), label)
    curves = []
    for remove in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst):
        inside = [
            float(
                PerturbationConfidenceMetric(remove(100 - 100 * i / STEPS, lambda tensor, mask: tensor * mask))(
                    x, scaled, [lambda logits: logits.softmax(0)[label]], module, return_diff=False
                )[0]
            )
            for i in range(1, STEPS)
        ]
        curves.append(float(np.trapezoid([ends[0], *inside, ends[1]], dx=1 / STEPS)))
    return curves[1], curves[0]


def with_road(module: Any, x: Tensor, heat: Tensor, label: int) -> tuple[float, float]:
    from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirstAverage, ROADMostRelevantFirstAverage

    scaled = ((heat - heat.min()) / (heat.max() - heat.min())).numpy()[None]
    targets = [lambda logits: logits.softmax(0)[label]]
    return tuple(
        float(metric()(x, scaled, targets, module)[0])
        for metric in (ROADLeastRelevantFirstAverage, ROADMostRelevantFirstAverage)
    )


def with_quantus(module: Any, x: Tensor, heat: Tensor, label: int) -> tuple[float, float]:
    import quantus

    metric = quantus.PixelFlipping(
        features_in_step=x.numel() // STEPS,  # of the three channels of each pixel
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
    )
    whole = _probabilities(module, x, label)[0]
    curves = []
    for map_ in (heat, heat.max() - heat):
        after = metric(module, x.numpy(), np.array([label]), map_.numpy()[None, None], softmax=True, device="cpu")
        curves.append(float(np.trapezoid([whole, *after[0]], dx=1 / STEPS)))
    return curves[1], curves[0]


def _probabilities(module: Any, x: Tensor, label: int) -> list[float]:
    with torch.no_grad():
        return module(x).softmax(1)[:, label].tolist()


PEERS: dict[str, Callable[[Any, Tensor, Tensor, int], tuple[float, float]]] = {
    "torchcam": with_torchcam,
    "grad-cam": with_grad_cam,
    "Quantus": with_quantus,
    "grad-cam ROAD (9 percentiles)": with_road,
}


def ask(classifier: Classifier, tool: str, photo: str) -> dict[str, Any]:
    """One turn of one tool."""
    image, heat = suffice.load_image(photo, classifier), map_of(photo)
    label = int(classifier.logits(image[None])[0].argmax())
    if tool == "suffice":
        names = ["insertion_percent", "deletion_percent"]
        seconds, found = cpu_seconds(
            lambda: tuple(suffice.score(classifier, image, heat, names, step=1 / STEPS).values())
        )
    else:
        module, x = classifier.module.eval(), classifier.normalise(image[None])
        seconds, found = cpu_seconds(lambda: PEERS[tool](module, x, heat, label))
    return {"seconds": seconds, "insertion": found[0], "deletion": found[1]}


class Elsewhere:
    """The same turns in the environment of Quantus: one process, one line of JSON a turn."""

    def __init__(self, environment: Path, model: str) -> None:
        command = [_quantus_python(environment), __file__, "--worker", "--models", model]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, tool: str, photo: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([tool, photo]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {tool} ended with status {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(classifier: Classifier) -> None:
    """Answers on stdout, with everything else that is printed sent to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        tool, photo = json.loads(line)
        print(json.dumps(ask(classifier, tool, photo)), file=answers, flush=True)


def _quantus_python(environment: Path) -> Path:
    python, complete = environment / "bin" / "python", environment / "quantus-is-installed"
    if complete.is_file():
        return python
    print(f"installing {QUANTUS} into {environment}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    # What it lacks it finds here: the same torch, or the comparison would be one of kernels.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [*site.getsitepackages(), str(Path(suffice.__file__).parents[1])]
    shared = environment / "lib" / version / "site-packages" / "shared.pth"
    shared.write_text("\n".join(places) + "\n", encoding="utf-8")
    subprocess.run([python, "-m", "pip", "install", "--quiet", QUANTUS], check=True)
    complete.touch()
    return python


# --- the tables ---------------------------------------------------------------------------------------------------


def compare(classifier: Classifier, model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    tools = ["suffice", *PEERS]
    elsewhere = Elsewhere(options.quantus_env, model) if not options.no_quantus else None
    times: dict[str, list[float]] = {tool: [] for tool in tools}
    ratios: dict[str, list[float]] = {tool: [] for tool in tools}
    off: dict[str, float] = dict.fromkeys(tools, 0.0)
    try:
        for turn in range(options.rounds):
            for photo in options.photos:
                of: dict[str, dict[str, Any]] = {}
                for tool in tools if turn % 2 == 0 else reversed(tools):
                    if "ROAD" in tool and turn:
                        continue  # it takes minutes
                    if tool != "Quantus":
                        of[tool] = ask(classifier, tool, photo)
                    elif elsewhere is not None:
                        of[tool] = elsewhere(tool, photo)
                for tool, found in of.items():
                    print(f"{photo} {turn} {tool}: {found['seconds']:.2f} s", file=sys.stderr, flush=True)
                    times[tool].append(found["seconds"])
                    ratios[tool].append(found["seconds"] / of["suffice"]["seconds"])
                    error = max(abs(found[name] - of["suffice"][name]) for name in ("insertion", "deletion"))
                    off[tool] = max(off[tool], error)
    finally:
        if elsewhere is not None:
            elsewhere.close()
    return [
        {
            "tool": tool,
            "seconds": statistics.median(times[tool]),
            "times_suffice": statistics.median(ratios[tool]),
            "largest_difference": "" if "ROAD" in tool else off[tool],
        }
        for tool in tools
        if times[tool]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="*", default=PHOTOS)
    parser.add_argument("--models", nargs="+", default=["embedded"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantus-env", type=Path, default=Path(".venv-quantus"), help="made if missing")
    parser.add_argument("--no-quantus", action="store_true")
    parser.add_argument("--no-peers", action="store_true", help="beside the plain pass alone")
    add_options(parser)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    keep_buffers()
    if options.worker:
        work(load(options.models[0]))
        return
    rows = Rows("score-cost.csv", (*SETTINGS, *FOUND), SETTINGS, options, code_of("score_cost.py"))
    for model in options.models:
        classifier = load(model)
        known = {"model": model, "rounds": options.rounds, **known_by(classifier)}
        for photo in options.photos:
            row = rows.row(
                known | {"photo": photo} | known_by(classifier, suffice.load_image(photo, classifier)),
                lambda classifier=classifier, photo=photo: rounded(cost(classifier, photo, options.rounds)),
            )
            verdict = "" if float(row["over_plain"]) <= LIMIT else f"  above {LIMIT}"
            print(
                "{model:16} {photo:18} {images:>4} masked images {seconds:>7} s  x {over_plain} of the plain pass "
                "(x {over_copy} of that of the faster copy)".format(**row)
                + verdict,
                flush=True,
            )
    for model in () if options.no_peers else options.models:
        classifier = load(model)
        known = {"model": model, "rounds": options.rounds, "photo": " ".join(options.photos), **known_by(classifier)}

        def compare_all(classifier: Classifier = classifier, model: str = model) -> list[dict[str, Any]]:
            return [rounded(row) for row in compare(classifier, model, options)]

        for row in rows.rows(known, compare_all, again=lambda row: True):  # times of one run
            same = row["largest_difference"]
            print(
                "{model:16} insertion and deletion  {tool:30} {seconds:>7} s  x {times_suffice:>6}  ".format(**row)
                + ("" if same == "" else f"values within {same}"),
                flush=True,
            )
    print(rows.close())


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


if __name__ == "__main__":
    run_as_command(main)
