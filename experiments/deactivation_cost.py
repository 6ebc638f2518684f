"""What a deactivating forward pass costs, against the plain one: ratios, side by side in one run, one thread.

    python experiments/deactivation_cost.py [--models resnet50 …] [--batches 1 16] [--rounds 15] [--update]

Times are of this one thread on the processor, so that other work on the machine counts less. Plain and deactivating
passes alternate, so that both see the same machine; the ratio is that of their medians. The last row for each model
runs a box of another place and size each time, as an explainer does.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from rows import Row, Rows, add_options, code_of, run_as_command
from suffice.occlusion.deactivation import deactivated_forward

MODELS = ["tf_efficientnet_lite0", "resnet50", "regnety_016", "vit_base_patch16_224"]
LIMITS = {"everything": 1.05, "box of 25%": 0.8, "box of 10%": 0.6, "half of 7x7 cells": 1.15, "moving box of 10%": 0.6}
SIZE = 224
SETTINGS = ("model", "batch", "kept", "rounds")


def centred_box(share: float) -> Tensor:
    """bool (SIZE, SIZE), True in a centred square with this share of the area."""
    side = round(SIZE * share**0.5)
    return box(side, (SIZE - side) // 2, (SIZE - side) // 2)


def box(side: int, top: int, left: int) -> Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


def cells(seed: int) -> Tensor:
    """Half of 7x7 cells, at random."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.zeros(49, dtype=torch.bool)
    on[torch.randperm(49, generator=generator)[:25]] = True
    return on.view(7, 7).repeat_interleave(SIZE // 7, 0).repeat_interleave(SIZE // 7, 1)


def masks_of(kind: str, batch: int, turn: int) -> Tensor:
    """bool (batch, SIZE, SIZE)."""
    if kind == "everything":
        return torch.ones(batch, SIZE, SIZE, dtype=torch.bool)
    if kind == "half of 7x7 cells":
        return torch.stack([cells(turn * batch + i) for i in range(batch)])
    if kind.startswith("moving"):
        place = random.Random(turn)
        side = round(SIZE * 0.1**0.5) - place.randrange(8)
        one = box(side, place.randrange(SIZE - side), place.randrange(SIZE - side))
        return one.expand(batch, -1, -1)
    return centred_box(0.25 if "25" in kind else 0.1).expand(batch, -1, -1)


def seconds(function: Callable[[], object]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


@torch.inference_mode()
def ratio(model: nn.Module, kind: str, batch: int, rounds: int) -> tuple[float, float]:
    """(median seconds of a plain pass, median of deactivating over plain)."""
    images = torch.randn(batch, 3, SIZE, SIZE)
    plain, ours = [], []
    for turn in range(rounds + 2):
        masks = masks_of(kind, batch, turn)
        plain.append(seconds(lambda: model(images)))
        ours.append(seconds(lambda masks=masks: deactivated_forward(model, images, masks)))
    return statistics.median(plain[2:]), statistics.median(ours[2:]) / statistics.median(plain[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15, help="for a batch of 1; a third of it for larger ones")
    add_options(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = (*SETTINGS, "plain_ms", "ratio", "limit")
    rows = Rows("deactivation-cost.csv", columns, SETTINGS, options, code_of("deactivation_cost.py"))
    for name in options.models:
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
        for batch in options.batches:
            rounds = options.rounds if batch == 1 else max(options.rounds // 3, 3)
            for kind, limit in LIMITS.items():
                known = {"model": name, "batch": batch, "kept": kind, "rounds": rounds, "limit": limit}

                def compute(
                    model: nn.Module = model, kind: str = kind, batch: int = batch, rounds: int = rounds
                ) -> Row:
                    plain, measured = ratio(model, kind, batch, rounds)
                    return {"plain_ms": f"{1000 * plain:.1f}", "ratio": f"{measured:.2f}"}

                row = rows.row(known, compute)
                verdict = "" if float(row["ratio"]) <= limit else f"  above {limit}"
                print(
                    f"{name:24} {batch:3} {kind:20} plain {row['plain_ms']:>8} ms  x {row['ratio']}{verdict}",
                    flush=True,
                )
    print(rows.close())


if __name__ == "__main__":
    run_as_command(main)
