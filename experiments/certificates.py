"""Explain photos with a certificate, beside the default: area, passes, and what is certified.

    python experiments/certificates.py FOLDER [--over colours] [--rho 0.9] [--confidence 0.95]

One thread, the default model and settings. A row a photo goes to results/certificates.csv; what is there for the same
question is not asked again. ρ is of 300 further colours, which neither the search nor the certificate has seen: of
the parts that are certified it is to be at least --rho, but for those that the error allows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import torch

import suffice
from suffice.buffers import keep_buffers
from suffice.files import read_csv, write_csv
from suffice.metrics import mean_with_error, robustness_solid

COLUMNS = ("photo", "over", "rho_wanted", "confidence", "verdict", "rho_at_least", "kept", "draws", "part")
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
CSV = Path(__file__).parents[1] / "results" / "certificates.csv"


def row(classifier: suffice.Classifier, photo: Path, over: str, rho: float, confidence: float) -> dict[str, object]:
    image = suffice.load_image(photo, classifier)
    plain = suffice.explain(classifier, image)
    found = suffice.explain(classifier, image, certify=confidence, rho=rho, over=over)
    guarantee = found.guarantee
    assert guarantee is not None
    (part,) = (note.split()[1] for note in guarantee["notes"] if note.startswith("Part "))
    shares = [
        robustness_solid(classifier, image, each.mask, each.target, count=300, seed=1).rho for each in (found, plain)
    ]
    values = (photo.name, over, rho, confidence, guarantee["verdict"], f"{guarantee['rho_at_least']:.4f}")
    values += (guarantee["kept"], guarantee["draws"], part)
    values += (f"{found.area:.4f}", f"{shares[0]:.3f}", found.forward_passes, f"{found.seconds:.1f}")
    values += (f"{plain.area:.4f}", f"{shares[1]:.3f}", plain.forward_passes, f"{plain.seconds:.1f}")
    return dict(zip(COLUMNS, map(str, values), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--over", default="colours")
    parser.add_argument("--rho", type=float, default=0.9)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--csv", type=Path, default=CSV)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    photos = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not photos:
        sys.exit(f"expected photos in {arguments.folder}; got none")
    question = (arguments.over, str(arguments.rho), str(arguments.confidence))
    rows: list[dict[str, str]] = []
    if arguments.csv.exists():
        rows = read_csv(arguments.csv)
    known = {each["photo"] for each in rows if (each["over"], each["rho_wanted"], each["confidence"]) == question}
    classifier = suffice.load_classifier(device="cpu")
    for photo in photos:
        if photo.name not in known:
            rows.append(row(classifier, photo, arguments.over, arguments.rho, arguments.confidence))
            print(*rows[-1].values(), sep="  ", flush=True)
            write_csv(arguments.csv, COLUMNS, rows)
    asked = [each for each in rows if (each["over"], each["rho_wanted"], each["confidence"]) == question]
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
    return 0 if 10 * len(certified) >= 9 * len(asked) else 1


if __name__ == "__main__":
    sys.exit(main())
