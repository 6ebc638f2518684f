"""Options that mean the same in every command that has them."""

from __future__ import annotations

from typing import Annotated

import typer

from suffice.cli.command import number, whole_number
from suffice.errors import InputError
from suffice.registry import DATASETS, MODELS, OCCLUSIONS


def _at_least_one(batch_size: int | None) -> int | None:
    if batch_size is not None and batch_size < 1:
        raise InputError(f"expected --batch-size of at least 1; got {batch_size}")
    return batch_size


LARGEST_SEED = 2**63 - 1  # that torch takes

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGE…", help="Files, folders of images, or sample:cat and the like.")
]

SOURCES = ", ".join(MODELS.usages())  # in help
OCCLUSION_NAMES = ", ".join(OCCLUSIONS.usages())

# A run of the benchmark's.
Engine = Annotated[str, typer.Option(help="local (this process) or ray.")]
RayWorkers = Annotated[
    int, typer.Option(parser=whole_number, metavar="INTEGER", help="Of ray: processes that hold a model each.")
]
Address = Annotated[
    str | None, typer.Option(help="Of ray: a cluster that is there, such as auto. [default: one on this machine]")
]

# The model.
Model = Annotated[
    str | None,
    typer.Option(help=f"{SOURCES}, module.path:function or FILE.onnx. [default: efficientnet-lite0]"),
]
Weights = Annotated[str | None, typer.Option(help="A .safetensors, .pth or .pt file, 'random', or 'download'.")]
Classes = Annotated[
    str | None, typer.Option(metavar="FILE", help="Class names: one a line, JSON, CSV, …; or imagenet-1k.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        parser=whole_number, callback=_at_least_one, metavar="INTEGER", help="Images in one pass. [default: what fits]"
    ),
]
# What is done to an image before the model sees it; `loading.py` reads the texts.
InputSize = Annotated[
    str | None,
    typer.Option(metavar="HxW", help="The model's input in pixels, or one number for both. [default: its own]"),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBERS", help="Of pixels in [0, 1], joined by commas, or one for all channels. [default: its own]"
    ),
]
Std = Annotated[str | None, typer.Option(metavar="NUMBERS", help="Likewise, what is divided by. [default: its own]")]
Channels = Annotated[
    int | None, typer.Option(parser=whole_number, metavar="INTEGER", help="Of an image, 1 or 3. [default: its own]")
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE",
        help="Share of the resized image that the crop in the middle keeps, such as 0.875; or squash, without a crop. "
        "[default: its own]",
    ),
]
Interpolation = Annotated[
    str | None, typer.Option(help="Of the resize: nearest, bilinear, bicubic or lanczos. [default: its own]")
]

Outputs = Annotated[
    str | None,
    typer.Option(
        help="What the model returns: logits, probabilities, labels (of which several may be present), or binary (one "
        "output). [default: found out]"
    ),
]

Layout = Annotated[
    str | None,
    typer.Option(
        help="In which the model takes images: channels-first or channels-last. [default: first, or what a function "
        "takes]"
    ),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT…", help="A text for each class, of a model that compares images with texts, such as hf:… of CLIP."
    ),
]

# The question.
Target = Annotated[
    str | None, typer.Option(help="Class number or name; #10 is a number in any case. [default: the model's choice]")
]
Threshold = Annotated[
    float, typer.Option(parser=number, metavar="NUMBER", help="τ of deactivate, from 0 up to below 1.")
]
Seed = Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Seed of every random draw.")]

# The guarantee.
Over = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Contexts of the test: colours, images:FOLDER (photos named like photo_285.jpg), noise, restrictions.",
    ),
]
Rho = Annotated[
    float,
    typer.Option(parser=number, metavar="NUMBER", help="Share of these contexts in which the class has to stay (ρ)."),
]

# The answer.
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Print all of an error that the model's own code raises.")]

# Training.
Dataset = Annotated[
    str,
    typer.Argument(metavar="DATASET", help=f"{', '.join(DATASETS)}, or a folder of classes."),
]
Data = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where the data sets lie. [default: $SUFFICE_DATA, or data]")
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        help=f"{SOURCES} or module.path:function. [default: the one made for DATASET, else the embedded model]"
    ),
]
BaseWeights = Annotated[
    str | None, typer.Option(help="The model's weights, such as train-classifier writes; left as they are.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME=CLASS",
        help="A class of DATASET and the model's, by number or name. [default: by name]",
    ),
]
TrainingImages = Annotated[
    int | None,
    typer.Option(parser=whole_number, metavar="INTEGER", help="Train on so many, drawn by the seed. [default: all]"),
]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, auto …, as of Lightning's Trainer.")]
Devices = Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Processes on a node.")]
Nodes = Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Nodes of a cluster.")]
Strategy = Annotated[str, typer.Option(help="auto, ddp, …, as of Lightning's Trainer.")]
Workers = Annotated[int, typer.Option(parser=whole_number, metavar="INTEGER", help="Processes that read images.")]
