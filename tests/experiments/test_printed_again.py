"""Every command in the tables of the README and of docs/results.md is tried, at the smallest size that is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("SUFFICE_DATA")
COMMAND = re.compile(r"`((?:make |\.venv/bin/python |suffice |SUFFICE_)[^`…]+)`")

EXPERIMENT = f"{sys.executable} experiments/"
SUFFICE = f"{sys.executable} -c 'from suffice.cli import main; main()' "
MAKE = "make -o .venv/dev BIN={bin} UPDATE=--out={out} "  # -o: what is installed stays as it is
BENCH = "SUFFICE_DATA={one} " + SUFFICE + "bench configs/"

# FOLDER is a folder with one photo; {two} has two, for what takes means over the others.
TRIED = {
    "make benchmark PHOTOS=FOLDER": [MAKE + "benchmark PHOTOS={photo}"],
    ".venv/bin/python experiments/baselines.py FOLDER": [EXPERIMENT + "baselines.py {photo} --out {out}"],
    "make certificates PHOTOS=FOLDER": [MAKE + "certificates PHOTOS={photo}"],
    # With ReX where its environment is there: it is asked about one photo, with one seed.
    "make benchmark-rex PHOTOS=FOLDER": [MAKE + "benchmark-rex PHOTOS={photo} 'REDO={rex} --stability-seeds 1'"],
    "make benchmark-matching PHOTOS=FOLDER": [MAKE + "benchmark-matching PHOTOS={photo}"],
    "make results-check PHOTOS=FOLDER": [
        EXPERIMENT + "results_check.py {photos} --only explain-photos.csv gpu.csv lax-cost.csv"
    ],
    ".venv/bin/python experiments/score_cost.py": [
        EXPERIMENT + "score_cost.py sample:coffee --rounds 1 --no-quantus --out {out}"
    ],
    ".venv/bin/python experiments/lax_cost.py": [
        EXPERIMENT + "lax_cost.py --rounds 1 --models suffice.models.resnet18:synthetic_mnist --out {out}"
    ],
    ".venv/bin/python experiments/responsibility.py FOLDER": [
        EXPERIMENT + "responsibility.py {two} --photos 1 --out {out}"
    ],
    ".venv/bin/python experiments/larger_networks.py FOLDER": [
        EXPERIMENT + "larger_networks.py {photo} --networks efficientnet-lite0 --out {out}"
    ],
    ".venv/bin/python experiments/robust_sets.py --print": [EXPERIMENT + "robust_sets.py --print"],
    ".venv/bin/python experiments/circuits.py FOLDER": [
        EXPERIMENT + "circuits.py {two} --photos 1 --only own --out {out}"
    ],
    ".venv/bin/python experiments/deactivation_coverage.py --print": [EXPERIMENT + "deactivation_coverage.py --print"],
    "SUFFICE_DATA=ABOVE suffice bench configs/am-photos.toml --out am": [
        BENCH + "am-photos.toml --out {out}/am",
        SUFFICE + "bench-report {out}/am",
    ],
    "SUFFICE_DATA=ABOVE suffice bench configs/ad-photos.toml --out ad": [
        BENCH + "ad-photos.toml --out {out}/ad",
        SUFFICE + "bench-report {out}/ad",
    ],
    "SUFFICE_DATA=ABOVE suffice bench configs/ad-photos-lime.toml --out lime": [
        BENCH + "ad-photos-lime.toml --out {out}/lime",
        SUFFICE + "bench-report {out}/lime",
    ],
    "suffice train-classifier mnist --data DATA --preset quick --set epochs=2 --set batch_size=64 --out mnist": [
        SUFFICE + "train-classifier mnist --data {data} --preset quick --set epochs=0.05 --set batch_size=64 "
        "--test-images 100 --out {out}/mnist",
        EXPERIMENT + "activation_matching.py mnist {data} --weights {out}/mnist/classifier.safetensors --digits 2 "
        "--out {out}",
        EXPERIMENT + "am_mnist_noise.py {data} --weights {out}/mnist/classifier.safetensors --digits 1 "
        "--encoder pixels --std 0 --out {out}",
    ],
    "suffice explain sample:coffee": [SUFFICE + "explain sample:coffee --out {out}/coffee"],
}
# What the other pages of the docs name beside numbers and figures, by the experiment.
IN_DOCS = {
    "abductive": "table",
    "activation_matching_ablation": "sample:coffee --steps 2 --out {out}/ablation.png",
    "activation_matching_figures": "4 --photos sample:coffee --steps 2 --out {out}",
    "am_transfer": "{photo} --method causal --steps 2 --out {out}",
    "audit_cost": "report",
    "audit_planted": "report",
    "baselines": "{photo} --signs",
    "circuit_figure": "sample:coffee --method grad-cam --nodes 2 --out {out}/figure-2.png",
    "circuits": "--print results/circuits-fair.csv",
    "circuits_by_class": "--print results/circuits-by-class.csv",
    "circuits_edges": "--print results/circuits-edges.csv",
    "circuits_planted": "--print results/circuits-planted.csv",
    "cost_growth": "{two} --parts 'image size' --sizes 112 --photos 1 --out {out}",
    "deactivation_cost": "--models resnet18 --batches 1 --rounds 1 --out {out}",
    "deactivation_spread": "--thresholds 0",
    "faster_copy": "efficientnet-lite0 --rounds 1",
    "start_up": "{photo} --rounds 1",
    "occlusions_figure": "sample:coffee --occlusions zero --out {out}/figure-1.png",
}
IN_DOCS_ELSEWHERE = {  # experiment, configuration or target of make: the test of its parts, or why there is none
    "algorithm_1": "tests/occlusion/test_deactivation_reference.py",
    "am_start": "tests/experiments/test_activation_matching.py",
    "batch_sizes": "tests/experiments/test_batch_sizes.py",
    "benchmark_runner": "tests/experiments/test_benchmark_runner.py",
    "lax_figures": "tests/experiments/test_lax_figures.py, as it needs an adapter",
    "msi_lax_scenes": "tests/experiments/test_msi_lax_scenes.py, as it trains for an hour and more",
    "web_latency": "measures times alone, in a browser",
    "with_openvino": "measures times alone, where OpenVINO is",
    "make benchmark-gpu": "needs a machine with CUDA",
    "make abductive": "trains two networks for minutes; tests/explainers/test_abductive.py",
    "make table3": "trains for an hour; tests/experiments/test_msi_lax_tables.py has all that follows",
    "make table4": "test_msi_lax_tables.py, on a tiny copy of CUB-200-2011",
    "make table5": "test_msi_lax_tables.py, on a tiny copy of CIFAR-10",
}
WITH_THE_ONE_BEFORE = {
    *("suffice bench-report am", "suffice bench-report ad", "suffice bench-report lime"),
    ".venv/bin/python experiments/activation_matching.py mnist DATA --weights mnist/classifier.safetensors",
    ".venv/bin/python experiments/am_mnist_noise.py DATA --weights mnist/classifier.safetensors",
    "make results-check PHOTOS=FOLDER DATA=DATA",
}
ELSEWHERE = {  # command: the test of its parts, or why there is none
    "make table3-forms DATA=DATA": "trains for an hour; test_msi_lax_scenes.py has all that follows",
    "suffice train-classifier synthetic-mnist --data DATA --out RUNS/synthetic-mnist": "tests/cli/test_train.py",
    "SUFFICE_DATA=DATA SUFFICE_RUNS=RUNS suffice bench configs/ad-synthetic-mnist.toml --out scenes": (
        "its network trains for minutes; ad-photos.toml has the same methods and metrics"
    ),
    "suffice bench-report scenes": "as the one before",
    "SUFFICE_DATA=ABOVE suffice bench configs/ad-photos-searches.toml --out searches": (
        "takes six minutes for a photo; ad-photos.toml has the same method and metrics"
    ),
    "suffice bench-report searches": "as the one before",
    "suffice audit DATA": "tests/cli/test_audit.py",
    "suffice web": "tests/web, which serves and asks it",
    "make docs": "builds the site, and measures nothing",
}


def test_every_command_is_tried_or_said_to_be_tried_elsewhere() -> None:
    pages = (ROOT / "README.md", ROOT / "docs" / "results.md")
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    named = {short(command) for line in lines for command in COMMAND.findall(line)}
    assert len(named) > 20
    assert named <= {*map(short, (*TRIED, *WITH_THE_ONE_BEFORE, *ELSEWHERE))}


def short(command: str) -> str:
    """Without where data is, and where results go."""
    return re.sub(r"SUFFICE_\w+=\S+ | --out \S+", "", command)


def test_every_experiment_that_the_docs_name_is_tried_or_said_to_be_tried_elsewhere() -> None:
    pages = " ".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md"))
    named = set(re.findall(r"experiments/(\w+)\.py", pages))
    assert len(named) > 20
    tried = set(re.findall(r"experiments/(\w+)\.py", str(TRIED))) | {*IN_DOCS, *IN_DOCS_ELSEWHERE}
    assert named <= tried
    targets = set(re.findall(r"make ([a-z0-9-]+) [A-Z]+=", pages))
    assert targets <= {*re.findall(r"make ([a-z0-9-]+)", " ".join((*TRIED, *ELSEWHERE, *IN_DOCS_ELSEWHERE)))}


needs_photos = pytest.mark.skipif(
    DATA is None or not Path(DATA, "imagenet20").is_dir(), reason="needs photos in SUFFICE_DATA"
)


@pytest.mark.slow
@needs_photos
@pytest.mark.parametrize("command", TRIED)
def test_a_command_that_is_named_runs_and_leaves_the_results_alone(command: str, tmp_path: Path) -> None:
    said = run(TRIED[command], tmp_path)
    if "experiments" in command or command.startswith("make"):
        assert all(re.search(r" stored|equal", each) for each in said), "it says what was stored and what was computed"


@pytest.mark.slow
@needs_photos
@pytest.mark.parametrize("name", IN_DOCS)
def test_a_command_that_the_docs_name_runs_and_leaves_the_results_alone(name: str, tmp_path: Path) -> None:
    run([f"{EXPERIMENT}{name}.py {IN_DOCS[name]}"], tmp_path)


def run(lines: list[str], tmp_path: Path) -> list[str]:
    """What some commands print, which end well and change nothing in results/."""
    photos = Path(DATA or "", "imagenet20")
    small = tmp_path / "one" / "imagenet20"
    small.mkdir(parents=True)
    (tmp_path / "two").mkdir()
    for number, photo in enumerate(sorted(photos.iterdir())[:2]):
        shutil.copy(photo, tmp_path / "two")
        if number == 0:
            shutil.copy(photo, small)
    words = {
        "bin": str(Path(sys.executable).parent), "out": str(tmp_path / "out"), "photo": str(small),
        "one": str(tmp_path / "one"), "two": str(tmp_path / "two"), "photos": str(photos), "data": DATA or "",
        "rex": "" if (ROOT / ".venv-rex" / "rex-is-installed").is_file() else "--tools suffice",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in (ROOT / "results").iterdir()}
    environment, said = os.environ | {"OMP_NUM_THREADS": "1"}, []
    for line in lines:
        done = subprocess.run(
            line.format(**words), shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
        said.append(done.stdout)
    assert {path: path.read_bytes() for path in (ROOT / "results").iterdir()} == before
    return said
