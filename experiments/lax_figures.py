"""Figures 1 and 3 to 20, and Tables 1 and 2, of *Learning Quantifiable Visual Explanations Without Ground-Truth*.

    python experiments/lax_figures.py table1 synthetic-mnist:literal --model MODEL --weights W --adapter A --out DIR
    python experiments/lax_figures.py table2 …      # LAX beside Grad-CAM, by all metrics
    python experiments/lax_figures.py several …     # Figures 1 and 17 to 20: image, map, part, complement
    python experiments/lax_figures.py grid …        # Figures 3 to 16: images down, methods across

Each takes a data set by name or a folder with one folder of images for each class, and writes WHAT.png, and of a table
WHAT.csv, to --out. Without --adapter the best that needs none, Grad-CAM, takes LAX's place. The paper's own figures are
of Synthetic MNIST, CUB-200 and CIFAR-10, its models and adapters not public: what the commands show is another model's.

Table 1 takes the smaller of two masks as the method gives it, and makes the larger one of it: the map raised to 1 on
all pixels within --grow of the part. `several` takes the images of which both the part and its complement keep the
label, as the paper's figures do, and says how many of those that it looked at are so; where the label is what the model
says of nothing at all, two parts that have it are no two solutions, and the image is counted, but not shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from torch import Tensor

import msi_lax_tables as tables
from suffice.classifier import Classifier
from suffice.datasets import ImageDataset, load_dataset, random_subset
from suffice.datasets.labels import labelled_for
from suffice.explainers import saliency_maps
from suffice.files import write_csv
from suffice.images import as_picture, to_model
from suffice.metrics import score_many
from suffice.models import load_classifier
from suffice.occlusion import masked_logits
from suffice.report.figures import saliency_colours

_CELL = 128  # pixels of the side of a picture
_LETTERS = 10  # of a class's name under a picture
_LOOKED_AT = 20  # images for one that is shown, at most
Picture = tuple[str, Image.Image]


def maps_of(method: str, classifier: Classifier, images: Tensor, adapter: str | None) -> Tensor:
    """Maps (N, H, W) in [0, 1]; those of CAMs from 0 to 1."""
    settings: Mapping[str, Any] = {"adapter": adapter} if method == "lax" else {}
    return saliency_maps(classifier, images, method=method, **settings).normalised


def metrics_of(
    classifier: Classifier, image: Tensor, maps: Mapping[str, Tensor], label: int, alpha_min: float
) -> list[dict[str, Any]]:
    """A row a map, of all metrics of the paper's tables, by accuracy against the label where the paper does."""
    stacked = torch.stack(list(maps.values()))
    images = image.expand(len(maps), *image.shape)
    scores = score_many(
        classifier, images, stacked, [label] * len(maps), tables.METRICS, "zero", step=0.02, alpha_min=alpha_min,
        normalise="none",
    )  # fmt: skip
    return [{"map": name} | {k: f"{v:.3f}" for k, v in scores.of_map(n).items()} for n, name in enumerate(maps)]


def grown(heat: Tensor, alpha_min: float, by: int) -> Tensor:
    """A map (H, W) that is 1 on all pixels within a number of steps of its part, and as it was elsewhere.

    >>> grown(torch.tensor([[0.9, 0.2, 0.1]]), 0.5, 1)
    tensor([[1.0000, 1.0000, 0.1000]])
    """
    part = binary_dilation((heat > alpha_min).numpy(), iterations=by)
    return torch.where(torch.from_numpy(part), torch.ones_like(heat), heat)


def picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1], as it is looked at."""
    return as_picture(image).resize((_CELL, _CELL), Image.Resampling.NEAREST)


def over(image: Tensor, heat: Tensor) -> Image.Image:
    """An image with its map in [0, 1] over it, on the map's own scale: dark is 0, bright is 1."""
    colours = saliency_colours(256)[(255 * heat.clamp(0, 1)).round().long().numpy()]
    hot = Image.fromarray(colours).resize((_CELL, _CELL), Image.Resampling.NEAREST)
    return Image.blend(picture(image), hot, 0.6)


def answers(classifier: Classifier, image: Tensor, masks: Mapping[str, Tensor]) -> list[str]:
    """What the classifier says of an image with only the pixels of each mask (H, W), and how surely, after its name."""
    stacked = torch.stack(list(masks.values()))
    logits = masked_logits(classifier, image.expand(len(masks), *image.shape), stacked, "zero")
    best = [(classifier.class_name(int(p.argmax()))[:_LETTERS], float(p.max())) for p in logits.softmax(1)]
    return [f"{mask}: {name}, {sure:.2f}" for mask, (name, sure) in zip(masks, best, strict=True)]


