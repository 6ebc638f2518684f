"""Which architectures Activation-Deactivation works on: every torchvision classifier, one model of every timm family.

    python experiments/deactivation_coverage.py [--update]          # hours; the smallest models first
    python experiments/deactivation_coverage.py --only resnet18     # these models (or families)
    python experiments/deactivation_coverage.py --print             # what is in results/

Each model gets random weights with norm statistics and biases of their own (freshly initialised ones hide every
fault), and a batch of three images: one kept whole, one with scattered cells kept, one with a box kept.

- theorem_1: largest difference between the logits of the image that is kept whole and those of a plain forward pass
  on the same batch. It goes through the deactivating pass together with the others. Must be 0.
- leak: largest difference after what is masked is replaced by other numbers, NaN and infinity; the batch with the whole
  image and the batch without it. Must be 0.
- effect: how far the logits of the masked images are from the plain ones. Must not be 0.
- largest_difference_from_reference: how far the logits of the masked images are from those of `algorithm_1.py`, a
  reading of Algorithm 1 that shares no code with the rules, both in float64 at τ = 0. Must be next to nothing beside
  the effect, which that of painting with zeros is not. `not read` and an operator where the reading does not know one,
  attention above all; empty where it was not run.

A worker process does the models one after the other; if it dies, or gives no result within --limit seconds, that is
the model's row, and another worker goes on.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from algorithm_1 import UnreadableError, algorithm_1
from rows import RESULTS, Row, Rows, add_options, code_of, run_as_command, said_of
from suffice.files import read_csv
from suffice.occlusion.deactivation import deactivated_forward

TABLE = "deactivation-coverage.csv"
SETTINGS = ("library", "family", "model")
COLUMNS = [
    *SETTINGS, "status", "theorem_1", "leak", "effect", "largest_difference_from_reference",
    "image_size", "parameters_m", "seconds", "note",
]  # fmt: skip
REFERENCE = "largest_difference_from_reference"
AGREES = 1e-4
"""Share of the effect that the largest difference from the reference may be; in float64 it is some 1e-8."""


def torchvision_models(known: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(library, family, model) of every classifier."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    return [("torchvision", torchvision.models.get_model_builder(n).__module__.split(".")[-1], n) for n in names]


def timm_models(known: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The smallest model of every family; `known` has that of some, and to find it takes minutes."""
    import timm

    chosen = []
    for family in timm.list_modules():
        if family in known:
            chosen.append(("timm", family, known[family]))
            continue
        names = timm.list_models(module=family)
        if not names:
            continue
        small = [n for n in names if not re.search(r"large|huge|giant|gigantic|xlarge|base|so\d+m|_[lh]\d*_|_7b", n)]
        sizes = {n: size for n in small or names if (size := _parameters(n)) is not None}
        name = min(sizes, key=lambda n: sizes[n]) if sizes else names[0]
        chosen.append(("timm", family, name))
    return chosen


def _parameters(name: str) -> int | None:
    import timm

    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # cannot be built without memory: then it is not the one to choose
        return None


def randomise(model: nn.Module) -> nn.Module:
    """Norm statistics, biases and scales as different from their initial values as a trained network's."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            noise = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else None
            if noise is None:
                continue
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * noise)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif isinstance(tensor, nn.Parameter) and not tensor.any():
                tensor.copy_(0.05 * noise)  # a head of zeros would hide everything
            elif isinstance(tensor, nn.Parameter) and tensor.numel() == max(tensor.shape, default=1):
                tensor.add_(0.2 * noise)
    return model.eval()


def build(library: str, name: str) -> tuple[nn.Module, int]:
    """The model and its image size: a small one where the architecture allows it."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        model = timm.create_model(name)
        return model, model.pretrained_cfg["input_size"][-1]
    import torchvision

    options: dict[str, Any] = {}
    size = 96
    if name.startswith("vit"):
        size = 4 * int(name.split("_")[-1])
        options["image_size"] = size
    elif name.startswith(("maxvit", "swin", "alexnet", "vgg")):
        size = 224
    elif name.startswith("inception"):
        options["init_weights"] = False
        size = 128
    elif name == "googlenet":
        options["init_weights"] = False
    return torchvision.models.get_model(name, weights=None, **options), size


