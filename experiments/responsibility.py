"""How well rankings of pixels agree with degrees of responsibility as they are defined, on a coarse grid.

    python experiments/responsibility.py FOLDER [--photos 20] [--grid 3] [--budget 20000] [--update]

A row a photo and map. The degree of each cell is exact, 1/|X| for the smallest minimal cause X that it is part of
(Definition 8 of Activation-Deactivation), or a lower bound where the budget ends. All is asked under one fill, with the
default model, of the class that the model gives the photo. `rank_correlation` is Spearman's, of the mean of a map over
each cell with the degree; blank where all degrees are equal. As controls,
`centre` falls off from the middle of any photo, and `random` is drawn anew for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.explainers import saliency_maps
from suffice.explainers.descent import Box, grid_of
from suffice.explainers.responsibility import responsibility
from suffice.metrics import mean_with_error
from suffice.provenance import sha256_of_pixels

CAMS = ("grad-cam", "grad-cam++", "layer-cam", "finer-cam")
# ReX's settings but for 4 iterations in the place of 20, and its cuts.
PARTITIONS = {"search": "partitions", "iterations": 4, "depth": 10, "smallest_box": 10, "prune": 0}
SETTINGS = ("grid", "budget", "occlusion")
COLUMNS = ("photo", *SETTINGS, "map", "rank_correlation", "exact", "causes", "sets_asked", "forward_passes")


def maps_of(question: suffice.Question) -> Iterator[tuple[str, npt.NDArray[np.float64], int]]:
    """The maps by name, each with the images that it took."""
    classifier = question.classifier
    for name, method, settings in (
        ("causal boxes", "causal", {}),
        ("causal partitions", "causal", PARTITIONS),
        ("lime", "lime", {}),
    ):
        # Each in a question of its own, so that none is served with what another one has asked.
        alone = suffice.Question(
            classifier, question.image, question.target, occlusion=question.occlusion, keep_confidence=0.0
        )
        found = alone.explain(method, **settings)
        yield name, found.saliency.double().numpy(), found.forward_passes
    for name in CAMS:
        before = classifier.passes.forward
        maps = saliency_maps(classifier, question.image[None], torch.tensor([question.target]), name)
        yield name, maps.raw[0].double().numpy(), classifier.passes.forward - before
    height, width = question.region.shape
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    yield "centre", -np.hypot(rows, columns), 0
    drawn = np.random.default_rng(int(sha256_of_pixels(question.image)[:8], 16))  # another map for each photo
    yield "random", drawn.random((height, width)), 0


def rank_correlation(saliency: npt.NDArray[np.float64], degrees: npt.NDArray[np.float64]) -> str:
    """Spearman's, of a map's mean over each cell with the degree of the cell; empty where either is constant.

    >>> rank_correlation(np.arange(16.0).reshape(4, 4), np.array([[0.1, 0.2], [0.3, 0.4]]))
    '1.0000'
    """
    from scipy.stats import spearmanr

    cells = grid_of(Box(0, 0, *saliency.shape), *degrees.shape)
    means = [saliency[cell.inside].mean() for cell in cells]
    if np.ptp(means) == 0 or np.ptp(degrees) == 0:
        return ""
    return f"{spearmanr(means, degrees.ravel()).statistic:.4f}"


def measured(classifier: suffice.Classifier, image: Tensor, grid: int, budget: int, occlusion: str) -> Iterator[Row]:
    question = suffice.Question(classifier, image, occlusion=occlusion, keep_confidence=0.0)
    degrees = responsibility(question, grid, budget)
    beside = {"exact": degrees.exact, "causes": len(degrees.sets), "sets_asked": degrees.asked}
    for name, saliency, passes in maps_of(question):
        row = {"map": name, "rank_correlation": rank_correlation(saliency, degrees.lower), "forward_passes": passes}
        yield {key: str(value) for key, value in (row | beside).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=20, help="how many, the first by name")
    parser.add_argument("--grid", type=int, default=3)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--occlusion", default="zero")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    asked = (arguments.grid, arguments.budget, arguments.occlusion)
    rows = Rows("responsibility.csv", COLUMNS, SETTINGS, arguments, code_of("responsibility.py"))
    classifier = suffice.load_classifier(device="cpu")
    for photo in photos_of(arguments.folder)[: arguments.photos]:
        image = suffice.load_image(photo, classifier)
        known = {"photo": photo.name, **dict(zip(SETTINGS, asked, strict=True)), **known_by(classifier, image)}
        for row in rows.rows(known, lambda image=image: list(measured(classifier, image, *asked))):  # type: ignore[misc]
            print(*row.values(), sep="  ", flush=True)
    print(f"\nrank correlation with the degrees on a {arguments.grid}x{arguments.grid} grid, mean over the photos:")
    for name in dict.fromkeys(row["map"] for row in rows.asked):
        here = [row for row in rows.asked if row["map"] == name]
        found = [float(row["rank_correlation"]) for row in here if row["rank_correlation"]]
        mean = f"{mean_with_error(found):.2f}" if found else "none"
        print(f"{name}: {mean} ({len(found)} of {len(here)} photos)")
    print(rows.close())
    return 0


if __name__ == "__main__":
    run_as_command(main)
