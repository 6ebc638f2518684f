"""What OpenVINO saves as an engine for screens (src/suffice/faster/converting.py): processor time, in one run.

    python experiments/with_openvino.py rows [NETWORK…]      # a row in batches of 1, 2, 4 and 16
    python experiments/with_openvino.py photos FOLDER        # explanations of its photos, with and without

Each round asks the network as it is, its faster copy and what OpenVINO makes of it, one after the other; printed are
medians, and medians of the ratios within a round. `photos` explains each photo with and without it by default settings
and compares the masks; conversion is before, and counted by itself. One thread, buffers kept as the commands do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import suffice
from rows import photos_of, run_as_command
from suffice.buffers import keep_buffers
from suffice.faster import faster_copy, openvino_files

NETWORKS = ("efficientnet-lite0", "timm:resnet50")
BATCHES = (1, 2, 4, 16)


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def rows(name: str, rounds: int) -> None:
    torch.manual_seed(0)
    classifier = suffice.load_classifier(name, weights="random", device="cpu")
    network = classifier.require_module("this benchmark").eval()
    images = torch.rand(max(BATCHES), 3, *classifier.preprocessing.input_size)
    with torch.no_grad():
        copy = faster_copy(network, images[:2]) or network
    files: dict[str, bytes] = {}
    converted: list[nn.Module] = []
    took = seconds(lambda: files.update(openvino_files.files_of(network, images[:2])))
    compiled = seconds(lambda: converted.append(openvino_files.read(files)))
    ways = {
        "as it is": (network, torch.contiguous_format),
        "channels last": (network, torch.channels_last),
        "faster copy": (copy, torch.channels_last),
        "OpenVINO": (converted[0], torch.contiguous_format),
    }
    for count in BATCHES:
        found: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds + 1):
            for way, (asked, layout) in ways.items():
                batch = images[:count].contiguous(memory_format=layout)
                with torch.no_grad():
                    spent = seconds(lambda asked=asked, batch=batch: asked(batch)) / count
                if number:  # the first round warms up
                    found[way].append(spent)
        times = " | ".join(f"{1e3 * statistics.median(of_way):.1f} ms" for of_way in found.values())
        ratio = statistics.median(a / b for a, b in zip(found["faster copy"], found["OpenVINO"], strict=True))
        print(f"| {name} | {count} | {times} | {ratio:.2f} |", flush=True)
    print(f"{name}: converted in {took:.1f} s, read and compiled in {compiled:.2f} s", file=sys.stderr)


def photos(folder: Path, most: int) -> None:
    ratios, equal = [], 0
    paths = photos_of(folder)[:most]
    os.environ["SUFFICE_OPENVINO"] = "1"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SUFFICE_CACHE"] = cache
        converted = suffice.load_classifier(device="cpu")
        first = suffice.load_image(paths[0], converted)
        masks = torch.rand(4, *first.shape[1:]) > 0.5
        before = seconds(lambda: suffice.Question(converted, first)(masks))
        os.environ["SUFFICE_OPENVINO"] = "0"
        plain = suffice.load_classifier(device="cpu")
        suffice.Question(plain, first)(masks)  # which makes its faster copy
        print(f"conversion, once for these weights: {before:.1f} s")
        print("| photo | images | without | with OpenVINO | share | same mask |")
        print("|---|---|---|---|---|---|")
        for path in paths:
            image = suffice.load_image(path, plain)
            found: dict[str, tuple[suffice.Explanation, float]] = {}
            for name, classifier in (("without", plain), ("with", converted)):
                started = time.process_time()
                explanation = suffice.explain(classifier, image)
                found[name] = explanation, time.process_time() - started
            (ours, without), (theirs, with_it) = found["without"], found["with"]
            same = torch.equal(ours.mask, theirs.mask)
            equal, ratios = equal + same, [*ratios, with_it / without]
            print(
                f"| {path.name} | {theirs.forward_passes} | {without:.2f} s | {with_it:.2f} s | "
                f"{with_it / without:.2f} | {'yes' if same else 'no'} |",
                flush=True,
            )
        print(f"{theirs.made.get('screens', 'not converted')}: {equal} of {len(paths)} masks the same, "
              f"{statistics.median(ratios):.2f} of the time in the median")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rows", "photos"))
    parser.add_argument("of", nargs="*", help="networks, or a folder of photos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, default=5, help="photos (%(default)s)")
    arguments = parser.parse_args()
    if openvino_files.version() is None:
        raise suffice.InputError('expected OpenVINO: pip install "suffice[openvino]"; it is not installed')
    torch.set_num_threads(1)
    keep_buffers()
    if arguments.part == "rows":
        print("| network | rows | as it is | channels last | faster copy | OpenVINO | copy / OpenVINO |")
        print("|---|---|---|---|---|---|---|")
        for name in arguments.of or NETWORKS:
            rows(name, arguments.rounds)
    else:
        photos(Path(arguments.of[0]), arguments.most)


if __name__ == "__main__":
    run_as_command(main)
