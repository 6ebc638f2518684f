"""`suffice train-lax DATASET`: an adapter that explains a model in the pass that classifies."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.command import named_folder, one_line, parse_labels, parse_settings, whole_number
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options
from suffice.cli.options import (
    Accelerator,
    BaseModel,
    BaseWeights,
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
from suffice.cli.train_classifier import default_model
from suffice.errors import InputError

ADAPTER, CARD = "adapter.safetensors", "adapter.card.json"


@taking_model_options("layout", "prompts")
def train_lax(
    dataset: Dataset,
    data: Data = None,
    model: BaseModel = None,
    weights: BaseWeights = None,
    classes: Classes = None,
    label: Labels = None,
    images: TrainingImages = None,
    test_images: Annotated[
        int,
        typer.Option(parser=whole_number, metavar="INTEGER", help="Images that the card's MSI is of; 0 for none."),
    ] = 50,
    out: Annotated[str, typer.Option(metavar="DIR", help="The run: its checkpoint, history and adapter.")] = "lax",
    preset: Annotated[
        str, typer.Option(help="default, or paper-synthetic-mnist, paper-cub200, paper-cifar10.")
    ] = "default",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="epochs, batch_size, design, objective, area_weight, …"),
    ] = None,
    model_options: ModelOptions = NONE_GIVEN,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    strategy: Strategy = "auto",
    workers: Workers = 0,
    show_traceback: Traceback = False,
) -> int:
    """Train a LAX adapter on DATASET; called again, a run that was stopped goes on at its last checkpoint."""
    keep_stdout_for_results()
    from suffice.datasets import DATASETS, images_said, load_dataset, random_subset
    from suffice.datasets.labels import labelled_for
    from suffice.explainers.lax import card_in_words
    from suffice.folders import OutputFolder
    from suffice.provenance import made_by
    from suffice.training.adapter import PRESETS, LaxTask, LaxTraining
    from suffice.training.card import with_card
    from suffice.training.examples import Examples
    from suffice.training.run import Machine, fit, make_settings

    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}; expected {', '.join(PRESETS)}")
    given: dict[str, Any] = {**parse_settings(setting or [], ["seed"]), "seed": seed}
    settings = make_settings(LaxTraining, PRESETS[preset], given)
    labels = parse_labels(label or [])
    hardware = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "strategy": strategy}
    machine = make_settings(Machine, hardware, {"workers": workers})
    folder = named_folder(out, dataset)
    training = random_subset(load_dataset(dataset, data, "train", seed=seed), images, seed)
    tested = test_images != 0 and (dataset not in DATASETS or "test" in DATASETS[dataset].splits)
    test = random_subset(load_dataset(dataset, data, "test", seed=seed), test_images, seed) if tested else None
    keep_buffers()
    model = model or default_model(dataset, None)
    with one_line(f"could not train LAX for {model or 'the embedded model'} on {dataset}", show_traceback):
        options = model_options.fields()
        classifier = load(model, weights=weights, classes=classes, options=options, show_traceback=None)
        task = LaxTask(classifier, settings)
        OutputFolder(folder, "train-lax").check([ADAPTER, CARD])
        if settings.labels == "true":
            same = model == default_model(dataset, None)
            training = labelled_for(classifier, training, labels, same=same)
            test = None if test is None else labelled_for(classifier, test, labels, same=same)
        made = made_by(classifier)
        what = {"task": "lax", "dataset": dataset, "backbone": dict(task.adapter.backbone), **options}
        what |= {"labels": labels} if labels else {}
        complain(images_said(f"{dataset} (split train)", len(training), training.left_out, training.other_files))
        if not fit(task, Examples(training, classifier, complain), machine, folder, what, complain, made):
            return 0  # another process writes what comes out
        passes = classifier.forward_passes
        adapter = with_card(task.finished(), classifier, training, test)
        adapter.save(folder / ADAPTER)
        complain(card_in_words(adapter.card))
    result = {
        "dataset": dataset,
        "model": classifier.name,
        "adapter": str(folder / ADAPTER),
        "images": len(training),
        "steps": task.steps_taken,
        "forward_passes": passes,
        "card": dict(adapter.card),
        "settings": settings.model_dump(),
    }
    say(json.dumps(result))
    return 0
