"""How the cost of explanations grows: images through the model and time, against what is asked for.

    python experiments/cost_growth.py FOLDER [--update] [--photos 8] [--sizes 112 224 448]
    python experiments/cost_growth.py --plot FILE.png      # the picture of results/cost-growth.csv, nothing is asked

The default model and settings, one thread, processor time. Against the image size, the side in pixels, each with the
same two photos; against the number of classes of one photo that are explained, the most probable first; against the
number of γ that `explain_series` is asked for; and against the number of photos, one after the other in one process,
the same again and again where FOLDER has fewer, with the memory that the process has taken at most.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import suffice
from rows import RESULTS, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.files import read_csv

TABLE = "cost-growth.csv"
COLUMNS = ("against", "value", "images", "seconds", "memory")
PARTS = {
    "image size": "side of the input in pixels",
    "classes": "classes explained of one photo",
    "gammas": "γ asked for of one photo",
    "photos": "photos in one process",
}
GAMMAS = (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.6)

Cost = tuple[int, int, float]  # the value, images through the model, seconds


def asked(classifier: suffice.Classifier, image: torch.Tensor, **options: object) -> tuple[int, float]:
    """Images and processor time of one explanation."""
    started = time.process_time()
    found = suffice.explain(classifier, image, **options)  # type: ignore[arg-type]
    return found.forward_passes, time.process_time() - started


def by_size(paths: list[Path], sizes: list[int]) -> Iterator[Cost]:
    """Means over two photos."""
    for size in sizes:
        classifier = suffice.load_classifier(device="cpu", input_size=(size, size))
        costs = [asked(classifier, suffice.load_image(path, classifier)) for path in paths[:2]]
        images, seconds = (sum(numbers) / len(costs) for numbers in zip(*costs, strict=True))
        yield size, round(images), seconds


def by_classes(classifier: suffice.Classifier, image: torch.Tensor, most: int = 4) -> Iterator[Cost]:
    images, seconds = 0, 0.0
    for count, target in enumerate(classifier.logits(image[None])[0].topk(most).indices.tolist(), 1):
        more, longer = asked(classifier, image, target=target)
        images, seconds = images + more, seconds + longer
        yield count, images, seconds


def by_gammas(classifier: suffice.Classifier, image: torch.Tensor) -> Iterator[Cost]:
    for count in (1, 2, 4, 8):
        started = time.process_time()
        found = suffice.explain_series(classifier, image, GAMMAS[:count])
        yield count, sum(one.forward_passes for one in found), time.process_time() - started


def by_photos(classifier: suffice.Classifier, paths: list[Path], most: int) -> Iterator[Cost]:
    images, seconds = 0, 0.0
    shown = {most, *(2**power for power in range(most.bit_length()))}
    for count, path in enumerate(itertools.islice(itertools.cycle(paths), most), 1):
        more, longer = asked(classifier, suffice.load_image(path, classifier))
        images, seconds = images + more, seconds + longer
        if count in shown:
            yield count, images, seconds


def picture(path: Path) -> None:
    """A panel for each part: images above, seconds below, on logarithmic scales."""
    from matplotlib.figure import Figure

    rows = read_csv(RESULTS / TABLE)
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(2, len(PARTS), sharex="col")
    for column, (part, label) in enumerate(PARTS.items()):
        found = sorted(
            (float(r["value"]), float(r["images"]), float(r["seconds"])) for r in rows if r["against"] == part
        )
        for row, name in enumerate(("images through the model", "seconds of the processor")):
            panel = panels[row, column]
            panel.plot([r[0] for r in found], [r[1 + row] for r in found], "o-", color="#1f5fa8")
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            panel.grid(alpha=0.3)
            if column == 0:
                panel.set_ylabel(name)
            if row == 1:
                panel.set_xlabel(label)
                panel.set_xticks([r[0] for r in found], [f"{r[0]:g}" for r in found])
                panel.minorticks_off()
    figure.savefig(path, dpi=100)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 160, 224, 320, 448])
    parser.add_argument("--photos", type=int, default=8, help="explained one after the other (%(default)s)")
    parser.add_argument("--plot", type=Path)
    add_options(parser)
    options = parser.parse_args()
    if options.folder is None:
        picture(options.plot or Path("cost-growth.png"))
        return
    torch.set_num_threads(1)
    keep_buffers()
    paths = photos_of(options.folder)
    classifier = suffice.load_classifier(device="cpu")
    image = suffice.load_image(paths[0], classifier)
    work = {
        "image size": lambda: by_size(paths, options.sizes),
        "classes": lambda: by_classes(classifier, image),
        "gammas": lambda: by_gammas(classifier, image),
        "photos": lambda: by_photos(classifier, paths, options.photos),
    }
    kept = Rows(TABLE, COLUMNS, ("against",), options, code_of("cost_growth.py"))
    for part in options.parts:

        def compute(part: str = part) -> Iterator[dict[str, object]]:
            for value, images, seconds in work[part]():
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MiB on Linux
                yield {"value": value, "images": images, "seconds": f"{seconds:.2f}", "memory": memory}

        for row in kept.rows({"against": part, **known_by(classifier, image)}, compute):
            print(
                f"{part:12} {row['value']:>4} {row['images']:>6} images {row['seconds']:>8} s {row['memory']:>6} MiB",
                flush=True,
            )
    print(kept.close())
    if options.plot:
        picture(options.plot)


if __name__ == "__main__":
    run_as_command(main)
