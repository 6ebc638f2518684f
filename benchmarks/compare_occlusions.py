"""The comparison of Activation-Deactivation on real photos: which way to hide pixels gives robust explanations?

    python benchmarks/compare_occlusions.py FOLDER [--models NAME…] [--occlusions NAME…] [--methods NAME…] [--photos N]
    python benchmarks/compare_occlusions.py --report          # tables and plots of the rows that are there

FOLDER holds ImageNet photos with the label at the end of each name (photo_285.jpg). For every photo that a model
classifies as labelled, every method, every occlusion and every γ of the paper, a row: size of the explanation,
confidence in it, and ρ-robustness on 100 solid colours and on the other photos of the folder (of other classes, 100 at
most), as in the paper's figures 5, 6 and A1 and its tables 1 and F. Rows go to `results/compare-rows.csv`
as they are done; those already there are not computed again, so that a run may be stopped and started, and a cell that
failed is a row with its error (`--retry` asks it again; `--renew` drops what explainers and occlusions of another
state have made).

**At equal γ** an occlusion can win by keeping more. So there are rows **at equal area** as well: the ranking behind the
explanation at γ = 0.5 is cut at fixed shares of the pixels, and ρ is measured of what is left, for every photo and
occlusion at the same sizes. Interpolating between the sizes that the six γ happen to give was the alternative; it would
compare different photos at each size, as an occlusion with small explanations has none at the larger sizes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import suffice
from suffice.cli.process import keep_buffers
from suffice.explainers.extraction import ranked_cells
from suffice.metrics import (
    Mean,
    confidences,
    explanation_area,
    mean_with_error,
    photos_of_other_classes,
    robustness_on,
    solid_colours,
)
from suffice.metrics.robustness import label_of
from suffice.occlusion import make_occlusions

MODELS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
OCCLUSIONS = ("robust", "deactivate", "min", "max", "zero", "mean", "layer-masking")
FILLS = ("min", "max", "zero", "mean")  # the masking values of the paper
GAMMAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
AREAS = (0.05, 0.1, 0.2, 0.3)
RANKED_AT = 0.5  # γ of the explanation whose ranking is cut
CELL = 8  # pixels; side of the cells in which a ranking is cut, as explanations grow by default

KEY = ("model", "method", "occlusion", "photo", "seed", "at", "level")
COLUMNS = (*KEY, "target", "confidence", "explanation_confidence", "sufficient", "area")
COLUMNS += ("robustness_solid", "robustness_images", "images", "confidence_solid", "confidence_images")
COLUMNS += ("forward_passes", "seconds", "code", "error")
MEASURED = ("area", "robustness_solid", "robustness_images", "explanation_confidence", "kept_confidence")

Row = dict[str, Any]


class Cell(NamedTuple):
    """What is searched once: one photo under one occlusion."""

    model: str
    method: str
    photo: Path
    occlusion: str


# Measuring


def measure(
    classifier: suffice.Classifier, cell: Cell, demands: Sequence[tuple[str, float]], folder: Path, seed: int
) -> list[Row]:
    """The rows of one cell: one for each γ and each area that is asked for."""
    started, passes = time.perf_counter(), classifier.forward_passes
    image = suffice.load_image(cell.photo, classifier)
    target = label_of(cell.photo)
    gammas = [level for at, level in demands if at == "gamma"]
    areas = [level for at, level in demands if at == "area"]
    asked = sorted({*gammas, *([RANKED_AT] if areas else [])})
    found = suffice.explain_series(
        classifier, image, asked, method=cell.method, occlusion=cell.occlusion, target=target, seed=seed
    )
    by_gamma = dict(zip(asked, found, strict=True))
    searched, search_seconds = classifier.forward_passes - passes, time.perf_counter() - started

    masks = [by_gamma[gamma].mask for gamma in gammas]
    masks += [cut_at(by_gamma[RANKED_AT].saliency.numpy(), area) for area in areas]
    stacked = torch.stack(masks)
    kept = confidences(classifier, image, stacked, target, cell.occlusion, seed=seed)
    others = photos_of_other_classes(folder, target, seed=seed)
    colours = solid_colours(len(image), seed=seed)
    backgrounds = torch.stack([suffice.load_image(path, classifier) for path in others])
    on_colours = robustness_on(classifier, image, stacked, target, colours)
    on_images = robustness_on(classifier, image, stacked, target, backgrounds)

    rows = []
    for (at, level), mask, confidence, solid, images in zip(
        demands, masks, kept.tolist(), on_colours, on_images, strict=True
    ):
        explanation = by_gamma[level if at == "gamma" else RANKED_AT]
        rows.append(
            {
                "target": target,
                "confidence": explanation.confidence,
                "explanation_confidence": confidence,
                "sufficient": int(explanation.sufficient) if at == "gamma" else "",
                "area": explanation_area(mask),
                "robustness_solid": solid.rho,
                "robustness_images": images.rho,
                "images": len(others),
                "confidence_solid": float(solid.confidences.mean()),
                "confidence_images": float(images.confidences.mean()),
                "forward_passes": searched,  # of the search for all γ together
                "seconds": search_seconds,
                "error": "",
            }
        )
    return rows


def cut_at(saliency: np.ndarray[Any, Any], area: float) -> torch.Tensor:
    """The most salient cells that together have at most so large a share of the pixels, bool (H, W)."""
    mask = np.zeros(saliency.shape, dtype=bool)
    for cell in ranked_cells(saliency.astype(np.float64), CELL):
        if np.count_nonzero(mask | cell) > area * mask.size:
            break
        mask |= cell
    return torch.from_numpy(mask)


def run(arguments: argparse.Namespace) -> None:
    """Every cell that lacks rows, appended to the file as it is done."""
    rows = read_rows(arguments.rows)
    code = code_of_suffice()
    if old := sum(row["code"] != code for row in rows):
        say(f"{old} of {len(rows)} rows are of another state of the code" + ("; dropped" if arguments.renew else ""))
    kept = [
        row for row in rows if not (arguments.retry and row["error"]) and not (arguments.renew and row["code"] != code)
    ]
    if len(kept) < len(rows):
        write_rows(arguments.rows, kept)
    there = {key_of(row) for row in kept}
    cells: list[tuple[suffice.Classifier, Cell, list[tuple[str, float]]]] = []
    for model in arguments.models:
        classifier = suffice.load_classifier(model, device="cpu")
        for occlusion in arguments.occlusions:
            make_occlusions(classifier, occlusion)  # a name that there is not ends the run now
        for photo in chosen_photos(classifier, arguments):
            for method in arguments.methods:
                for occlusion in arguments.occlusions:
                    cell = Cell(model, method, photo, occlusion)
                    missing = [
                        d for d in demands_of(arguments) if key_of(as_row(cell, arguments.seed, *d)) not in there
                    ]
                    if missing:
                        cells.append((classifier, cell, missing))
    say(f"{len(cells)} cells to measure, {len(there)} rows there")
    started = time.perf_counter()
    for done, (classifier, cell, missing) in enumerate(cells, 1):
        try:
            measured = measure(classifier, cell, missing, arguments.folder, arguments.seed)
        except Exception as error:  # whatever went wrong belongs into the row
            measured = [{"error": f"{type(error).__name__}: {' '.join(str(error).split())}"} for _ in missing]
        new = [
            {**as_row(cell, arguments.seed, *demand), **row, "code": code}
            for demand, row in zip(missing, measured, strict=True)
        ]
        append_rows(arguments.rows, new)
        spent = time.perf_counter() - started
        left = spent / done * (len(cells) - done)
        say(f"[{done}/{len(cells)}] {line_of(cell, new)}; {spent / 60:.0f} min, about {left / 60:.0f} min left")


def demands_of(arguments: argparse.Namespace) -> list[tuple[str, float]]:
    """What a cell is asked for: each γ and each area."""
    return [("gamma", gamma) for gamma in arguments.gammas] + [("area", area) for area in arguments.areas]


def chosen_photos(classifier: suffice.Classifier, arguments: argparse.Namespace) -> list[Path]:
    """The photos of the folder that the model classifies as labelled, up to the number wanted."""
    paths = [p for p in sorted(arguments.folder.iterdir()) if p.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not paths:
        sys.exit(f"expected photos in {arguments.folder}; got none")
    right = []
    for path in paths:
        if int(classifier.logits(suffice.load_image(path, classifier)[None]).argmax()) == label_of(path):
            right.append(path)
    say(f"{classifier.name}: {len(right)} of {len(paths)} photos classified as labelled")
    return right[: arguments.photos]


def line_of(cell: Cell, rows: Sequence[Row]) -> str:
    """A cell and what came out of it, for progress."""
    name = f"{cell.model} {cell.method} {cell.occlusion} {cell.photo.name}"
    if failed := next((row["error"] for row in rows if row["error"]), None):
        return f"{name}: FAILED {failed}"
    shown = [f"{row['at'][0]}{row['level']:g}: {row['area']:.2f}/{row['robustness_solid']:.2f}" for row in rows]
    return f"{name}: {rows[0]['forward_passes']} passes, area/ρ {' '.join(shown)}"


# Rows


def as_row(cell: Cell, seed: int, at: str, level: float) -> Row:
    """The part of a row that says what was measured."""
    return {**cell._asdict(), "photo": cell.photo.name, "seed": seed, "at": at, "level": level}


def key_of(row: Row) -> tuple[str, ...]:
    return tuple(f"{float(row[name]):g}" if name in ("seed", "level") else str(row[name]) for name in KEY)


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """All rows anew; the old file is there until the new one is whole."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    append_rows(new, rows)
    new.replace(path)


