"""`suffice train-lax DATASET`: an adapter that explains a model in the pass that classifies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from suffice.cli.command import one_line, parse_settings, whole_number
from suffice.cli.process import keep_buffers, say
from suffice.cli.train_classifier import default_model
from suffice.errors import InputError

ADAPTER = "adapter.safetensors"


def train_lax(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="synthetic-mnist, cifar10, cub200-20, …, or a folder of classes.")
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the data sets lie. [default: $SUFFICE_DATA, or data]")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME, torchvision:NAME or module.path:function. [default: the ResNet-18 made for DATASET, else "
            "the embedded model]"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="The model's weights, such as train-classifier writes; left as they are.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The model's class names, one a line. [default: those of DATASET]"),
    ] = None,
    images: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="INTEGER", help="Train on so many, drawn by the seed. [default: all]"
        ),
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="The run: its checkpoint, history and adapter.")] = "lax",
    preset: Annotated[
        str, typer.Option(help="default, or paper-synthetic-mnist, paper-cub200, paper-cifar10.")
    ] = "default",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="epochs, batch_size, design, objective, area_weight, …"),
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
    """Train a LAX adapter on DATASET; called again, a run that was stopped goes on at its last checkpoint."""
    from suffice.datasets import load_dataset, random_subset
    from suffice.models import load_classifier
    from suffice.training.adapter import PRESETS, LaxTask, LaxTraining
    from suffice.training.run import Examples, Machine, fit, make_settings, to_stderr

    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
    given: dict[str, Any] = {**parse_settings(setting or []), "seed": seed}
    settings = make_settings(LaxTraining, PRESETS[preset], given)
    hardware = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "strategy": strategy}
    machine = make_settings(Machine, hardware, {"workers": workers})
    training = random_subset(load_dataset(dataset, data, "train", seed=seed), images, seed)
    keep_buffers()
    model = model or default_model(dataset, None)
    with one_line(f"could not train LAX for {model or 'the embedded model'} on {dataset}", show_traceback):
        # The embedded models bring their own names.
        names = classes or (training.class_names if model and weights else None)
        classifier = load_classifier(model, weights=weights, class_names=names, device="cpu")
        task = LaxTask(classifier, settings)  # which has asked the model, so that its number of classes is known
        if (
            settings.labels == "true"
            and classifier.num_classes is not None
            and max(training.labels) >= classifier.num_classes
        ):
            raise InputError(
                f"expected labels of {dataset} below {classifier.num_classes}, the classes of {classifier.name}; got "
                f"{max(training.labels)}: --set labels=predicted takes the model's own choice instead"
            )
        tell, folder = to_stderr("suffice"), Path(out)
        what = {"task": "lax", "dataset": dataset, "backbone": dict(task.adapter.backbone)}
        if not fit(task, Examples(training, classifier, tell), machine, folder, what, tell):
            return 0  # another process writes what comes out
        task.finished().save(folder / ADAPTER)
    result = {
        "dataset": dataset,
        "model": classifier.name,
        "adapter": str(folder / ADAPTER),
        "images": len(training),
        "steps": task.steps,
        "forward_passes": classifier.forward_passes,
        "settings": settings.model_dump(),
    }
    say(json.dumps(result))
    return 0
