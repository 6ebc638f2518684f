"""Table 3 of MSI-LAX on the two forms of Synthetic MNIST, `literal` and `black-aware`, with three seeds.

    python experiments/msi_lax_scenes.py --data DATA                    # trains and scores what is not there yet
    python experiments/msi_lax_scenes.py --data DATA --noise literal --seeds 0 --images 100
    python experiments/msi_lax_scenes.py --report                       # the tables of the rows that are there

A seed that has no run in --work is that in `results/`, if it is there: seeds may be run one by one, on any machine.

The forms differ in the noise alone (`suffice.datasets.synthetic_mnist`). A seed decides the scenes, which digits are
learnt, their order, and the first weights of the adapters. The base is `suffice.models.small_cnn`, trained until its
mean loss over an epoch is below `NEAR_ZERO`, or for `EPOCHS`; then the paper's adapter and ours, as in
`msi_lax_tables.py`, whose rows these are. Beside each table stand the base's accuracies on whole scenes, on the digit's
own pixels on black, and on their complement.

What is asked comes in three passes, the most important first, so that a run that is stopped leaves a fair table:

| pass | what | images (--images, and shares of it) |
|---|---|---|
| `msi` | MSI and its parts, zero for what is hidden | 1,000 |
| `mean`, `noise` | MSI where the image's mean colour, or Gaussian noise, hides | 300 |
| `transfer` | MSI of base and adapter on scenes of the other form | 300 |
| `others` | insertion, deletion and Fid | 100 |

LAX is trained on the terms of the metric that scores it, so other judges stand beside it: `iou` with the digit's own
pixels; `heat_inside`, the share of the heat on them; and `single_deletion`, which needs neither a threshold nor a fill
that the model does not know: the scene is cut into 4 x 4 patches, each is replaced by the scene's own noise, as if
nothing had been put there, and the heat on the patches is ranked against what the label's logit loses (Spearman's
coefficient; the protocol of IDSDS, Hesse et al. 2024, and FunnyBirds, Hesse et al. 2023).

With --update the tables go into `results/`. `msi-lax-transfer.csv` is of base and adapter of one form on scenes of the
other: images of another set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

import msi_lax_tables as tables
from rows import KNOWN_BY, RESULTS, add_options, code_of, known_by, said_of
from suffice.buffers import keep_buffers
from suffice.classifier import Classifier
from suffice.datasets import ImageDataset, SyntheticMnist, load_dataset, random_subset
from suffice.files import read_csv, write_csv, write_whole
from suffice.images import to_model
from suffice.metrics import mean_with_error
from suffice.provenance import now, sha256_of

CODE = ("msi_lax_scenes.py", "msi_lax_tables.py")
FORMS = ("literal", "black-aware")
NEAR_ZERO = 0.02  # the mean cross-entropy of an epoch's steps at which a base's training ends
EPOCHS, SCENES, BATCH = 14, 8_000, 32
_SIDE = 4  # patches
_MSI = ("msi_base", "msi_penalty", "msi")
_WORDS = ("method", "best_cam", "trained_on", "scored_on", *KNOWN_BY, "made")
_WHOLE = ("seed", "base_steps", "base_images", "images")
_JUDGES = ("iou", "heat_inside", "single_deletion")


@dataclasses.dataclass(frozen=True)
class Pass:
    """What is asked in one pass.

    Attributes:
        metrics: of the maps.
        share: of the images.
        occlusion: what hides.
        methods: whose maps.
        elsewhere: whether the scenes are of the other form.
    """

    metrics: Sequence[str]
    share: float
    occlusion: str = "zero"
    methods: Sequence[str] = tables.METHODS
    elsewhere: bool = False


PASSES = {
    "msi": Pass(_MSI, 1.0),
    "mean": Pass(("msi",), 0.3, "mean"),
    "noise": Pass(("msi",), 0.3, "noise"),
    "transfer": Pass(_MSI, 0.3, methods=("grad-cam", "lax-paper", "lax", "truth"), elsewhere=True),
    "others": Pass(tuple(name for name in tables.METRICS if name not in _MSI), 0.1),
}


def table_of(noise: str) -> tables.Table:
    """What is trained and scored for one form."""
    base = tables.settings_of(
        epochs=EPOCHS,
        batch_size=BATCH,
        optimizer="adamw",
        learning_rate=5e-3,
        weight_decay=0.02,
        schedule="cosine",
        checkpoint_every=SCENES // BATCH,
        stop_below=NEAR_ZERO,
    )
    return tables.Table(
        f"synthetic-mnist:{noise}",
        "suffice.models.small_cnn:synthetic_mnist",
        0.5,
        (*base, "--images", str(SCENES), "--test-images", "1000"),
        tables.adapters_of("paper-synthetic-mnist", (9_600, 9_600), 1, 16, 0.5, stride=2, literal_rate=3e-4),
    )


def patch_heat(maps: Tensor) -> Tensor:
    """Mean heat on each of 4 x 4 patches, row by row: (N, 16) of (N, H, W)."""
    return torch.nn.functional.adaptive_avg_pool2d(maps[:, None].float(), _SIDE).flatten(1)


def deletion_drops(classifier: Classifier, dataset: ImageDataset, index: int) -> Tensor:
    """What the label's logit loses as each patch of a scene becomes the scene's own noise, (16,)."""
    whole, at = dataset, index
    while not isinstance(whole, SyntheticMnist):
        whole, at = whole.whole, whole.indices[at]  # type: ignore[attr-defined]  # a subset
    image, noise = to_model(whole.photo(at), classifier), to_model(whole.noise_alone(at), classifier)
    height, width = image.shape[1] // _SIDE, image.shape[2] // _SIDE
    images = image.repeat(1 + _SIDE**2, 1, 1, 1)
    for patch in range(_SIDE**2):
        top, left = patch // _SIDE * height, patch % _SIDE * width
        images[1 + patch, :, top : top + height, left : left + width] = noise[
            :, top : top + height, left : left + width
        ]
    logits = classifier.logits(images)[:, dataset.labels[index]]
    return logits[0] - logits[1:]


def spearman(ours: Tensor, theirs: Tensor) -> Tensor:
    """Spearman's rank correlation of each row, equal values sharing their ranks; 0 where a row ranks nothing.

    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 9.0, 10.0]])).round(decimals=6)
    tensor([1.], dtype=torch.float64)
    """
    a, b = (torch.from_numpy(rankdata(each.numpy(), axis=1)) for each in (ours, theirs))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-12)


def base_accuracies(classifier: Classifier, dataset: ImageDataset) -> dict[str, float]:
    """Shares of right answers about whole scenes, their digits alone on black, and what is left without them."""
    right = {"base_accuracy": 0, "digit_on_black": 0, "complement": 0}
    for first in range(0, len(dataset), 100):
        some = range(first, min(first + 100, len(dataset)))
        images = torch.stack([to_model(dataset.photo(index), classifier) for index in some])
        digits = tables.truth_of(dataset, some, classifier)
        assert digits is not None
        labels = torch.tensor([dataset.labels[index] for index in some])
        shown = (images, images * digits[:, None], images * ~digits[:, None])
        for name, each in zip(right, shown, strict=True):
            right[name] += int((classifier.logits(each).argmax(1) == labels).sum())
    return {name: count / len(dataset) for name, count in right.items()} | {"base_images": len(dataset)}


def score_pass(name: str, noise: str, seed: int, args: argparse.Namespace) -> None:
    """Rows of one pass for what has none yet, some images of each method after the other."""
    from suffice.models import load_classifier

    table, asked, folder = table_of(noise), PASSES[name], folder_of(args.work, noise, seed)
    scenes = table_of(FORMS[1 - FORMS.index(noise)]).dataset if asked.elsewhere else table.dataset
    classifier = load_classifier(table.model, weights=folder / "base" / "classifier.safetensors", device="cpu")
    dataset = random_subset(load_dataset(scenes, args.data, "test", seed=seed), args.images, seed)
    accuracies = folder / "accuracies.json"
    if name == "msi" and (not accuracies.is_file() or json.loads(accuracies.read_text())["base_images"] < len(dataset)):
        write_whole(accuracies, json.dumps(base_accuracies(classifier, dataset)))
    path, count = folder / f"rows-{name}.csv", max(1, round(asked.share * len(dataset)))
    weights, code = known_by(classifier)["weights_digest"], code_of(*CODE)
    made_by = {method: {"weights_digest": weights, "adapter": adapter_of(folder, method)} for method in asked.methods}
    rows: list[Any] = read_csv(path) if path.is_file() else []
    rows = [row for row in rows if all(row.get(k) == v for k, v in made_by.get(row["method"], {}).items())]
    done = {(row["method"], int(row["image"])) for row in rows}
    for first in range(0, count, tables.AT_ONCE):
        some, started = range(first, min(first + tables.AT_ONCE, count)), time.perf_counter()
        missing = [(method, [i for i in some if (method, i) not in done]) for method in asked.methods]
        wanted = sorted({index for _, left in missing for index in left})
        drops = {index: deletion_drops(classifier, dataset, index) for index in wanted if name == "msi"}
        for method, left in missing:
            if left:
                judge = _judge([drops[index] for index in left] if drops else [])
                found = tables.score(
                    method, classifier, classifier, dataset, left, folder, table.alpha_min, asked.metrics,
                    asked.occlusion, judge,
                )  # fmt: skip
                rows += [row | made_by[method] | {"code": code, "made": now()} for row in found]
        if wanted:
            write_csv(path, list(rows[0]), rows)
            each = 1000 * (time.perf_counter() - started) / sum(len(left) for _, left in missing)
            print(
                f"{folder}: {name}, {some[-1] + 1} of {count} images, {each:.0f} ms a map", file=sys.stderr, flush=True
            )


def adapter_of(folder: Path, method: str) -> str:
    """The digest of the adapter that a method's maps come from, "" where they come from none."""
    path = folder / method / "adapter.safetensors"
    return sha256_of(path)[:16] if path.is_file() else ""


