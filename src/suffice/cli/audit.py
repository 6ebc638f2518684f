"""`suffice audit DATA`: what a model relies on, on a whole data set, tested; and a verdict for a pipeline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.bench import Shown, check_engine, engine_of
from suffice.cli.command import named_folder, number, one_line, whole_number
from suffice.cli.loading import NONE_GIVEN, ModelOptions, taking_model_options
from suffice.cli.options import SOURCES, Address, BatchSize, Classes, Device, Engine, Model, RayWorkers, Seed, Weights
from suffice.cli.process import keep_stdout_for_results, print_any_name, say
from suffice.errors import InputError
from suffice.registry import DATASETS

FAILED = 3
"""Exit status where a condition of --fail-if holds."""


@taking_model_options("prompts")
def audit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder of classes, a CSV file of files and labels, a folder of photo_285.jpg, or "
            f"{', '.join(DATASETS)}.",
        ),
    ],
    model: Model = None,
    weights: Weights = None,
    classes: Classes = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where the objects are: COCO's JSON, a folder of VOC's XML, or a folder of masks as PNG. [default: "
            "what DATA knows]",
        ),
    ] = None,
    against_model: Annotated[
        str | None,
        typer.Option(help=f"A second model on the same images, such as before fine-tuning: {SOURCES}, …"),
    ] = None,
    against_weights: Annotated[
        str | None, typer.Option(help="Its weights; with these alone the second model is MODEL with other weights.")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where all goes, and where a run goes on. [default: audit-out/DATA]"),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(
            parser=whole_number, metavar="INTEGER", help="Images of each class that are explained. [default: 100]"
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help='Such as "shortcuts > 0": exit status 3 where it holds; may be repeated.'
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="train, test or all. [default: test of a name, all of a folder]")
    ] = None,
    data_folder: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Where the data sets lie. [default: $SUFFICE_DATA, or data]"),
    ] = None,
    keep_confidence: Annotated[
        float, typer.Option(parser=number, metavar="NUMBER", help="γ: share of the confidence that a part has to keep.")
    ] = 0.5,
    block: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="INTEGER",
            help="Pixels; side of what the search leaves out. [default: a fourteenth of the image]",
        ),
    ] = None,
    seed: Seed = 0,
    engine: Engine = "local",
    workers: RayWorkers = 2,
    address: Address = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What was found as one JSON object on stdout, nothing else.")
    ] = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Print all of an error that stops the whole run.")
    ] = False,
) -> int:
    """Find out what a model relies on, on a whole data set: evidence that recurs, tested; mistakes; what is fragile."""
    check_engine(engine)
    if seed < 0:
        raise InputError(f"expected --seed of at least 0; got {seed}")
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()
    from suffice.audit import run_audit
    from suffice.audit.boxes import read_boxes
    from suffice.audit.conditions import Condition, held, numbers_of, said_of
    from suffice.report.audit import PAGE, check_folder, write_audit

    conditions = [Condition.read(text) for text in fail_if or ()]
    folder = named_folder(out if out is not None else os.path.join("audit-out", Path(data).stem), data)
    check_folder(str(folder))
    if boxes is not None:
        read_boxes(boxes)  # what is wrong with them is said before the model costs time
    first = _model(model, weights, classes, device, batch_size, model_options)
    second = None
    if against_model is not None or against_weights is not None:
        second = _model(against_model or model, against_weights, classes, device, batch_size, model_options)
        second = second.model_copy(update={"label": _told_apart(first, second)})
    if second is None:
        for condition in conditions:
            condition.check_one_model()
    settings = _settings(data, data_folder, split, first, second, boxes, per_class, keep_confidence, seed, block)
    keep_buffers()
    with one_line(f"could not audit {data}", show_traceback), Shown() as shown:
        chosen = engine_of(engine, workers, address)
        found = run_audit(settings, folder, chosen, tell=shown.tell, progress=shown.progress)
        try:
            verdicts = held(conditions, numbers_of(found))
        except InputError:  # the page is worth having all the same
            write_audit(found)
            raise
        content = write_audit(found, verdicts)
        for condition, value, holds in verdicts:
            shown.tell(said_of(condition, value, holds, found))
    if as_json:
        say(json.dumps({name: value for name, value in content.items() if name != "images"}, ensure_ascii=False))
    else:
        say(_words(found, folder / PAGE))
    if any(holds for *_, holds in verdicts):
        return FAILED
    return 1 if found.errors else 0


def _model(
    model: str | None,
    weights: str | None,
    classes: str | None,
    device: str,
    batch_size: int | None,
    options: ModelOptions,
) -> Any:
    from suffice.benchmark.specs import ModelSpec

    fields = options.fields()
    return ModelSpec(model=model, weights=weights, class_names=classes, device=device, batch_size=batch_size, **fields)


def _told_apart(first: Any, second: Any) -> str:
    """What the second model is called, other than the first."""
    from suffice.benchmark.specs import model_label

    name = model_label(second)
    return name if name != model_label(first) else f"{name} ({Path(second.weights or 'second').name})"


def _settings(
    data: str,
    root: str | None,
    split: str | None,
    first: Any,
    second: Any,
    boxes: str | None,
    per_class: int | None,
    keep_confidence: float,
    seed: int,
    block: int | None,
) -> Any:
    from suffice.audit.settings import PER_CLASS, AuditSettings
    from suffice.benchmark.specs import DatasetSpec

    return AuditSettings(
        data=DatasetSpec(source=data, root=root, split=split),
        model=first,
        against=second,
        boxes=boxes,
        per_class=PER_CLASS if per_class is None else per_class,
        keep_confidence=keep_confidence,
        seed=seed,
        block=block,
    )


def _words(found: Any, page: Path) -> str:
    """What is said on stdout: the shortcuts, and where the page is."""
    lines = [
        f"shortcut: {each.target_name}, {each.where}: {each.of_members}; pasted "
        f"elsewhere the class comes in {each.brings.counts} images, hidden it goes in {each.loses} "
        f"(q = {each.q_value:.2g})"
        for each in found.shortcuts
    ]
    count = len(found.evidence)
    if found.undecided:
        lines = [found.undecided]
    lines = lines or [f"no shortcut was shown among {count} cluster{'' if count == 1 else 's'} of recurring evidence"]
    if (nothing := found.fragile.no_pixel).count:
        lines.append(
            f"no pixel is needed for {nothing.counts} images: the model gives their class to nothing, too, so that no "
            "part of them is evidence, or is certified"
        )
    return "\n".join([*lines, f"page: {page}"])
