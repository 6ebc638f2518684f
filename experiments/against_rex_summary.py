"""What the rows of `against_rex.py` say: tables of both tools, and what several seeds have in common."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from against_rex_worker import load_mask
from rows import KNOWN_BY, Row, Rows


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Share of the pixels in either mask that are in both; 1 for two empty masks."""
    either = np.count_nonzero(first | second)
    return 1.0 if either == 0 else np.count_nonzero(first & second) / either


def mean_pairwise_iou(masks: Sequence[np.ndarray]) -> float:
    """The mean over all pairs of at least two masks."""
    return statistics.fmean(iou(a, b) for a, b in itertools.combinations(masks, 2))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; NaN for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def compare(rex: Sequence[Row], ours: Sequence[Row]) -> dict[str, float]:
    """Two configurations on the photos that both of them explained, seed by seed; a ratio is ReX's over ours.

    Only `photos`, 0, where they have none in common.
    """
    theirs = {(row["photo"], row["seed"]): row for row in rex if not row["error"]}
    pairs = [(theirs[at], row) for row in ours if not row["error"] and (at := (row["photo"], row["seed"])) in theirs]
    if not pairs:
        return {"photos": 0}

    def column(name: str, side: int) -> list[float]:
        return [float(pair[side][name]) for pair in pairs]

    result: dict[str, float] = {
        "photos": len(pairs),
        "same_run": sum(a["run"] == b["run"] for a, b in pairs),
    }
    # CPU time over that of one plain pass at the time: what is left of it when the machine's other work is taken out.
    passes = [
        [float(row["cpu_seconds"]) / float(row["pass_seconds"]) for row in pair] for pair in pairs if timed(*pair)
    ]
    result["passes_ratio"] = statistics.median(a / b for a, b in passes) if passes else math.nan
    for side, tool in enumerate(("rex", "suffice")):
        result[f"passes_{tool}"] = statistics.median(pair[side] for pair in passes) if passes else math.nan
    for name in ("seconds", "cpu_seconds", "calls", "images"):
        both = zip(column(name, 0), column(name, 1), strict=True)
        result[f"{name}_ratio"] = statistics.median(a / b for a, b in both)
        result[f"{name}_rex"] = statistics.median(column(name, 0))
        result[f"{name}_suffice"] = statistics.median(column(name, 1))
    for side, tool in enumerate(("rex", "suffice")):
        result[f"images_{tool}_most"] = max(column("images", side))
        result[f"area_{tool}"] = statistics.median(column("area", side))
        for name in ("area", "rho"):
            result[f"{name}_mean_{tool}"] = statistics.fmean(column(name, side))
            result[f"{name}_error_{tool}"] = standard_error(column(name, side))
        for name in ("sufficient", "kept_zero", "kept_black", "kept_white", "kept_mean"):
            result[f"{name}_{tool}"] = sum(column(name, side))
    rho = list(zip(column("rho", 0), column("rho", 1), strict=True))
    result["rho_higher"] = sum(ours > theirs for theirs, ours in rho)
    result["rho_equal"] = sum(ours == theirs for theirs, ours in rho)
    areas = zip(column("area", 0), column("area", 1), strict=True)
    result["area_no_larger"] = sum(ours <= theirs for theirs, ours in areas)
    return result


def timed(*rows: Row) -> bool:
    """Whether rows say what a plain pass took beside them."""
    return all(row["pass_seconds"] for row in rows)


