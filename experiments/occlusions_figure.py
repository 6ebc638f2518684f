"""One photo explained under several ways to hide pixels, side by side: figure 1 of Activation-Deactivation.

    python experiments/occlusions_figure.py PHOTO --out figure-1.png --model efficientnet-lite2

Each picture shows the photo dimmed outside of the part that is enough under one occlusion; below it stand the part's
area and ρ on solid colours. The paper's figure shows an ibex under `deactivate` and four fills, with EfficientNetV2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import suffice
from suffice.explanation import Explanation
from suffice.folders import OutputFolder
from suffice.images import frame_of, read_photo
from suffice.report.figures import overlay, png_bytes, shrunk

OCCLUSIONS = ("deactivate", "min", "max", "zero", "mean", "robust")
WIDTH, GAP, LINES = 300, 12, 44  # pixels


def main() -> None:
    """Explain the photo under each occlusion and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", help="a path, or sample:cat and its like")
    parser.add_argument("--model", default=None)
    parser.add_argument("--occlusions", default=",".join(OCCLUSIONS))
    parser.add_argument("--search", default="boxes", choices=("boxes", "partitions"))
    parser.add_argument("--keep-confidence", type=float, default=0.0)
    parser.add_argument("--out", default="figure-1.png")
    arguments = parser.parse_args()
    classifier = suffice.load_classifier(arguments.model)
    photo = read_photo(arguments.photo)
    image = suffice.load_image(photo, classifier)
    frame = frame_of(photo.pixels.size, classifier.preprocessing)
    pictures = [("photo", shrunk(photo.pixels, 1600), "")]
    for occlusion in arguments.occlusions.split(","):
        found = suffice.explain(
            classifier, image, occlusion=occlusion, search=arguments.search, keep_confidence=arguments.keep_confidence
        )
        rho = suffice.robustness_solid(classifier, image, found.mask, found.target).rho
        print(f"{occlusion}: {words(found, rho)}", flush=True)
        pictures.append((occlusion, overlay(found, photo, frame), words(found, rho)))
    out = Path(arguments.out)
    OutputFolder(out.parent, "occlusions-figure").write({out.name: png_bytes(side_by_side(pictures))})


def words(found: Explanation, rho: float) -> str:
    """What stands below a picture."""
    return f"{found.area:.1%} of the pixels, keeps {rho:.0%} of colours{'' if found.sufficient else ', insufficient'}"


def side_by_side(pictures: list[tuple[str, Image.Image, str]]) -> Image.Image:
    """The pictures in a row, each with its name and words below."""
    height = max(round(picture.height * WIDTH / picture.width) for _, picture, _ in pictures)
    drawn = Image.new("RGB", (len(pictures) * (WIDTH + GAP) - GAP, height + LINES), "white")
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(15)
    for number, (name, picture, below) in enumerate(pictures):
        left = number * (WIDTH + GAP)
        drawn.paste(
            picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS), (left, 0)
        )
        draw.text((left, height + 4), f"({'abcdefghijkl'[number]}) {name}", fill="black", font=font)
        draw.text((left, height + 23), below, fill="#555555", font=font)
    return drawn


if __name__ == "__main__":
    main()
