"""Are learnt masks evidence or attack? Whether parts hold under small changes, and on other networks, at equal area.

    python experiments/am_transfer.py FOLDER --photos 4        # a row for each photo, method and area; resumes
    python experiments/am_transfer.py                          # the table again

For each photo (of EfficientNet-Lite0, `zero` around the part, γ 0.5) two areas: that of the learnt part, and that of
the causal part. At each every method has the same number of pixels, those that it ranks highest: `activation-matching`
(the default), that with `steady` (its label must stay when the picture is moved, blurred or saved as JPEG), that with
`smooth=6`, `causal`, `grad-cam`, and `random` blocks of 16 pixels as a control. `own` rows are the parts as they
were found. Columns: whether the label stays on Lite0 itself (`kept`), in which share of eight shifts by a pixel, under
blur, as JPEG, and on Lite1 and Lite2; the `whole_…` columns are the same of the whole photo.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import photos_of
from suffice.buffers import keep_buffers
from suffice.files import read_csv, write_csv
from suffice.metrics import holds_under, mean_with_error

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "activation-matching": ("activation-matching", {}),
    "activation-matching, steady": ("activation-matching", {"steady": True}),
    "activation-matching, smooth=6": ("activation-matching", {"smooth": 6}),
    "causal": ("causal", {}),
    "grad-cam": ("grad-cam", {}),
}
OTHERS = ("efficientnet-lite1", "efficientnet-lite2")
TESTS = ("shift", "blur", "jpeg", *OTHERS)
COLUMNS = ("photo", "method", "at", "area", "kept", *TESTS, *(f"whole_{name}" for name in TESTS))


def ranked(found: suffice.Explanation, pixels: int) -> Tensor:
    """The `pixels` that an explanation ranks highest, those of its own mask first: bool (H, W)."""
    scores = found.saliency.double() if found.raw_saliency is None else found.raw_saliency.double()
    scores = (scores - scores.min()) / (scores.max() - scores.min() + 1e-12)
    if found.method != "grad-cam":
        scores = scores + found.mask
    return highest(scores, pixels)


def random_blocks(shape: torch.Size, pixels: int, seed: int) -> Tensor:
    blocks = torch.rand(shape[0] // 16, shape[1] // 16, generator=torch.Generator().manual_seed(seed))
    return highest(blocks.repeat_interleave(16, 0).repeat_interleave(16, 1), pixels)


def highest(scores: Tensor, pixels: int) -> Tensor:
    """So many pixels with the largest scores, bool (H, W); of equal ones the first."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.flatten().argsort(descending=True, stable=True)[:pixels]] = True
    return mask.view(scores.shape)


def row_of(
    classifiers: list[suffice.Classifier], image: Tensor, target: int, photo: str, method: str, at: str, mask: Tensor
) -> dict[str, Any]:
    first, *others = classifiers
    logits = suffice.masked_logits(first, image[None], mask[None], "zero")
    found = holds_under(first, image, mask, target, "zero", others=others)
    tested = {**found["changes"], **dict(zip(OTHERS, found["networks"].values(), strict=True))}
    kept = [tested[name]["kept"] / tested[name]["of"] for name in TESTS]
    whole = [tested[name]["whole"] / tested[name]["of_whole"] for name in TESTS]
    values = (photo, method, at, float(mask.float().mean()), int(logits.argmax() == target), *kept, *whole)
    return dict(zip(COLUMNS, values, strict=True))


def rows_of(
    classifiers: list[suffice.Classifier], path: Path, number: int, methods: list[str], steps: int
) -> list[dict[str, Any]]:
    image = suffice.load_image(path, classifiers[0])
    question = suffice.Question(classifiers[0], image, occlusion="zero", keep_confidence=0.5)
    found = {}
    for name in dict.fromkeys(["activation-matching", "causal", *methods]):
        method, settings = METHODS[name]
        more = {"steps": steps} if method == "activation-matching" else {}
        found[name] = question.explain(method, **settings, **more)
        print(f"  {name}: {found[name].area:.1%}, {found[name].verdict}", flush=True)
    sizes = {name: int(found[name].mask.sum()) for name in ("activation-matching", "causal")}
    rows = []
    for name, one in found.items():
        masks = {"own": one.mask} | {f"area of {at}": ranked(one, pixels) for at, pixels in sizes.items()}
        rows += [row_of(classifiers, image, question.target, path.name, name, at, m) for at, m in masks.items()]
    for at, pixels in sizes.items():
        mask = random_blocks(image.shape[1:], pixels, number)
        rows.append(row_of(classifiers, image, question.target, path.name, "random", f"area of {at}", mask))
    return rows


def summary(rows: list[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["at"] == "own"):
        groups.setdefault((row["at"], row["method"]), []).append(row)
    print(f"| at | method | photos | area | Lite0 itself | {' | '.join(TESTS)} |")
    print(f"|{'---|' * (5 + len(TESTS))}")
    for (at, method), of in groups.items():
        shares = [f"{statistics.fmean(float(row[name]) for row in of):.0%}" for name in ("kept", *TESTS)]
        area = f"{mean_with_error([100 * float(row['area']) for row in of]):.1f}%"
        print(f"| {at} | {method} | {len(of)} | {area} | {' | '.join(shares)} |")
    whole = {row["photo"]: row for row in rows}.values()
    shares = [f"{statistics.fmean(float(row[f'whole_{name}']) for row in whole):.0%}" for name in TESTS]
    print(f"| all | the whole photo | {len(whole)} | 100% | 100% | {' | '.join(shares)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=4, help="the first so many")
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=60, help="of learning")
    parser.add_argument("--csv", type=Path, default=Path("results/am-transfer.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    rows = read_csv(arguments.csv) if arguments.csv.is_file() else []
    if arguments.folder is not None:
        classifiers = [suffice.load_classifier(name, device="cpu") for name in (None, *OTHERS)]
        for number, path in enumerate(photos_of(arguments.folder)[: arguments.photos]):
            done = {row["method"] for row in rows if row["photo"] == path.name}
            left = [name for name in arguments.method or METHODS if name not in done]
            if not left:
                continue
            print(path.name, flush=True)
            new = rows_of(classifiers, path, number, left, arguments.steps)
            rows += [{k: str(v) for k, v in row.items()} for row in new if row["method"] not in done]
            write_csv(arguments.csv, COLUMNS, rows)
    if not rows:
        sys.exit(f"expected rows in {arguments.csv}; there are none")
    summary(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
