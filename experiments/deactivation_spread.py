"""How fast a mask spreads through a network, layer by layer, and how much of the work an exact pass can leave out.

    python experiments/deactivation_spread.py [--model tf_efficientnet_lite0] [--share 0.1] [--thresholds 0 0.25 0.5]

For a centred box with a share of the image's area it prints, for each convolution and threshold τ, which share of
the positions is on after it. The last line is the share of all multiply-adds whose output is on: no pass that is
exact can do less.
"""

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.rules import Activation


def centred_box(size: int, share: float) -> Tensor:
    """bool (1, size, size), True in a centred square with this share of the area."""
    side = round(size * share**0.5)
    start = (size - side) // 2
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, start : start + side, start : start + side] = True
    return mask


def shares(model: nn.Module, mask: Tensor, threshold: float) -> list[tuple[str, tuple[int, ...], float, float]]:
    """(layer, shape of its output, share of it that is on, its multiply-adds) of every convolution and linear layer."""
    result = []

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            masked = isinstance(output, Activation) and output.mask is not None
            on = output.mask.on.float().mean().item() if masked else 1.0
            weight = module.weight
            work = output.numel() * weight[0].numel()
            result.append((name, tuple(output.shape[1:]), on, float(work)))

        return note

    handles = [
        m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    try:
        with torch.inference_mode():
            deactivated_forward(model, torch.randn(1, 3, *mask.shape[1:]), mask, threshold=threshold, fast=False)
    finally:
        for handle in handles:
            handle.remove()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = timm.create_model(options.model).eval()
    mask = centred_box(model.pretrained_cfg["input_size"][-1], options.share)
    runs = [shares(model, mask, t) for t in options.thresholds]
    print(
        f"{options.model}, centred box of {mask.float().mean().item():.1%} of the image; share of positions that is on"
    )
    print(f"{'layer':32} {'output':>16}" + "".join(f"   τ={t:<5g}" for t in options.thresholds))
    for layers in zip(*runs, strict=True):
        name, shape = layers[0][:2]
        print(f"{name:32} {'x'.join(map(str, shape)):>16}" + "".join(f"{layer[2]:9.1%}" for layer in layers))
    floors = [sum(on * work for *_, on, work in run) / sum(work for *_, work in run) for run in runs]
    print(f"{'multiply-adds that are on':49}" + "".join(f"{floor:9.1%}" for floor in floors))


if __name__ == "__main__":
    main()
