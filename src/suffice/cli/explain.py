"""`suffice explain IMAGE…`: images in, explanations and one report out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Expect, Paths, check_weights, naming
from suffice.cli.command import number, parse_settings, whole_number, writable
from suffice.cli.explain_images import Job, Wanted
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options, words_of_model
from suffice.cli.options import (
    LARGEST_SEED,
    OCCLUSION_NAMES,
    BatchSize,
    Classes,
    Device,
    Images,
    Json,
    Model,
    Over,
    Rho,
    Seed,
    Target,
    Threshold,
    Traceback,
    Weights,
)
from suffice.cli.process import keep_stdout_for_results, print_any_name, without_collecting
from suffice.errors import InputError
from suffice.registry import METHODS

if TYPE_CHECKING:
    from suffice.explainers.method import Method

_DEFAULT_OUT = "suffice-out"
MOST_SIZES = 64  # of --curve


@taking_model_options()
def explain(
    images: Images,
    model: Model = None,
    weights: Weights = None,
    classes: Classes = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"How to search: {'; '.join(f'{name} ({what})' for name, what in METHODS.summaries().items())}. "
            "Several joined by commas are set side by side."
        ),
    ] = "causal",
    adapter: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The adapter of a method that needs one, as train-lax writes it for lax."),
    ] = None,
    occlusion: Annotated[
        str,
        typer.Option(help=f"How absence is shown: {OCCLUSION_NAMES}; several joined by commas mean all at once."),
    ] = "robust",
    kind: Annotated[
        str,
        typer.Option(
            help="sufficient; contrastive: without it the class is lost, too; complete: contrastive, and keeps all of "
            "the confidence."
        ),
    ] = "sufficient",
    keep_confidence: Annotated[
        float,
        typer.Option(
            parser=number, metavar="NUMBER", help="Share of the whole image's confidence to keep, 0 to 1 (γ)."
        ),
    ] = 0.5,
    minimal: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Search on until none of these can be left out: blocks of one grid; windows at every offset; pairs of "
            "blocks; subsets of a 4x4 grid. As many images as it takes. [default: blocks, within the method's budget]",
        ),
    ] = None,
    target: Target = None,
    threshold: Threshold = 0.0,
    seed: Seed = 0,
    certify: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="NUMBER",
            help="A confidence, such as 0.95: test the part in contexts that no search has seen, and search anew where "
            "it fails. [default: no test]",
        ),
    ] = None,
    rho: Rho = 0.9,
    over: Over = "colours",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, such as iterations=20."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help=f"Where the results go. [default: {_DEFAULT_OUT}; nothing with --json]"),
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(help="float32; or bfloat16, close answers asked again in float32: on a GPU, or a CPU with AMX."),
    ] = "float32",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    paths: Paths = "relative",
    expect: Expect = None,
    count: Annotated[
        int,
        typer.Option(
            parser=whole_number, metavar="INTEGER", help="Look for so many parts without a common pixel, at most."
        ),
    ] = 1,
    why_wrong: Annotated[
        bool,
        typer.Option(
            "--why-wrong", help="Of images that the model gets wrong: the part for its class, and that for the label."
        ),
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(help="With --why-wrong: the right class. [default: the number at the end of the image's name]"),
    ] = None,
    holds: Annotated[
        bool,
        typer.Option(
            "--holds-under", help="Test each part by shifts of a pixel, blur and JPEG: is it evidence, or an attack?"
        ),
    ] = False,
    other_model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Another model that the part is shown to, besides; implies --holds-under."),
    ] = None,
    curve: Annotated[
        int | None,
        typer.Option(
            parser=whole_number,
            metavar="INTEGER",
            help="Afterwards ask at so many sizes along the ranking what the model says, for the report's slider; 0: "
            "do not. [default: 8 with a report, else 0]",
        ),
    ] = None,
    paste: Annotated[
        bool | None,
        typer.Option(
            "--paste/--no-paste", help="Afterwards ask about the part on nine backgrounds. [default: with a report]"
        ),
    ] = None,
    circuit: Annotated[
        bool,
        typer.Option(
            "--circuit", help="Draw the part of the network that suffices in the report, too, as suffice circuit does."
        ),
    ] = False,
    show_traceback: Traceback = False,
) -> int:
    """Find a small part of each IMAGE that suffices for the model's decision, and write a report."""
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected --keep-confidence from 0 to 1; got {keep_confidence:g}")
    if seed > LARGEST_SEED:
        raise InputError(f"expected --seed from 0 to {LARGEST_SEED}; got {seed}")
    if certify is None and (rho, over) != (0.9, "colours"):
        raise InputError("expected --certify NUMBER with --rho and --over, which say what is certified; got none")
    _check_parts(count, why_wrong, label, target, certify, curve)
    methods = _methods(method, setting, count, why_wrong, certify)
    given = {} if adapter is None else {"adapter": adapter}
    settings = parse_settings(setting or [], given) | given
    if out is None and not as_json:
        out = _DEFAULT_OUT
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()

    with without_collecting():  # only now what takes a second to import
        from suffice.explainers import Certificate, check_settings
        from suffice.images import find_images
        from suffice.occlusion import make_occlusions

    # Everything that can be wrong with the call is said before the first image costs time.
    for each, own in _own_settings(methods, settings):
        _check_files(METHODS.find(each), own, adapter if len(methods) == 1 else own.get("adapter"))
        check_settings(each, keep_confidence, seed, own, kind, minimal)
    certificate = None if certify is None else Certificate(certify, rho, over).checked()
    found = find_images(images)
    keep_buffers()
    classifier = load(
        model,
        weights=weights,
        classes=classes,
        device=device,
        options=model_options.fields(),
        show_traceback=show_traceback,
        precision=precision,
        batch_size=batch_size,
    )
    check_weights(expect, classifier)
    if target is not None:
        classifier.class_index(target)
    make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)

    call = {
        "method": method, "occlusion": occlusion, "kind": kind, "keep_confidence": keep_confidence, "seed": seed,
        "threshold": threshold,
    }  # fmt: skip
    # What shapes a result but is not in it; the batch size does not.
    loading = words_of_model(model, weights, classes, target, device, model_options)
    loading |= {"minimal": minimal, "precision": precision}
    named = naming(paths, images, call, settings, loading, over, out)
    others = tuple(
        load(name, weights=None, classes=None, device=device, options={}, show_traceback=show_traceback)
        for name in other_model or ()
    )
    wanted = Wanted(
        count, why_wrong, label, holds or bool(others), others, tuple(other_model or ()), curve, paste,
        tuple(methods), circuit,
    )  # fmt: skip
    with writable(out) as folder:
        return Job(
            classifier=classifier, call=call, settings=settings, certificate=certificate, loading=loading,
            wanted=wanted, arguments=images, folder=folder, as_json=as_json, show_traceback=show_traceback,
            named=named, expect=expect,
        ).run(found)  # fmt: skip


