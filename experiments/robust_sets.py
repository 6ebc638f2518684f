"""More than colours at once: sets of ways to hide pixels that hold deactivation, blur, noise or photos beside `robust`.

    python experiments/robust_sets.py FOLDER [--photos 6] [--keep-confidence 0.5] [--update]
    python experiments/robust_sets.py --print    # what is in results/

Photos have their class at the end of the name (photo_285.jpg). Each is explained under each set. The part is then put
onto 100 colours, onto the folder's photos of other classes and onto noise, and shown in 100 random restrictions of the
network (Definition 7 of Activation-Deactivation): the share on which its class stays. None of these was searched on. A
larger part holds more often whatever was searched on, so the control beside each share is of a part of as many pixels:
the first ones of the ranking that was found under `robust` alone.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from torch import Tensor

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command, show_stored
from suffice.benchmark.images import package_file
from suffice.buffers import keep_buffers
from suffice.explanation import Explanation
from suffice.guarantees.contexts import photos_of_other_classes
from suffice.metrics import mean_with_error, robustness_on, robustness_restrictions, robustness_solid

PHOTOS = ("package:skimage/data/astronaut.png", "package:sklearn/datasets/images/china.jpg")
"""Searched on; those of the folder are not."""

SETS: dict[str, tuple[str, ...]] = {
    "robust": (),
    "robust, deactivate": ("deactivate",),
    "robust, blur": ("blur",),
    "robust, noise": ("noise",),
    "robust, two photos": PHOTOS,
    "robust, deactivate, blur, two photos": ("deactivate", "blur", *PHOTOS),
}
KINDS = ("colours", "photos", "noise", "restrictions")
ASKED = ("set", "gamma")
SHARES = tuple(f"{of}_{kind}" for kind in KINDS for of in ("rho", "control"))
COLUMNS = ("photo", *ASKED, "sufficient", "area", *SHARES, "forward_passes")


def names_of(members: tuple[str, ...]) -> str:
    """As `explain` takes a set: `robust` and what is joined to it, photos by their files.

    >>> names_of(("deactivate", "blur"))
    'robust,deactivate,blur'
    """
    return ",".join(["robust", *(f"image:{package_file(each)}" if ":" in each else each for each in members)])


def first_pixels(ranking: Tensor, count: int) -> Tensor:
    """The `count` first pixels of a ranking (H, W), as a mask.

    >>> first_pixels(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), 2).tolist()
    [[False, True], [True, False]]
    """
    mask = torch.zeros(ranking.numel(), dtype=torch.bool)
    mask[ranking.flatten().argsort(descending=True, stable=True)[:count]] = True
    return mask.reshape(ranking.shape)


def held_out(classifier: suffice.Classifier, image: Tensor, part: Tensor, target: int, photos: Tensor) -> list[float]:
    """Shares of the contexts of each of `KINDS` on which the class of a part stays."""
    noise = torch.rand((30, *image.shape), generator=torch.Generator().manual_seed(1))
    found = (
        robustness_solid(classifier, image, part, target, seed=1),
        *(robustness_on(classifier, image, part[None], target, each)[0] for each in (photos, noise)),
        robustness_restrictions(classifier, image, part, target, seed=1),
    )
    return [each.rho for each in found]


def scored(
    classifier: suffice.Classifier, image: Tensor, found: Explanation, robust: Explanation, photos: Tensor
) -> Row:
    target = found.class_in(classifier)
    control = first_pixels(robust.saliency, int(found.mask.sum()))
    pairs = zip(
        held_out(classifier, image, found.mask, target, photos),
        held_out(classifier, image, control, target, photos),
        strict=True,
    )
    return {
        "sufficient": str(int(found.sufficient)), "area": f"{found.area:.6f}",
        **dict(zip(SHARES, (f"{share:.4f}" for pair in pairs for share in pair), strict=True)),
        "forward_passes": str(found.forward_passes),
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """Means with standard errors, a set a row; in brackets what is more than of the control, photo by photo."""
    lines = [f"| searched under | photos | area | {' | '.join(f'ρ on {kind}' for kind in KINDS)} | images |"]
    lines.append(f"|---|{'--:|' * (len(KINDS) + 3)}")
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        area, images = (mean_with_error([float(row[key]) for row in own]) for key in ("area", "forward_passes"))
        shares = []
        for kind in KINDS:
            rho = [float(row[f"rho_{kind}"]) for row in own]
            more = [share - float(row[f"control_{kind}"]) for share, row in zip(rho, own, strict=True)]
            shares.append(f"{mean_with_error(rho):.2f} ({mean_with_error(more):+.2f})")
        lines.append(f"| {name} | {len(own)} | {area:.1%} | {' | '.join(shares)} | {images:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument(
        "--print", action="store_true", help="print the table of what is in results/ and do nothing else"
    )
    parser.add_argument("--photos", type=int, default=6, help="how many, the first by name")
    parser.add_argument("--keep-confidence", type=float, default=0.5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    add_options(parser)
    options = parser.parse_args()
    if options.print:
        show_stored("robust-sets.csv", lambda rows: print(table(rows)))
        return
    if options.folder is None:
        parser.error("expected a folder of photos, or --print")
    torch.set_num_threads(1)
    keep_buffers()
    rows = Rows("robust-sets.csv", COLUMNS, ASKED, options, code_of("robust_sets.py"))
    classifier = suffice.load_classifier(device="cpu")
    for photo in photos_of(options.folder)[: options.photos]:
        image = suffice.load_image(photo, classifier)
        paths = photos_of_other_classes(options.folder, int(photo.stem.rpartition("_")[2]))
        photos = torch.stack([suffice.load_image(path, classifier) for path in paths])

        @functools.cache
        def part(name: str, image: Tensor = image) -> Explanation:
            occlusion = names_of(SETS[name])
            return suffice.explain(classifier, image, occlusion=occlusion, keep_confidence=options.keep_confidence)

        for name in options.sets:
            known = {"photo": photo.name, "set": name, "gamma": options.keep_confidence, **known_by(classifier, image)}
            row = rows.row(known, lambda: scored(classifier, image, part(name), part("robust"), photos))  # noqa: B023
            print(*(row[key] for key in COLUMNS), sep="  ", flush=True)
    print(table(rows.asked))
    print(rows.close())


if __name__ == "__main__":
    run_as_command(main)
