"""Explain photos with a certificate, beside the default: area, passes, and what is certified.

    python experiments/certificates.py FOLDER [--over colours] [--rho 0.9] [--confidence 0.95] [--update]

One thread, the default model and settings; a row a photo. ρ is of 300 further colours, which neither the search nor the
certificate has seen: of the parts that are certified it is to be at least --rho, but for those that the error allows.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.metrics import mean_with_error, robustness_solid

SETTINGS = ("over", "rho_wanted", "confidence")
COLUMNS = ("photo", *SETTINGS, "verdict", "rho_at_least", "kept", "draws", "part")
COLUMNS += (
    "area",
    "rho",
    "forward_passes",
    "seconds",
    "default_area",
    "default_rho",
    "default_passes",
    "default_seconds",
)


def explained(classifier: suffice.Classifier, image: Tensor, over: str, rho: float, confidence: float) -> Row:
    plain = suffice.explain(classifier, image)
    found = suffice.explain(classifier, image, certify=confidence, rho=rho, over=over)
    guarantee = found.guarantee
    assert guarantee is not None
    (part,) = (note.split()[1] for note in guarantee["notes"] if note.startswith("Part "))
    shares = [
        robustness_solid(classifier, image, each.mask, each.target, count=300, seed=1).rho for each in (found, plain)
    ]
    values = (guarantee["verdict"], f"{guarantee['rho_at_least']:.4f}", guarantee["kept"], guarantee["draws"], part)
    values += (f"{found.area:.4f}", f"{shares[0]:.3f}", found.forward_passes, f"{found.seconds:.1f}")
    values += (f"{plain.area:.4f}", f"{shares[1]:.3f}", plain.forward_passes, f"{plain.seconds:.1f}")
    return dict(zip(COLUMNS[4:], map(str, values), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--over", default="colours")
    parser.add_argument("--rho", type=float, default=0.9)
    parser.add_argument("--confidence", type=float, default=0.95)
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    question = (arguments.over, arguments.rho, arguments.confidence)
    rows = Rows("certificates.csv", COLUMNS, SETTINGS, arguments, code_of("certificates.py"))
    classifier = suffice.load_classifier(device="cpu")
    for photo in photos_of(arguments.folder):
        image = suffice.load_image(photo, classifier)
        known = {"photo": photo.name, **dict(zip(SETTINGS, question, strict=True)), **known_by(classifier, image)}
        row = rows.row(known, lambda image=image: explained(classifier, image, *question))  # type: ignore[misc]
        print(*row.values(), sep="  ", flush=True)
    asked = rows.asked
    certified = [each for each in asked if each["verdict"] == "certified"]
    print(f"\n{len(asked)} photos, ρ ≥ {arguments.rho} over {arguments.over} at {arguments.confidence}")
    print(f"certified {len(certified)}, of these at the first part {sum(each['part'] == '1' for each in certified)}")
    if certified:
        print("draws of the certificate, median", statistics.median(int(each["draws"]) for each in certified))
    print("certified although ρ on 300 other colours is less:", sum(float(e["rho"]) < arguments.rho for e in certified))
    for name in ("area", "rho", "forward_passes", "seconds"):
        default = {"forward_passes": "default_passes"}.get(name, f"default_{name}")
        ours, plain = ([float(each[key]) for each in asked] for key in (name, default))
        print(f"{name}: certified {mean_with_error(ours):.3g}, default {mean_with_error(plain):.3g}")
    print(rows.close())
    return 0 if 10 * len(certified) >= 9 * len(asked) else 1


if __name__ == "__main__":
    run_as_command(main)
