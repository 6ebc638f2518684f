"""Are learnt masks evidence or attack? Whether parts hold under small changes, and on other networks, at equal area.

    python experiments/am_transfer.py FOLDER --photos 4        # a row for each photo, method and area; resumes
    python experiments/am_transfer.py                          # the table in results/ again

For each photo (of EfficientNet-Lite0, `zero` around the part, γ 0.5) two areas: that of the learnt part, and that of
the causal part. At each every method has the same number of pixels, those that it ranks highest: `activation-matching`
(the default), that with `steady` (its label must stay when the picture is moved, blurred or saved as JPEG), that with
`smooth=6`, `causal`, `grad-cam`, and `random` blocks of 16 pixels as a control. `own` rows are the parts as they
were found. Columns: whether the label stays on Lite0 itself (`kept`), in which share of eight shifts by a pixel, under
blur, as JPEG, and on Lite1 and Lite2; the `whole_…` columns are the same of the whole photo.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from rows import Rows, add_options, code_of, known_by, photos_of, run_as_command, show_stored
from suffice.buffers import keep_buffers
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
TABLE, SETTINGS = "am-transfer.csv", ("method", "at", "steps")
FOUND = ("area", "kept", *TESTS, *(f"whole_{name}" for name in TESTS))
COLUMNS = ("photo", *SETTINGS, *FOUND)
SET_AN_AREA = ("activation-matching", "causal")


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
    values = (float(mask.float().mean()), int(logits.argmax() == target), *kept, *whole)
    return {"photo": photo, "method": method, "at": at, **dict(zip(FOUND, values, strict=True))}


def rows_of(
    classifiers: list[suffice.Classifier], image: Tensor, photo: str, methods: list[str], steps: int
) -> list[dict[str, Any]]:
    question = suffice.Question(classifiers[0], image, occlusion="zero", keep_confidence=0.5)
    found = {}
    for name in dict.fromkeys([*SET_AN_AREA, *methods]):
        method, settings = METHODS[name]
        more = {"steps": steps} if method == "activation-matching" else {}
        found[name] = question.explain(method, **settings, **more)
        print(f"  {name}: {found[name].area:.1%}, {found[name].verdict}", flush=True)
    sizes = {name: int(found[name].mask.sum()) for name in SET_AN_AREA}
    masks = {(name, "own"): one.mask for name, one in found.items()}
    masks |= {(name, f"area of {at}"): ranked(one, sizes[at]) for name, one in found.items() for at in sizes}
    seed = int(known_by(image=image)["image_digest"][:8], 16)
    masks |= {("random", f"area of {at}"): random_blocks(image.shape[1:], sizes[at], seed) for at in sizes}
    return [row_of(classifiers, image, question.target, photo, *asked, mask) for asked, mask in masks.items()]


def summary(rows: Sequence[Mapping[str, Any]]) -> None:
    """Shares in percent, each the mean over photos ± its standard error; then what a part costs that holds better."""
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["at"] == "own"):
        groups.setdefault((row["at"], row["method"]), {})[row["photo"]] = row
    print(f"| at | method | photos | area | Lite0 itself | {' | '.join(TESTS)} |")
    print(f"|{'---|' * (5 + len(TESTS))}")
    for (at, method), of in groups.items():
        shares = [in_percent(of.values(), name, ".0%") for name in ("kept", *TESTS)]
        print(f"| {at} | {method} | {len(of)} | {in_percent(of.values(), 'area', '.1%')} | {' | '.join(shares)} |")
    whole = {row["photo"]: row for row in rows}.values()
    shares = [in_percent(whole, f"whole_{name}", ".0%") for name in TESTS]
    print(f"| all | the whole photo | {len(whole)} | 100% | 100% | {' | '.join(shares)} |")
    default = groups.get(("own", "activation-matching"), {})
    for (at, method), of in groups.items():
        if at == "own" and method != "activation-matching" and (both := [one for one in of if one in default]):
            ratio = mean_with_error(float(of[one]["area"]) / float(default[one]["area"]) for one in both)
            print(f"{method}: {ratio:.2f} times the area of activation-matching (mean over photos of the ratio)")


def in_percent(rows: Iterable[Mapping[str, Any]], column: str, spec: str) -> str:
    return format(mean_with_error(float(row[column]) for row in rows), spec)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--photos", type=int, default=4, help="the first so many")
    parser.add_argument("--method", action="append", choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=60, help="of learning")
    add_options(parser)
    arguments = parser.parse_args()
    if arguments.folder is None:
        show_stored(TABLE, summary)
        return 0
    rows = Rows(TABLE, COLUMNS, SETTINGS, arguments, code_of("am_transfer.py"))
    torch.set_num_threads(1)
    keep_buffers()
    classifiers = [suffice.load_classifier(name, device="cpu") for name in (None, *OTHERS)]
    for path in photos_of(arguments.folder)[: arguments.photos]:
        print(path.name, flush=True)
        image = suffice.load_image(path, classifiers[0])
        add_rows(rows, classifiers, image, path.name, arguments.method or list(METHODS), arguments.steps)
    summary(rows.asked)
    print(rows.close())
    return 0


def add_rows(
    rows: Rows, classifiers: list[suffice.Classifier], image: Tensor, photo: str, methods: list[str], steps: int
) -> None:
    """The rows of one photo; where one is missing, those that set the two areas are computed as well."""
    of_photo = {"photo": photo, "steps": steps, **known_by(image=image)}
    of_photo["weights_digest"] = " ".join(known_by(each)["weights_digest"] for each in classifiers)
    equal = [f"area of {name}" for name in SET_AN_AREA]
    asked = [(name, at) for name in methods for at in ("own", *equal)] + [("random", at) for at in equal]
    known = [of_photo | {"method": name, "at": at} for name, at in asked]
    left = {str(one["method"]): 0 for one in known if not rows.has(one)}
    new = rows_of(classifiers, image, photo, [name for name in left if name in METHODS], steps) if left else []
    found = {(row["method"], row["at"]): row for row in new}
    for one in known:
        rows.row(one, lambda one=one: found[one["method"], one["at"]])  # type: ignore[misc]


if __name__ == "__main__":
    run_as_command(main)