def _judge(drops: Sequence[Tensor]) -> Any:
    if not drops:
        return lambda maps: {}
    return lambda maps: {"single_deletion": spearman(patch_heat(maps), torch.stack(list(drops)))}


def folder_of(work: Path, noise: str, seed: int) -> Path:
    """Runs and rows of one form and seed."""
    return work / noise / f"seed-{seed}"


def table_rows(work: Path, noise: str, seed: int) -> list[dict[str, Any]]:
    """A row a method of one seed: means over the images that every method has, with standard errors."""
    folder = folder_of(work, noise, seed)
    lines: dict[str, dict[str, Any]] = {}
    for name, asked in PASSES.items():
        path = folder / f"rows-{name}.csv"
        if asked.elsewhere or not path.is_file():
            continue
        values = tables.by_method(read_csv(path))
        tail = "" if asked.occlusion == "zero" else f"_{asked.occlusion}"
        for method, images in values.items():
            line = lines.setdefault(method, {"method": method, "seed": seed})
            for column in (*asked.metrics, *(_JUDGES if name == "msi" else ())):
                line |= mean_of(column + tail, (float(row[column]) for row in images.values()))
            of_method = list(images.values())
            line |= {f"images_{name}": len(images), "weights_digest": of_method[0]["weights_digest"]}
            line |= tables.made_of(of_method)
        if name == "msi":
            add_differences(lines, values)
    accuracies = folder / "accuracies.json"
    known = json.loads(accuracies.read_text()) if accuracies.is_file() else {}
    history = folder / "base" / "history.csv"
    if history.is_file():
        last = read_csv(history)[-1]
        known |= {"base_training_loss": float(last["loss"]), "base_steps": int(last["step"])}
    return [lines[method] | known for method in tables.METHODS if method in lines]


