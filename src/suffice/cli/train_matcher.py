"""`suffice train-matcher DATASET`: one network that proposes masks for activation matching in one pass."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.command import named_folder, one_line, parse_settings
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options
from suffice.cli.options import (
    Accelerator,
    BaseModel,
    BaseWeights,
    Data,
    Dataset,
    Devices,
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

MATCHER = "matcher.safetensors"


@taking_model_options("layout", "prompts")
def train_matcher(
    dataset: Dataset,
    data: Data = None,
    model: BaseModel = None,
    weights: BaseWeights = None,
    images: TrainingImages = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="The run: its checkpoint, history and network.")] = "matcher",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="epochs, batch_size, width, least_area, largest_area, …"),
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
    """Train a network that proposes masks; called again, a run that was stopped goes on at its last checkpoint.

    `suffice explain --method activation-matching --set network=FILE` starts from what it proposes.
    """
    keep_stdout_for_results()
    from suffice.datasets import images_said, load_dataset, random_subset
    from suffice.folders import OutputFolder
    from suffice.provenance import made_by
    from suffice.training.examples import Examples
    from suffice.training.matcher import PRESETS, MatcherTask, MatcherTraining
    from suffice.training.run import Machine, fit, make_settings

    given: dict[str, Any] = {**parse_settings(setting or [], ["seed"]), "seed": seed}
    settings = make_settings(MatcherTraining, PRESETS["default"], given)
    if settings.least_area > settings.largest_area:
        raise InputError(
            f"expected least_area of at most largest_area; got {settings.least_area} and {settings.largest_area}"
        )
    hardware = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "strategy": strategy}
    machine = make_settings(Machine, hardware, {"workers": workers})
    folder = named_folder(out, dataset)
    training = random_subset(load_dataset(dataset, data, "train", seed=seed), images, seed)
    keep_buffers()
    model = model or default_model(dataset, None)
    with one_line(f"could not train a matcher for {model or 'the embedded model'} on {dataset}", show_traceback):
        options = model_options.fields()
        classifier = load(model, weights=weights, classes=None, options=options, show_traceback=None)
        task = MatcherTask(classifier, settings)
        results = OutputFolder(folder, "train-matcher")
        results.check([MATCHER])
        made = made_by(classifier)
        what = {
            "task": "matcher", "dataset": dataset, "model": classifier.name, "weights": classifier.weights, **options
        }  # fmt: skip
        try:
            complain(images_said(f"{dataset} (split train)", len(training), training.left_out, training.other_files))
            if not fit(task, Examples(training, classifier, complain), machine, folder, what, complain, made):
                return 0  # another process writes what comes out
        finally:
            task.leave()
        results.write({MATCHER: task.finished()})
    result = {
        "dataset": dataset,
        "model": classifier.name,
        "network": str(folder / MATCHER),
        "images": len(training),
        "steps": task.steps_taken,
        "forward_passes": classifier.forward_passes,
        "settings": settings.model_dump(),
    }
    say(json.dumps(result))
    return 0