def _check_parts(
    count: int, why_wrong: bool, label: str | None, target: str | None, certify: float | None, curve: int | None
) -> None:
    """Raises InputError for what cannot be asked for together."""
    if count < 1:
        raise InputError(f"expected --count of at least 1; got {count}")
    if curve is not None and not 0 <= curve <= MOST_SIZES:
        raise InputError(f"expected --curve from 0 to {MOST_SIZES}; got {curve}")
    if label is not None and not why_wrong:
        raise InputError(
            f"expected --why-wrong with --label, or --target for the class to explain; got --label {label}"
        )
    together = {"--count": count > 1, "--why-wrong": why_wrong, "--certify": certify is not None}
    asked = [option for option, given in together.items() if given]
    if len(asked) > 1:
        raise InputError(
            f"expected one of {', '.join(together)}, each of which decides which parts there are; "
            f"got {' and '.join(asked)}"
        )
    if why_wrong and target is not None:
        raise InputError(
            f"expected --label with --why-wrong, which explains the model's own choice; got --target {target}"
        )


def _own_settings(methods: list[str], settings: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method with its settings: of several each gets what it knows, as the adapter of one is no other's."""
    for method in methods:
        known = METHODS.find(method).settings.model_fields
        yield method, {name: each for name, each in settings.items() if len(methods) == 1 or name in known}


def _methods(method: str, settings: list[str] | None, count: int, why_wrong: bool, certify: float | None) -> list[str]:
    """The names that are joined by commas, each once; raises InputError for what does not go with several."""
    names = list(dict.fromkeys(name.strip() for name in method.split(",") if name.strip())) or [method]
    beside = {"--set": settings, "--count": count > 1, "--why-wrong": why_wrong, "--certify": certify is not None}
    if len(names) > 1 and (given := [option for option, asked in beside.items() if asked]):
        raise InputError(f"expected one --method with {' and '.join(given)}; got {', '.join(names)}")
    return names


def _check_files(method: Method, settings: Mapping[str, str], adapter: str | None) -> None:
    """Raises InputError for a file that a method needs and does not get, or gets and does not know."""
    if adapter is not None and "adapter" not in method.settings.model_fields:
        raise InputError(f"--adapter is of methods that have one, such as lax; got it with --method {method.name}")
    for name, command in method.needs.items():
        if not settings.get(name):
            option = "--adapter FILE" if name == "adapter" else f"--set {name}=FILE"
            raise InputError(
                f"--method {method.name} needs its {name}: {option}, as `suffice {command}` writes it; got none"
            )