def first_logits(output: Any) -> Tensor:
    """The logits of a model that returns them first among others."""
    if isinstance(output, Tensor):
        return output
    return first_logits(next(iter(output.values())) if isinstance(output, dict) else output[0])


def example(size: int, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images (3, C, size, size), the same with anything under the masks, and masks."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, channels, size, size, generator=generator)
    masks = torch.ones(3, size, size, dtype=torch.bool)
    cells = torch.rand(7, 7, generator=generator) > 0.6
    index = torch.arange(size) * 7 // size
    masks[1] = cells[index][:, index]
    masks[2] = False
    masks[2, size // 3 : size // 2, size // 4 : size // 2] = True
    under = 5 * torch.randn(images.shape, generator=generator)
    under[1, :, ::2] = torch.nan
    under[2, :, ::3] = torch.inf
    return images, torch.where(masks[:, None], images, under), masks


@torch.no_grad()  # in inference mode operators come whole, and not in those that the reference knows
def measure(model: nn.Module, size: int) -> dict[str, Any]:
    """The numbers of one model, which is in float64 afterwards."""
    images, changed, masks = example(size)
    plain = first_logits(model(images))
    whole = first_logits(deactivated_forward(model, images, masks))
    whole_changed = first_logits(deactivated_forward(model, changed, masks))
    part = first_logits(deactivated_forward(model, images[1:], masks[1:]))
    part_changed = first_logits(deactivated_forward(model, changed[1:], masks[1:]))
    theorem_1 = (whole[0] - plain[0]).abs().max().item()
    leak = max((whole - whole_changed).abs().max().item(), (part - part_changed).abs().max().item())
    effect = (whole[1:] - plain[1:]).abs().amax(1).min().item()
    agree = (whole[1:] - part).abs().max().item() <= 1e-4 * max(1.0, whole.abs().max().item())
    difference = from_reference(model, images, masks)
    if not whole.isfinite().all():
        status, note = "failed", "logits are not finite"
    elif not isinstance(difference, str) and not difference <= AGREES * effect:
        status, note = "failed", "not what Algorithm 1 says"
    elif theorem_1 != 0 or leak != 0 or not effect > 0 or not agree:
        status, note = "failed", "" if agree else "depends on which other masks share the batch"
    else:
        status, note = "exact", ""
    numbers = {"theorem_1": theorem_1, "leak": leak, "effect": float(f"{effect:.3g}")}
    difference = difference if isinstance(difference, str) else float(f"{difference:.3g}")
    return {"status": status, **numbers, REFERENCE: difference, "note": note}


def from_reference(model: nn.Module, images: Tensor, masks: Tensor) -> float | str:
    """How far the logits of the masked images are from those of the reference, or why it cannot say."""
    model.double()
    try:
        expected = [first_logits(algorithm_1(model, images[n].double(), masks[n]))[0] for n in (1, 2)]
    except UnreadableError as error:
        return f"not read: {error}"
    found = first_logits(deactivated_forward(model, images.double(), masks))[1:]
    return (found - torch.stack(expected)).abs().max().item()


def row_of(library: str, family: str, name: str) -> dict[str, Any]:
    """One row of the table; an exception becomes its note."""
    start = time.perf_counter()
    row: dict[str, Any] = {"library": library, "family": family, "model": name}
    try:
        model, size = build(library, name)
        row |= {"image_size": size, "parameters_m": round(sum(p.numel() for p in model.parameters()) / 1e6, 1)}
        row |= measure(randomise(model), size)
    except Exception as error:
        row |= {"status": "error", "note": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def work(jobs: list[tuple[str, str, str]]) -> None:
    """The worker: a line of JSON for each model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for job in jobs:
        print("ROW " + json.dumps(row_of(*job)), flush=True)


def run(jobs: list[tuple[str, str, str]], limit: float, rows: Rows) -> None:
    """Give the jobs to workers and keep each row as it comes; a model may take `limit` seconds."""

    def keep(row: dict[str, Any]) -> None:
        rows.row({name: row[name] for name in SETTINGS}, lambda: row)
        print(f"{row['model']:40} {row['status']:8} {row.get('seconds', ''):6} s  {row['note']}", flush=True)

    while jobs:
        command = [sys.executable, __file__, "--work", json.dumps(jobs)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        expired = threading.Event()
        watch = _watch(worker, limit, expired)
        for line in worker.stdout:
            if line.startswith("ROW "):
                watch.cancel()
                watch = _watch(worker, limit, expired)
                keep(json.loads(line[4:]))
                jobs = jobs[1:]
        worker.wait()
        watch.cancel()
        if worker.returncode != 0 and jobs:
            died = f"the worker process died with status {worker.returncode}"
            note = f"no result within {limit:g} s" if expired.is_set() else died
            keep(dict(zip(SETTINGS, jobs[0], strict=True)) | {"status": "error", "note": note})
            jobs = jobs[1:]


def _watch(worker: subprocess.Popen[str], limit: float, expired: threading.Event) -> threading.Timer:
    """Kill the worker after `limit` seconds, and say that it was us."""

    def stop() -> None:
        expired.set()
        worker.kill()

    timer = threading.Timer(limit, stop)
    timer.daemon = True
    timer.start()
    return timer


def show(rows: Sequence[Row]) -> None:
    """Print the rows and how many are exact."""
    for r in rows:
        print(
            f"{r['library']:12} {r['family']:28} {r['model']:40} {r['status']:7} "
            f"{r['theorem_1']:>8} {r['leak']:>8} {r.get(REFERENCE) or '':>8} {r['note']}"
        )
    for library in ("torchvision", "timm"):
        status = [r["status"] for r in rows if r["library"] == library]
        exact = status.count("exact")
        print(f"{library}: {exact} of {len(status)} exact ({exact / max(len(status), 1):.1%})")
    compared = [r for r in rows if r.get(REFERENCE) and not r[REFERENCE].startswith("not read")]
    unread = sum((r.get(REFERENCE) or "").startswith("not read") for r in rows)
    left = len(rows) - len(compared) - unread
    print(f"compared with the reference: {len(compared)}; not read: {unread}; not run: {left}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="models or families")
    parser.add_argument("--print", action="store_true", help="print the table in results/ and do nothing else")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds that one model may take")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    add_options(parser)
    options = parser.parse_args()
    if options.work:
        work(json.loads(options.work))
        return
    before = read_csv(RESULTS / TABLE) if (RESULTS / TABLE).is_file() else []
    if options.print:
        show(before)
        print(said_of(before))
        return
    rows = Rows(TABLE, COLUMNS, SETTINGS, options, code_of("deactivation_coverage.py", "algorithm_1.py"))
    jobs: list[tuple[str, str, str]] = []
    for library, models in (("torchvision", torchvision_models), ("timm", timm_models)):
        known = [tuple(r[name] for name in SETTINGS) for r in before if r["library"] == library]
        jobs += known if options.only and known else models({family: name for _, family, name in known})  # type: ignore[arg-type]
    size = {r["model"]: float(r.get("parameters_m") or 0) for r in before}
    jobs = sorted(
        (j for j in jobs if not options.only or {j[1], j[2]} & set(options.only)), key=lambda j: size.get(j[2], 0.0)
    )
    missing = []
    for job in jobs:
        asked = dict(zip(SETTINGS, job, strict=True))
        if rows.has(asked):
            rows.row(asked, dict)
        else:
            missing.append(job)
    run(missing, options.limit, rows)
    show(rows.asked)
    print(rows.close())


if __name__ == "__main__":
    run_as_command(main)
