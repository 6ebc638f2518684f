"""Does a larger network need less of a photo? EfficientNet-Lite0 beside Lite1 and Lite2, under `robust`.

    python experiments/larger_networks.py FOLDER [--update]

Photos have their label at the end of the name (photo_285.jpg). Each is explained by each network with the default
settings, as the class on top. The areas of the sufficient parts are compared photo by photo, of photos that both
networks classify as labelled: the mean difference, with the interval of Student's t at 95%.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import suffice
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.explanation import Explanation

NETWORKS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
ASKED = ("network", "label", "occlusion", "gamma")
COLUMNS = ("photo", *ASKED, "right", "sufficient", "area", "forward_passes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    rows = Rows("larger-networks.csv", COLUMNS, ASKED, options, code_of("larger_networks.py"))
    for network in options.networks:
        classifier = suffice.load_classifier(network, device="cpu")
        for photo in photos_of(options.folder):
            image = suffice.load_image(photo, classifier)
            known = {
                "photo": photo.name, "network": network, "label": photo.stem.rpartition("_")[2], "occlusion": "robust",
                "gamma": 0.5, **known_by(classifier, image),
            }  # fmt: skip

            def compute(classifier=classifier, image=image, label=known["label"]) -> Row:  # type: ignore[no-untyped-def]
                return as_row(suffice.explain(classifier, image, occlusion="robust", keep_confidence=0.5), label)

            row = rows.row(known, compute)
            print(*(row[name] for name in COLUMNS), sep="  ", flush=True)
    print(compared(rows.asked))
    print(rows.close())


def as_row(found: Explanation, label: str) -> Row:
    return {
        "right": str(int(label == str(found.target))), "sufficient": str(int(found.sufficient)),
        "area": f"{found.area:.8f}", "forward_passes": str(found.forward_passes),
    }  # fmt: skip


def compared(rows: Sequence[Row]) -> str:
    """A line for each two networks.

    >>> rows = [{"network": n, "photo": p, "right": "1", "sufficient": "1", "area": a} for n, p, a in (
    ...     ("a", "1", "0.2"), ("b", "1", "0.1"), ("a", "2", "0.3"), ("b", "2", "0.16"), ("a", "3", "0.9"))]
    >>> print(compared(rows))
    b - a: -12.0 points of the image (-37.4 to +13.4), 2 photos; b needs less in 2
    """
    areas: dict[str, dict[str, float]] = {}
    for row in rows:
        found = areas.setdefault(row["network"], {})
        if row["right"] == "1" and row["sufficient"] == "1":
            found[row["photo"]] = float(row["area"])
    lines = []
    names = list(areas)
    for i, small in enumerate(names):
        for large in names[i + 1 :]:
            both = sorted(areas[small].keys() & areas[large].keys())
            differences = {photo: areas[large][photo] - areas[small][photo] for photo in both}
            lines.append(f"{large} - {small}: {interval_of(differences)}; {large} needs less in {less(differences)}")
    return "\n".join(lines)


def interval_of(differences: dict[str, float]) -> str:
    """The mean in percentage points, with its interval."""
    from scipy import stats

    values = torch.tensor(list(differences.values()), dtype=torch.float64)
    if len(values) < 2:
        return "too few photos"
    reach = float(stats.t.ppf(0.975, len(values) - 1) * values.std() / len(values) ** 0.5)
    low, high = float(values.mean()) - reach, float(values.mean()) + reach
    mean = float(values.mean())
    return f"{100 * mean:+.1f} points of the image ({100 * low:+.1f} to {100 * high:+.1f}), {len(values)} photos"


def less(differences: dict[str, float]) -> int:
    return sum(value < 0 for value in differences.values())


if __name__ == "__main__":
    run_as_command(main)
