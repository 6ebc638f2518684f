"""`suffice train-matcher DATASET`: one network that proposes masks for activation matching in one pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from suffice.cli.command import one_line, parse_settings, whole_number
from suffice.cli.process import keep_buffers, say
from suffice.cli.train_classifier import default_model
from suffice.errors import InputError

MATCHER = "matcher.safetensors"


def train_matcher(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="mnist, cifar10, cub200-20, …, or a folder of classes.")
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the data sets lie. [default: $SUFFICE_DATA, or data]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME, torchvision:NAME or module.path:function. [default: the model made for DATASET, else the "
            "embedded model]"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The model's weights, such as train-classifier writes; left as they are.")
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="INTEGER", help="Train on so many, drawn by the seed. [default: all]"
        ),
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="The run: its checkpoint, history and network.")] = "matcher",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="epochs, batch_size, width, least_area, largest_area, …"),
    ] = None,
    seed: Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Seed of every random draw.")] = 0,
    accelerator: Annotated[str, typer.Option(help="cpu, gpu, auto …, as of Lightning's Trainer.")] = "auto",
    devices: Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Processes on a node.")] = 1,
    nodes: Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Nodes of a cluster.")] = 1,
    strategy: Annotated[str, typer.Option(help="auto, ddp, …, as of Lightning's Trainer.")] = "auto",
    workers: Annotated[
        int, typer.Option(parser=whole_number, metavar="INTEGER", help="Processes that read images.")
    ] = 0,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Print all of an error that the model's own code raises.")
    ] = False,
) -> int:
    """Train a network that proposes masks; called again, a run that was stopped goes on at its last checkpoint.

    `suffice explain --method activation-matching --set network=FILE` starts from what it proposes.
    """
    from suffice.datasets import load_dataset, random_subset
    from suffice.models import load_classifier
    from suffice.training.matcher import PRESETS, MatcherTask, MatcherTraining
    from suffice.training.run import Examples, Machine, fit, make_settings, to_stderr, write_whole

    given: dict[str, Any] = {**parse_settings(setting or []), "seed": seed}
    settings = make_settings(MatcherTraining, PRESETS["default"], given)
    if settings.least_area > settings.largest_area:
        raise InputError(
            f"expected least_area of at most largest_area; got {settings.least_area} and {settings.largest_area}"
        )
    hardware = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "strategy": strategy}
    machine = make_settings(Machine, hardware, {"workers": workers})
    training = random_subset(load_dataset(dataset, data, "train", seed=seed), images, seed)
    keep_buffers()
    model = model or default_model(dataset, None)
    with one_line(f"could not train a matcher for {model or 'the embedded model'} on {dataset}", show_traceback):
        classifier = load_classifier(model, weights=weights, device="cpu")
        task = MatcherTask(classifier, settings)
        tell, folder = to_stderr("suffice"), Path(out)
        what = {"task": "matcher", "dataset": dataset, "model": classifier.name, "weights": classifier.weights}
        try:
            if not fit(task, Examples(training, classifier, tell), machine, folder, what, tell):
                return 0  # another process writes what comes out
        finally:
            task.leave()
        write_whole(folder / MATCHER, task.finished())
    result = {
        "dataset": dataset,
        "model": classifier.name,
        "network": str(folder / MATCHER),
        "images": len(training),
        "steps": task.steps,
        "forward_passes": classifier.forward_passes,
        "settings": settings.model_dump(),
    }
    say(json.dumps(result))
    return 0
