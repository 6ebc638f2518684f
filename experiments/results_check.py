"""A fresh run of one row of each file in `results/`: is it equal, times apart?

    python experiments/results_check.py PHOTOS [--data DATA] [--only baselines.csv …]

PHOTOS is the folder of the photos that the rows are of; DATA holds MNIST/raw. Of each file the row is taken that costs
least, and made by the command that made the file, in a folder of its own; nothing in `results/` is changed. Numbers are
compared to four digits, since another processor adds in another order, and all else as it stands. Times are not
compared. What cannot be made here, or takes hours, is said to be left out, and why. Status 1 where a row differs.

It takes some minutes, and says how many seconds of the processor each file took.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rows import KNOWN_BY, RESULTS, Row, photos_of, run_as_command
from suffice.errors import InputError
from suffice.files import read_csv

ROOT = RESULTS.parent
TIMES = ("made", "code", "run", "plain_ms", "ratio", "over_plain", "over_copy", "times_suffice", "rounds")
DIGITS = 1e-4
PHOTO = "imagenet_00_243.jpg"  # the one with the fewest passes
ZERO = "occlusion=zero keep_confidence=0"


Check = Callable[[argparse.Namespace, Path, str], list[Row]]
"""Makes rows of the file in `results/` of that name, in a folder of its own."""


class LeftOutError(Exception):
    """Why a file is not checked."""


def script(*words: str, needs: str = "") -> Check:
    """Rows of the experiment that makes a file, asked for as little as it can be."""

    def run(options: argparse.Namespace, place: Path, table: str) -> list[Row]:
        if needs and not (ROOT / needs).exists():
            raise LeftOutError(f"needs {needs}, which its experiment trains or installs first")
        photo = next((photo for photo in photos_of(options.photos) if photo.name == PHOTO), None)
        if photo is None and any("{photo}" in word for word in words):
            raise LeftOutError(f"needs {PHOTO} in {options.photos}")
        filled = [word.format(photo=photo, photos=options.photos, data=options.data) for word in words]
        name, *rest = filled
        command = [sys.executable, str(Path(__file__).with_name(name)), *rest, "--out", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        made = place / Path(table).stem / table
        if not made.is_file():
            said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
            raise InputError(f"expected {name} to make a row of {table}; it said: {said[-1]}")
        return read_csv(made)

    return run


def bench(config: str, **kept: Any) -> Check:
    """The means of one method of one model, by the configuration that a file is the report of."""

    def run(options: argparse.Namespace, place: Path, table: str) -> list[Row]:
        from suffice.benchmark import load_config, run_benchmark
        from suffice.benchmark.config import make_config
        from suffice.benchmark.tables import read_report
        from suffice.report.tables import as_csv

        os.environ["SUFFICE_DATA"] = str(Path(options.photos).resolve().parent)
        content = load_config(ROOT / "configs" / config).model_dump(mode="json")
        content |= {"models": content["models"][:1], "tables": [], "differences": [], "plots": [], **kept}
        run_benchmark(make_config(content), place / "run")
        report = place / "report.csv"
        report.write_text(as_csv(read_report(place / "run")), encoding="utf-8")
        return read_csv(report)

    return run


BOXES = [{"method": "causal", "label": "boxes", "settings": {"budget": 3000}}]
PARTITIONS = [
    {
        "method": "causal",
        "label": "partitions",
        "settings": {"search": "partitions", "iterations": 4, "depth": 10, "smallest_box": 10, "prune": 0},
    }
]
GRAD_CAM, AREA = [{"method": "grad-cam"}], [{"names": ["area"]}]
AGAINST_REX = ("against_rex.py", "{photo}", "--tools", "suffice", "--suffice")
DIGIT = ("--network", "plain", "--digits", "2", "--masks-of", "1", "--one-by-one", "0", "--bound", "crown")
CHECKS: dict[str, Check] = {
    "explain-photos.csv": script("explain_photos.py", "{photo}"),
    "baselines.csv": script("baselines.py", "{photo}", "--occlusions", "zero", "--methods", "grad-cam"),
    "certificates.csv": script("certificates.py", "{photo}"),
    "against-rex.csv": script(*AGAINST_REX, ZERO),
    "against-rex-stability.csv": script(*AGAINST_REX, "default", "--stability-photos", "1"),
    "activation-matching.csv": script("activation_matching.py", "photos", "{photo}", "--method", "grad-cam"),
    "responsibility.csv": script("responsibility.py", "{photos}", "--photos", "1"),
    "larger-networks.csv": script("larger_networks.py", "{photo}", "--networks", "efficientnet-lite0"),
    "robust-sets.csv": script("robust_sets.py", "{photos}", "--photos", "1", "--sets", "robust"),
    "circuits-fair.csv": script("circuits.py", "{photos}", "--photos", "1", "--only", "own"),
    "circuits-planted.csv": script("circuits_planted.py", "--seeds", "1"),
    "deactivation-coverage.csv": script("deactivation_coverage.py", "--only", "squeezenet1_1"),
    "abductive.csv": script("abductive.py", "sizes", "{data}", *DIGIT, needs=".abductive"),
    "abductive-masks.csv": script("abductive.py", "masks", "{data}", *DIGIT, needs=".abductive"),
    "lax-cost.csv": script("lax_cost.py", "--rounds", "1", "--models", "suffice.models.resnet18:synthetic_mnist"),
    "score-cost.csv": script("score_cost.py", "sample:coffee", "--rounds", "1", "--no-peers"),
    "am-photos.csv": bench("am-photos.toml", methods=GRAD_CAM, metrics=AREA),
    "ad-photos.csv": bench("ad-photos.toml", occlusions=["zero"], gammas=[0.5], areas=[], metrics=AREA),
    "ad-photos-lime.csv": bench("ad-photos-lime.toml", occlusions=["zero"], gammas=[0.5], areas=[], metrics=AREA),
    "ad-photos-partitions.csv": bench(
        "ad-photos-searches.toml", methods=PARTITIONS, occlusions=["zero"], gammas=[0.5], metrics=AREA
    ),
    "ad-photos-boxes.csv": bench(
        "ad-photos-searches.toml", methods=BOXES, occlusions=["zero"], gammas=[0.5], metrics=AREA
    ),
    "am-transfer.csv": script("am_transfer.py", "{photos}", "--photos", "1", "--method", "causal"),
}
_TRAINS = "its network is trained first, which takes "
LEFT_OUT = {
    "ad-synthetic-mnist.csv": _TRAINS + "minutes",
    "am-digits.csv": _TRAINS + "minutes",
    "am-digits-attention.csv": _TRAINS + "minutes",
    "am-mnist-noise.csv": _TRAINS + "minutes",
    "audit-cost.csv": "it holds times alone",
    "audit-around.csv": "its networks are trained first",
    "audit-planted.csv": "its smallest case trains a network and audits it, five minutes",
    "circuits-by-class.csv": _TRAINS + "minutes",
    "circuits-edges.csv": _TRAINS + "half a minute",
    "cost-growth.csv": "it holds times, and sums over a folder of photos",
    "deactivation-cost.csv": "it holds times alone",
    "gpu.csv": "it needs a machine with CUDA",
    "msi-lax-table3-literal.csv": _TRAINS + "an hour or more, as its adapters do",
    "msi-lax-table3-black-aware.csv": _TRAINS + "an hour or more, as its adapters do",
    "msi-lax-transfer.csv": _TRAINS + "an hour or more, as its adapters do",
}
"""Why files have no check; results/README.md says it, too."""


def differing(fresh: Sequence[Row], stored: Iterable[Row]) -> tuple[int, set[str]]:
    """How many of the fresh rows are in a table, and in which columns those that are differ from it.

    A row is found by what was asked for, and of several such rows the nearest counts.

    >>> row = {"photo": "a", "area": "0.12345", "seconds": "3"}
    >>> differing([row], [row | {"area": "0.12346", "seconds": "9"}])
    (1, set())
    >>> differing([row], [row | {"area": "0.13"}, row | {"photo": "b"}])
    (1, {'area'})
    """
    table = list(stored)
    found, columns = 0, set[str]()
    for row in fresh:
        off = [unlike(row, other) for other in table if labels_of(row, other) == labels_of(other, row)]
        if off:
            found, columns = found + 1, columns | min(off, key=len)
    return found, columns


LABELS = ("photo", "tool", "configuration", "seed", "occlusion", "method", "gamma", "over", "rho_wanted", "condition")
LABELS += ("model", "library", "family", "digit", "epsilon", "bound", "switch", "off", "ranking", "goal")
LABELS += ("dataset", "at", "level", "metric", "minus", "design", "seeds", "label", "set", "network", "what", "way")


def labels_of(row: Row, other: Row) -> list[str]:
    """What was asked for, in the columns that both rows have."""
    return [plain(row[name]) for name in LABELS if name in row and name in other]


def unlike(row: Row, other: Row) -> set[str]:
    """The columns in which two rows differ, times and what made them apart."""
    names = {name for name in row if name in other and name not in TIMES and "seconds" not in name}
    # What a version did not write down cannot be compared.
    names -= {name for name in KNOWN_BY if not other.get(name)}
    return {name for name in names if not same(row[name], other[name])}


def same(one: str, other: str) -> bool:
    try:
        a, b = float(one), float(other)
    except ValueError:
        return one == other
    return abs(a - b) <= DIGITS * max(1.0, abs(a), abs(b))


def plain(text: str) -> str:
    """0.50 and 0.5 are one setting."""
    try:
        return repr(float(text))
    except ValueError:
        return text


def check(name: str, options: argparse.Namespace) -> str:
    """What is found of a file, in a line; one that begins with "differs" is the fault."""
    if name in LEFT_OUT:
        return f"left out: {LEFT_OUT[name]}"
    with tempfile.TemporaryDirectory() as place:
        try:
            fresh = CHECKS[name](options, Path(place), name)
        except LeftOutError as why:
            return f"left out: {why}"
        except InputError as error:
            return f"differs: {error}"
    found, columns = differing(fresh, read_csv(RESULTS / name))
    if found == 0:
        return f"differs: none of the {len(fresh)} fresh rows is in the file"
    rows = f"{found} row{'' if found == 1 else 's'}"
    return f"differs in {', '.join(sorted(columns))} ({rows})" if columns else f"equal ({rows})"


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="the folder of the photos")
    parser.add_argument("--data", type=Path, default=Path("data"), help="holds MNIST/raw (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="names of files in results/")
    options = parser.parse_args()
    options.photos, options.data = options.photos.absolute(), options.data.absolute()
    torch.set_num_threads(1)
    files = sorted(path.name for path in RESULTS.glob("*.csv"))
    if unknown := [name for name in options.only or () if name not in files]:
        raise InputError(f"expected names of files in {RESULTS}; got {unknown[0]}")
    found: dict[str, str] = {}
    for name in options.only or files:
        started = processor_seconds()
        found[name] = check(name, options)
        print(f"{name:28} {found[name]}; {processor_seconds() - started:.0f} s of the processor", flush=True)
    counts: Mapping[str, int] = {
        word: sum(line.startswith(word) for line in found.values()) for word in ("equal", "differs", "left out")
    }
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    run_as_command(main)