def sheet(rows: Sequence[Sequence[Picture]], path: Path) -> None:
    """Pictures in rows, each with a line of text under it, as a PNG."""
    line, gap = 14, 6
    columns = max(map(len, rows))
    size = (gap + columns * (_CELL + gap), gap + len(rows) * (_CELL + line + gap))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for down, row in enumerate(rows):
        for across, (text, shown) in enumerate(row):
            left, top = gap + across * (_CELL + gap), gap + down * (_CELL + line + gap)
            canvas.paste(shown, (left, top))
            draw.text((left, top + _CELL + 1), text, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def chosen(dataset: ImageDataset, classifier: Classifier, count: int) -> list[tuple[Tensor, int]]:
    """The first images that the classifier has right, as it sees them, with their labels."""
    found = []
    for index in range(min(len(dataset), _LOOKED_AT * count)):
        image, label = to_model(dataset.photo(index), classifier), dataset.labels[index]
        if int(classifier.logits(image[None]).argmax()) == label:
            found.append((image, label))
        if len(found) == count:
            break
    return found


def table1(classifier: Classifier, dataset: ImageDataset, args: argparse.Namespace) -> None:
    """Two masks of an image that both keep the label, the one within the other, by every metric."""
    rows, shown = [], []
    for number, (image, label) in enumerate(chosen(dataset, classifier, args.images)):
        small = maps_of(args.method, classifier, image[None], args.adapter)[0]
        maps = {"small": small, "large": grown(small, args.alpha_min, args.grow)}
        rows += [{"image": number, **row} for row in metrics_of(classifier, image, maps, label, args.alpha_min)]
        said = answers(classifier, image, {name: heat > args.alpha_min for name, heat in maps.items()})
        shown.append(
            [("image", picture(image)), *((s, over(image, m)) for s, m in zip(said, maps.values(), strict=True))]
        )
    _write("table1", rows, shown, args.out)


def table2(classifier: Classifier, dataset: ImageDataset, args: argparse.Namespace) -> None:
    """LAX beside Grad-CAM on some images, by every metric."""
    rows, shown = [], []
    for number, (image, label) in enumerate(chosen(dataset, classifier, args.images)):
        maps = {m: maps_of(m, classifier, image[None], args.adapter)[0] for m in (args.method, "grad-cam")}
        rows += [{"image": number, **row} for row in metrics_of(classifier, image, maps, label, args.alpha_min)]
        shown.append([("image", picture(image)), *((name, over(image, heat)) for name, heat in maps.items())])
    _write("table2", rows, shown, args.out)


def several(classifier: Classifier, dataset: ImageDataset, args: argparse.Namespace) -> None:
    """Figures 1 and 17 to 20: images of which the part and its complement both keep the label."""
    shown, both, looked = [], 0, 0
    for image, label in chosen(dataset, classifier, _LOOKED_AT * args.images):
        looked += 1
        heat = maps_of(args.method, classifier, image[None], args.adapter)[0]
        part = heat >= args.alpha_min
        masks = {"image": torch.ones_like(part), "part": part, "rest": ~part, "nothing": torch.zeros_like(part)}
        logits = masked_logits(classifier, image.expand(4, *image.shape), torch.stack(list(masks.values())), "zero")
        *kept, of_nothing = (logits.argmax(1) == label).tolist()
        both += all(kept)
        if all(kept) and not of_nothing:
            said = dict(zip(masks, answers(classifier, image, masks), strict=True))
            part_and_rest = [(said[name], picture(image * masks[name])) for name in ("part", "rest")]
            shown.append([(said["image"], picture(image)), ("map", over(image, heat)), *part_and_rest])
        if len(shown) == args.images:
            break
    print(
        f"of {looked} images that are classified as labelled, {both} by the part and by its complement, too; "
        f"of {both - len(shown)} of these it says the same with nothing shown, so that they show no two solutions"
    )
    if shown:
        sheet(shown, args.out / "several.png")


def grid(classifier: Classifier, dataset: ImageDataset, args: argparse.Namespace) -> None:
    """Figures 3 to 16: the maps of every method, images down, methods across."""
    methods = (*tables.CAMS, *(("lax",) if args.adapter else ()))
    images = [image for image, _ in chosen(dataset, classifier, args.images)]
    maps = {method: maps_of(method, classifier, torch.stack(images), args.adapter) for method in methods}
    rows = [
        [("image", picture(image)), *((method, over(image, heat[n])) for method, heat in maps.items())]
        for n, image in enumerate(images)
    ]
    sheet(rows, args.out / "grid.png")


def _write(name: str, rows: Sequence[Mapping[str, Any]], shown: Sequence[Sequence[Picture]], out: Path) -> None:
    if not rows:
        raise SystemExit("none of the images that were looked at is classified as labelled")
    sheet(shown, out / f"{name}.png")
    write_csv(out / f"{name}.csv", list(rows[0]), rows)
    columns = ("insertion", "deletion", "fid_minus", "fid_plus", "msi_base", "msi_penalty", "msi")
    print(f"{'image':<7}{'map':<11}" + "".join(f"{column:>13}" for column in columns))
    for row in rows:
        print(f"{row['image']:<7}{row['map']:<11}" + "".join(f"{row[column]:>13}" for column in columns))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("dataset", help="a name, or a folder with one folder of images for each class")
    parser.add_argument("--data", default=None, help="where the data sets lie ($SUFFICE_DATA, or data)")
    parser.add_argument("--model", default=None, help="as of suffice explain; none for the embedded one")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--adapter", default=None, help="that suffice train-lax wrote")
    parser.add_argument("--alpha-min", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--grow", type=int, default=12, help="pixels by which Table 1's larger mask is larger")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lax-figures"))
    args = parser.parse_args(arguments)
    args.method = "lax" if args.adapter else "grad-cam"
    classifier = load_classifier(args.model, weights=args.weights)
    dataset = random_subset(load_dataset(args.dataset, args.data, "test", seed=args.seed), 10_000, args.seed)
    dataset = labelled_for(classifier, dataset, same=True, instead="another model may have them")
    WHAT[args.what](classifier, dataset, args)


WHAT = {"table1": table1, "table2": table2, "several": several, "grid": grid}

if __name__ == "__main__":
    main()