def by_configuration(rows: Iterable[Row], tool: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["tool"] == tool:
            found.setdefault(row["configuration"], []).append(row)
    return found


def summary_column(c: dict[str, float], tool: str) -> dict[str, str]:
    """What the summary shows of one side of a comparison, by the name of the line; ratios only for suffice."""
    ours = tool == "suffice"

    def less(measure: str, unit: str = "") -> str:
        """The median; of ours how many times less it is: the median of the ratios, and the ratio of the medians."""
        value = c[f"{measure}_{tool}"]
        of_medians = c[f"{measure}_rex"] / value if value else math.nan
        return f"{value:.4g}{unit}" + (
            f" ({c[f'{measure}_ratio']:.1f}x less, medians {of_medians:.1f}x)" if ours else ""
        )

    lower = c["photos"] - c["rho_higher"] - c["rho_equal"]
    return {
        "photos": f"{c['photos']:.0f}" + (f" ({c['same_run']:.0f} in one run with ReX)" if ours else ""),
        "wall time, median": less("seconds", " s"),
        "CPU time, median": less("cpu_seconds", " s"),
        "the same in plain passes": less("passes"),
        "model calls, median": less("calls"),
        "images through the model, median": less("images"),
        "the most images": f"{c[f'images_{tool}_most']:.0f}",
        "area, median": f"{c[f'area_{tool}']:.1%}",
        "area, mean ± SE": f"{c[f'area_mean_{tool}']:.1%} ± {c[f'area_error_{tool}']:.1%}",
        "photos with no larger area": f"{c['area_no_larger']:.0f}" if ours else "",
        "ρ on solid colours, mean ± SE": f"{c[f'rho_mean_{tool}']:.3f} ± {c[f'rho_error_{tool}']:.3f}",
        "photos with higher, equal, lower ρ": f"{c['rho_higher']:.0f}, {c['rho_equal']:.0f}, {lower:.0f}"
        if ours
        else "",
        "sufficient at its own occlusion": f"{c[f'sufficient_{tool}']:.0f}",
        "class kept on grey": f"{c[f'kept_zero_{tool}']:.0f}",
        "class kept on black, white, mean": ", ".join(
            f"{c[f'kept_{on}_{tool}']:.0f}" for on in ("black", "white", "mean")
        ),
    }


def print_summary(rows: Sequence[Row], seed: str) -> None:
    """Each configuration of suffice against each of ReX, on the rows of one seed, as tables."""
    main_rows = [row for row in rows if row["seed"] == seed]
    ours = by_configuration(main_rows, "suffice")
    for name, theirs in by_configuration(main_rows, "rex").items():
        compared = {configuration: compare(theirs, chosen) for configuration, chosen in ours.items()}
        compared = {configuration: c for configuration, c in compared.items() if c["photos"]}
        columns = {f"suffice, {configuration}": summary_column(c, "suffice") for configuration, c in compared.items()}
        itself = compare(theirs, theirs)
        if itself["photos"]:
            columns = {f"ReX, {name}": summary_column(itself, "rex")} | columns
        if columns:
            print(f"\n| seed {seed} |", " | ".join(columns), "|\n|", "---|" * (len(columns) + 1), sep="")
            for line in next(iter(columns.values())):
                print("|", line, "|", " | ".join(column[line] for column in columns.values()), "|")
    done = [row for row in rows if not row["error"] and timed(row)]
    if done:
        waited = statistics.median(float(row["seconds"]) / float(row["cpu_seconds"]) for row in done)
        spread = sorted(float(row["pass_seconds"]) * 1000 for row in done)
        print(f"\nWall time over CPU time {waited:.2f} in the median; one plain pass ", end="")
        print(f"{spread[0]:.0f} to {spread[-1]:.0f} ms of CPU time. ", end="")
        quiet = waited < 1.1 and spread[-1] < 1.3 * spread[0]
        print("The machine was quiet." if quiet else "The machine had other work: measure times again on a quiet one.")
    for row in (row for row in rows if row["error"]):
        print(f"\nfailed: {row['photo']}, {row['tool']} {row['configuration']}, seed {row['seed']}: {row['error']}")


def stability(rows: Sequence[Row], mask_of: Callable[[Row], Path], kept: Rows) -> str:
    """Mean IoU over all pairs of seeds, for each photo with several, and the mean over the photos."""
    named = ("tool", "configuration", "photo", *KNOWN_BY)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if not row["error"]:
            groups.setdefault(tuple(row[name] for name in named), []).append(row)
    for members in groups.values():
        if len(members) > 1:
            known = {name: members[0][name] for name in named}
            masks = [load_mask(mask_of(row)) for row in members]
            kept.row(known | {"seeds": len(members)}, lambda masks=masks: {"iou": f"{mean_pairwise_iou(masks):.4f}"})  # type: ignore[misc]
    lines = ["\n## Stability: mean IoU of the masks of one photo under several seeds\n"]
    lines += ["| tool | configuration | photos | seeds | mean IoU ± SE | least |", "|---|---|---|---|---|---|"]
    for tool, configuration in sorted({(row["tool"], row["configuration"]) for row in kept.asked}):
        chosen = [row for row in kept.asked if (row["tool"], row["configuration"]) == (tool, configuration)]
        values = [float(row["iou"]) for row in chosen]
        seeds = "/".join(sorted({row["seeds"] for row in chosen}))
        mean = f"{statistics.fmean(values):.3f} ± {standard_error(values):.3f}"
        lines.append(f"| {tool} | {configuration} | {len(values)} | {seeds} | {mean} | {min(values):.3f} |")
    return "\n".join(lines) if kept.asked else ""