def code_of_suffice() -> str:
    """A digest of the explainers and occlusions, so that rows of different code can be told apart."""
    package = Path(suffice.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("explainers/*.py"), *package.glob("occlusion/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


# Tables and plots


class Group(NamedTuple):
    """Rows that are averaged over their photos."""

    model: str
    method: str
    occlusion: str
    at: str
    level: float


Groups = dict[Group, dict[str, dict[str, float]]]
"""Group -> photo -> measure -> value."""


def grouped(rows: Iterable[Row]) -> Groups:
    """Measured values by photo, for each group; failed rows are left out, seeds of one photo are averaged."""
    found: dict[Group, dict[str, list[dict[str, float]]]] = {}
    for row in rows:
        if row["error"]:
            continue
        values = {name: float(row[name]) for name in MEASURED if name in row}
        values["kept_confidence"] = float(row["explanation_confidence"]) / float(row["confidence"])
        group = Group(row["model"], row["method"], row["occlusion"], row["at"], float(row["level"]))
        found.setdefault(group, {}).setdefault(row["photo"], []).append(values)
    return {
        group: {
            photo: {name: statistics.fmean(v[name] for v in values) for name in MEASURED}
            for photo, values in photos.items()
        }
        for group, photos in found.items()
    }


def mean_of(groups: Groups, group: Group, name: str) -> Mean | None:
    """Over the photos of a group; None where there are none."""
    photos = groups.get(group)
    return mean_with_error(values[name] for values in photos.values()) if photos else None


def difference(groups: Groups, ours: Group, theirs: Group, name: str) -> Mean | None:
    """Ours minus theirs over the photos that both have: paired, so that easy and hard photos cancel."""
    both = groups.get(ours, {}).keys() & groups.get(theirs, {}).keys()
    return mean_with_error(groups[ours][p][name] - groups[theirs][p][name] for p in sorted(both)) if both else None


def ordered(values: Iterable[Any], first: Sequence[Any]) -> list[Any]:
    """Different values, those of `first` in their order and then the others."""
    there = set(values)
    return [value for value in first if value in there] + sorted(there - set(first))


def report(rows: Sequence[Row], out: Path) -> None:
    """`compare-summary.csv`, `compare-tables.md` and two plots beside the rows."""
    groups = grouped(rows)
    if not groups:
        sys.exit("no rows to report on; run the benchmark on a folder of photos first")
    write_summary(groups, out / "compare-summary.csv")
    text = tables(groups, [row for row in rows if row["error"]], {row["code"] for row in rows})
    (out / "compare-tables.md").write_text(text, encoding="utf-8")
    print(text)
    for method in ordered((g.method for g in groups), ("causal", "lime")):
        of_method = {group: photos for group, photos in groups.items() if group.method == method}
        plot(of_method, "gamma", out / f"compare-{method}-by-gamma.png")
        plot(of_method, "area", out / f"compare-{method}-by-area.png")


def write_summary(groups: Groups, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = (f"{name}{suffix}" for name in MEASURED for suffix in ("", "_sem"))
        writer.writerow([*Group._fields, "photos", *heads])
        for group, photos in groups.items():
            means = [mean_with_error(values[name] for values in photos.values()) for name in MEASURED]
            cells = ((f"{m.value:.6g}", "" if m.standard_error is None else f"{m.standard_error:.3g}") for m in means)
            writer.writerow([*group, len(photos), *(value for pair in cells for value in pair)])


def tables(groups: Groups, failed: Sequence[Row], codes: set[str]) -> str:
    """Markdown: one table a model, method and measure, occlusions down and levels across, mean ± SEM over photos."""
    measures = (
        ("gamma", "robustness_solid", "ρ on 100 solid colours ↑, at equal γ", ".2f"),
        ("gamma", "robustness_images", "ρ on images of other classes ↑, at equal γ", ".2f"),
        ("gamma", "area", "Share of the pixels ↓, at equal γ", ".1%"),
        ("gamma", "kept_confidence", "Confidence kept, at equal γ (nearest to γ: nothing in excess)", ".2f"),
        ("area", "robustness_solid", "ρ on 100 solid colours ↑, at equal area", ".2f"),
        ("area", "robustness_images", "ρ on images of other classes ↑, at equal area", ".2f"),
    )
    lines = [
        "# Occlusions compared",
        "",
        "Mean ± standard error over the photos. Made by `benchmarks/compare_occlusions.py`.",
    ]
    if failed:
        lines += ["", f"**{len(failed)} rows failed**; the first: {failed[0]['error']}"]
    if len(codes) > 1:
        lines += ["", f"**The rows were made by {len(codes)} different states of the code.**"]
    for model in ordered((g.model for g in groups), MODELS):
        for method in ordered((g.method for g in groups if g.model == model), ("causal", "lime")):
            here = [g for g in groups if (g.model, g.method) == (model, method)]
            occlusions = ordered((g.occlusion for g in here), OCCLUSIONS)
            counts = sorted({len(groups[g]) for g in here})
            number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            lines += ["", f"## {model}, {method}, {number} photo{'' if number == '1' else 's'}"]
            for at, name, title, form in measures:
                levels = sorted({g.level for g in here if g.at == at})
                if not levels:
                    continue
                lines += [
                    "",
                    f"{title}:",
                    "",
                    "| |" + "".join(f" {'γ ' if at == 'gamma' else ''}{level:g} |" for level in levels),
                ]
                lines += ["|---|" + "---|" * len(levels)]
                for occlusion in occlusions:
                    means = [mean_of(groups, Group(model, method, occlusion, at, level), name) for level in levels]
                    lines.append(
                        f"| {occlusion} |" + "".join(f" {'' if m is None else format(m, form)} |" for m in means)
                    )
            lines += against_best_fill(groups, model, method)
    return "\n".join(lines) + "\n"


def against_best_fill(groups: Groups, model: str, method: str) -> list[str]:
    """The paper's table 1: every other occlusion against the masking value with the highest ρ at the same level."""
    here = [g for g in groups if (g.model, g.method) == (model, method)]
    others = [o for o in ordered((g.occlusion for g in here), OCCLUSIONS) if o not in FILLS]
    lines: list[str] = []
    for at, level in sorted({(g.at, g.level) for g in here}, reverse=True):
        fills = [Group(model, method, fill, at, level) for fill in FILLS]
        means = {group: mean_of(groups, group, "robustness_solid") for group in fills}
        there = {group: mean.value for group, mean in means.items() if mean is not None}
        if not there:
            continue
        best = max(there, key=lambda group: there[group])
        for occlusion in others:
            ours = Group(model, method, occlusion, at, level)
            rho, area = (difference(groups, ours, best, name) for name in ("robustness_solid", "area"))
            if rho is not None and area is not None:
                where = f"{'γ' if at == 'gamma' else 'area'} {level:g}"
                lines.append(f"| {where} | {best.occlusion} | {occlusion} | {rho:+.2f} | {area:+.1%} |")
    if not lines:
        return []
    head = ["", "Against the best single fill (highest mean ρ on colours), paired by photo:", ""]
    return [*head, "| at | best fill | occlusion | difference in ρ | in area |", "|---|---|---|---|---|", *lines]


COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000", "#999999")  # Okabe and Ito
MARKERS = "osD^vPX*"


def plot(groups: Groups, by: str, path: Path) -> None:
    """ρ on colours and on images against γ, or against area: as it came out at each γ, and cut at equal areas."""
    from matplotlib.figure import Figure

    models = ordered((g.model for g in groups), MODELS)
    occlusions = ordered((g.occlusion for g in groups), OCCLUSIONS)
    panels = [("robustness_solid", "gamma"), ("robustness_images", "gamma")]
    if by == "area":
        panels += [("robustness_solid", "area"), ("robustness_images", "area")]
    kinds = {"robustness_solid": "100 solid colours", "robustness_images": "images of other classes"}
    figure = Figure(figsize=(4.2 * len(models), 3.3 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(models), squeeze=False, sharey="row")
    for row, (name, at) in enumerate(panels):
        for column, model in enumerate(models):
            axis = axes[row][column]
            for index, occlusion in enumerate(occlusions):
                here = sorted(g for g in groups if (g.model, g.occlusion, g.at) == (model, occlusion, at))
                if not here:
                    continue
                heights = [mean_with_error(values[name] for values in groups[g].values()) for g in here]
                areas = [mean_with_error(values["area"] for values in groups[g].values()) for g in here]
                beside = 0.006 * (index - (len(occlusions) - 1) / 2)  # so that bars at one γ do not hide each other
                across = [Mean(g.level + beside, None, 1) for g in here] if by == "gamma" else areas
                axis.errorbar(
                    [mean.value for mean in across],
                    [mean.value for mean in heights],
                    xerr=[mean.standard_error or 0 for mean in across],
                    yerr=[mean.standard_error or 0 for mean in heights],
                    label=occlusion,
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=4,
                    linewidth=2 if occlusion == "deactivate" else 1.2,
                    elinewidth=0.7,
                    capsize=2,
                )
            if by == "gamma":
                axis.set_xlabel("γ")
            else:
                axis.set_xlabel("mean area at each γ" if at == "gamma" else "area, ranking cut there")
            axis.set_ylim(-0.03, 1.03)
            axis.grid(alpha=0.3, linewidth=0.5)
            if column == 0:
                axis.set_ylabel(f"ρ on {kinds[name]}")
            if row == 0:
                count = max(len(photos) for g, photos in groups.items() if g.model == model)
                axis.set_title(f"{model} (N = {count})", fontsize=10)
    drawn = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), fontsize=8, loc="outside lower center", ncols=3)
    figure.suptitle("Mean over photos; bars are standard errors of the mean", fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of photos with their label at the end of the name")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--methods", nargs="+", default=("causal",), choices=tuple(suffice.explainers.METHODS))
    parser.add_argument("--occlusions", nargs="+", default=OCCLUSIONS)
    parser.add_argument("--gammas", nargs="+", type=float, default=GAMMAS)
    parser.add_argument("--areas", nargs="*", type=float, default=AREAS, help="none, to leave out equal area")
    parser.add_argument("--photos", type=int, help="at most so many, in the order of their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path("results/compare-rows.csv"))
    parser.add_argument("--retry", action="store_true", help="measure what failed again")
    parser.add_argument("--renew", action="store_true", help="drop rows that another state of the code has made")
    parser.add_argument("--report", action="store_true", help="only tables and plots")
    arguments = parser.parse_args()
    if not arguments.report:
        if arguments.folder is None or not arguments.folder.is_dir():
            parser.error(f"expected a folder of photos, or --report; got {arguments.folder}")
        torch.set_num_threads(arguments.threads)
        keep_buffers()
        try:
            run(arguments)
        except suffice.InputError as error:
            parser.error(str(error))
    rows = read_rows(arguments.rows)
    report(rows, arguments.rows.parent)
    return 1 if any(row["error"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