def add_differences(lines: Mapping[str, dict[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> None:
    """Of each LAX, its MSI minus that of the best CAM on the same images, with the standard error of the difference."""
    cams = [method for method in tables.CAMS if method in values]
    if not cams:
        return
    best = max(cams, key=lambda method: lines[method]["msi"])
    for method in ("lax-paper", "lax"):
        if method in values:
            images = values[method]
            differences = (float(images[i]["msi"]) - float(values[best][i]["msi"]) for i in images)
            lines[method] |= {"best_cam": best} | mean_of("msi_minus_best_cam", differences)


def mean_of(column: str, values: Iterable[float]) -> dict[str, float]:
    """A mean and its standard error as two columns."""
    mean = mean_with_error(values)
    return {column: mean.value, f"{column}_se": mean.standard_error or 0.0}


def transfer_rows(work: Path, noise: str, seed: int) -> list[dict[str, Any]]:
    """A row a method: base and adapter of one form, scored on scenes of its own and of the other."""
    lines = []
    for name in ("msi", "transfer"):
        path = folder_of(work, noise, seed) / f"rows-{name}.csv"
        values = tables.by_method(read_csv(path)) if path.is_file() else {}
        scored_on = FORMS[1 - FORMS.index(noise)] if name == "transfer" else noise
        for method in (method for method in PASSES["transfer"].methods if method in values):
            line: dict[str, Any] = {"trained_on": noise, "scored_on": scored_on, "method": method, "seed": seed}
            for column in (*_MSI, "iou"):
                line |= mean_of(column, (float(row[column]) for row in values[method].values()))
            of_method = list(values[method].values())
            line |= {"images": len(of_method), "weights_digest": of_method[0]["weights_digest"]}
            lines.append(line | tables.made_of(of_method))
    return lines


def report(work: Path, out: Path, seeds: Sequence[int]) -> None:
    """Write both tables and the transfers, and print the head of each with the mean over seeds."""
    out.mkdir(parents=True, exist_ok=True)
    for noise in FORMS:
        name = f"msi-lax-table3-{noise}.csv"
        rows = with_stored([row for seed in seeds for row in table_rows(work, noise, seed)], name)
        if rows:
            _write(out / name, rows)
        if asked := [row for row in rows if row["seed"] in seeds]:
            _print(noise, asked)
    rows = [row for noise in FORMS for seed in seeds for row in transfer_rows(work, noise, seed)]
    if any(row["trained_on"] != row["scored_on"] for row in rows):
        _write(out / "msi-lax-transfer.csv", with_stored(rows, "msi-lax-transfer.csv"))


def with_stored(rows: Sequence[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    """Rows of a table, and those in `results/` of the other seeds: a seed may be run by itself."""
    new, path = {int(row["seed"]) for row in rows}, RESULTS / table
    stored = [as_numbers(row) for row in read_csv(path)] if path.is_file() else []
    kept = [row for row in stored if row["seed"] not in new]
    if kept:
        print(f"{table}: {said_of(kept)}, of the seeds {', '.join(sorted({str(row['seed']) for row in kept}))}")
    return sorted([*kept, *rows], key=lambda row: int(row["seed"]))


def as_numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """What is there of a row of a file, numbers as such.

    >>> as_numbers({"method": "lax", "seed": "0", "msi": "0.5", "iou": "", "code": "1e5-2"})
    {'method': 'lax', 'seed': 0, 'msi': 0.5, 'code': '1e5-2'}
    """
    found = {name: value if name in _WORDS else float(value) for name, value in row.items() if value}
    return {
        name: int(value) if name in _WHOLE or name.startswith("images_") else value for name, value in found.items()
    }


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    shown = [{c: f"{v:.4f}" if isinstance(v, float) else v for c, v in row.items()} for row in rows]
    write_csv(path, columns, [{column: row.get(column, "") for column in columns} for row in shown])


def _print(noise: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = (*_MSI, "msi_mean", "msi_noise", *_JUDGES, "msi_minus_best_cam")
    columns = tuple(column for column in columns if any(column in row for row in rows))
    seeds = sorted({row["seed"] for row in rows})
    print(f"{noise}: means over the seeds {', '.join(map(str, seeds))} ± standard error over seeds")
    print(f"{'method':<12}" + "".join(f"{column:>20}" for column in columns))
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        cells = [[row[column] for row in of_method if column in row] for column in columns]
        print(f"{method:<12}" + "".join(f"{str(mean_with_error(c)) if c else '':>20}" for c in cells))
    for seed in seeds:
        row = next(row for row in rows if row["seed"] == seed)
        names = ("base_training_loss", "base_accuracy", "digit_on_black", "complement")
        print(f"seed {seed}: " + ", ".join(f"{name} {row[name]:.3f}" for name in names if name in row))
    cams = {m: [row["msi"] for row in rows if row["method"] == m] for m in tables.CAMS}
    means = {method: sum(values) / len(values) for method, values in cams.items() if values}
    if means:
        best = max(means, key=lambda method: means[method])
        answer = "yes" if means[best] < 0.2 else "no"
        print(f"is the MSI of every CAM below .2? {answer}: at most {means[best]:.3f}, {best}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--noise", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--images", type=int, default=1000, help="test scenes; more can be added")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=tuple(PASSES))
    parser.add_argument("--work", type=Path, default=Path(".msi-lax"), help="runs and rows")
    add_options(parser)
    parser.add_argument("--report", action="store_true", help="only the tables of the rows that are there")
    args = parser.parse_args(arguments)
    if not args.report:
        keep_buffers()
        for name in args.passes:
            for seed in args.seeds:
                for noise in args.noise:
                    folder = folder_of(args.work, noise, seed)
                    folder.mkdir(parents=True, exist_ok=True)
                    tables.train(table_of(noise), args.data, folder, "float32", seed)
                    score_pass(name, noise, seed, args)
    out = RESULTS if args.update else args.out
    report(args.work, out, args.seeds)
    print(f"tables: {out}" + ("" if args.update else "; --update: in results/"))


if __name__ == "__main__":
    main()
