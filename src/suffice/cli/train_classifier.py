"""`suffice train-classifier DATASET`: a base model for a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.command import named_folder, one_line, parse_labels, parse_settings, whole_number
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options
from suffice.cli.options import (
    SOURCES,
    Accelerator,
    Classes,
    Data,
    Dataset,
    Devices,
    Labels,
    Nodes,
    Seed,
    Strategy,
    Traceback,
    TrainingImages,
    Workers,
)
from suffice.cli.process import complain, keep_stdout_for_results, say
from suffice.errors import InputError

WEIGHTS = "classifier.safetensors"


@taking_model_options("outputs", "layout", "prompts")
def train_classifier(
    dataset: Dataset,
    data: Data = None,
    model: Annotated[
        str | None,
        typer.Option(
            help=f"{SOURCES} or module.path:function. [default: the ResNet-18 made for DATASET, else "
            "torchvision:resnet18]"
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="A file of weights to start from. [default: random]")] = None,
    classes: Classes = None,
    label: Labels = None,
    images: TrainingImages = None,
    out: Annotated[
        str, typer.Option(metavar="DIR", help="The run: its checkpoint, history and weights.")
    ] = "classifier",
    preset: Annotated[str, typer.Option(help="default, paper (500 epochs), quick or robust.")] = "default",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="epochs, batch_size, optimizer, learning_rate, schedule, stop_below, flip, shift, …",
        ),
    ] = None,
    model_options: ModelOptions = NONE_GIVEN,
    seed: Seed = 0,
    test_images: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="INTEGER", help="Images that the accuracy is of. [default: all]"),
    ] = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    workers: Workers = 0,
    show_traceback: Traceback = False,
) -> int:
    """Train a classifier on DATASET; called again, a run that was stopped goes on at its last checkpoint."""
    keep_stdout_for_results()
    from suffice.datasets import images_said, load_dataset, random_subset
    from suffice.datasets.labels import labelled_for
    from suffice.folders import OutputFolder
    from suffice.naming import Naming
    from suffice.provenance import made_by
    from suffice.training.classifier import PRESETS, ClassifierTask, ClassifierTraining, accuracy
    from suffice.training.examples import Examples
    from suffice.training.run import Machine, fit, make_settings

    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
    given: dict[str, Any] = {**parse_settings(setting or [], ["seed"]), "seed": seed}
    settings = make_settings(ClassifierTraining, PRESETS[preset], given)
    labels = parse_labels(label or [])
    hardware = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "strategy": strategy}
    machine = make_settings(Machine, hardware, {"workers": workers})
    folder = named_folder(out, dataset)
    training = random_subset(load_dataset(dataset, data, "train", seed=seed), images, seed)
    test = random_subset(load_dataset(dataset, data, "test", seed=seed), test_images)
    keep_buffers()
    model = model or default_model(dataset, "torchvision:resnet18")
    with one_line(f"could not train {model} on {dataset}", show_traceback):
        options = model_options.fields()
        names = _names(model, weights, classes, training.class_names, options)
        classifier = load(model, weights=weights or "random", classes=names, options=options, show_traceback=None)
        training, test = (
            labelled_for(classifier, each, labels, instead="without --weights its classes are learnt anew")
            for each in (training, test)
        )
        task = ClassifierTask(classifier, training, settings)
        results = OutputFolder(folder, "train-classifier")
        results.check([WEIGHTS])
        made = made_by(classifier)
        what = {"task": "classifier", "dataset": dataset, "model": model, "weights": weights, **options}
        what |= {"labels": labels} if labels else {}
        for split, part in (("train", training), ("test", test)):
            complain(images_said(f"{dataset} (split {split})", len(part), part.left_out, part.other_files))
        if not fit(task, Examples(training, classifier, complain), machine, folder, what, complain, made):
            return 0  # another process writes what comes out
        from safetensors.torch import save

        result = {
            "dataset": dataset,
            "model": model,
            "weights": str(folder / WEIGHTS),
            "images": len(training),
            "steps": task.steps_taken,
            "test_images": len(test),
            "test_accuracy": accuracy(classifier, test),
            "settings": settings.model_dump(),
        }
        state = {name: tensor.contiguous() for name, tensor in task.network.state_dict().items()}
        # By themselves the weights then name what they tell apart, and not where they lie: the same weights are the
        # same file in every folder. In one text, as the order of several would vary.
        named = Naming([dataset, data, model, weights])({name: result[name] for name in result if name != "weights"})
        about = json.dumps({**named, "class_names": training.class_names})
        results.write({WEIGHTS: save(state, {"suffice": about})})
    say(json.dumps(result))
    return 0


def _names(
    model: str | None, weights: str | None, classes: str | None, of_dataset: Sequence[str], options: dict[str, Any]
) -> str | Sequence[str]:
    """The model's class names: those given, those that its weights were trained for, or else the data set's."""
    from suffice.models import load_classifier

    if classes is not None:
        return classes
    known = load_classifier(model, weights=weights, device="cpu", **options).class_names if weights else None
    return known or of_dataset


def default_model(dataset: str, other: str | None) -> str | None:
    """The model that is taken for a data set where none is named: the one made for it, or another one."""
    from suffice.datasets import DATASETS

    return (DATASETS[dataset].model if dataset in DATASETS else "") or other
