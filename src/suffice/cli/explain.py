"""`suffice explain IMAGE…`: images in, explanations and one report out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Again, Expect, Paths, again, check_photo, check_weights, expected_of, naming
from suffice.cli.command import (
    COUNTEREXAMPLE,
    counterexample_files,
    explain_each,
    folder_names,
    number,
    parse_settings,
    writable,
)
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
from suffice.cli.process import keep_stdout_for_results, print_any_name, printable, say
from suffice.errors import InputError
from suffice.progress import Progress
from suffice.registry import METHODS

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.classifier import Classifier
    from suffice.explainers import Certificate
    from suffice.explainers.method import Method
    from suffice.explanation import Explanation
    from suffice.images import Photo
    from suffice.naming import Naming
    from suffice.report.page import ExplanationEntry

_DEFAULT_OUT = "suffice-out"
_REPORT, _OVERLAY = "report.html", "overlay.png"


@taking_model_options()
def explain(
    images: Images,
    model: Model = None,
    weights: Weights = None,
    classes: Classes = None,
    method: Annotated[
        str,
        typer.Option(
            help=f"How to search: {'; '.join(f'{name} ({what})' for name, what in METHODS.summaries().items())}."
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
    show_traceback: Traceback = False,
) -> int:
    """Find the smallest part of each IMAGE that suffices for the model's decision, and write a report."""
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected --keep-confidence from 0 to 1; got {keep_confidence:g}")
    if seed > LARGEST_SEED:
        raise InputError(f"expected --seed from 0 to {LARGEST_SEED}; got {seed}")
    if certify is None and (rho, over) != (0.9, "colours"):
        raise InputError("expected --certify NUMBER with --rho and --over, which say what is certified; got none")
    given = {} if adapter is None else {"adapter": adapter}
    settings = parse_settings(setting or [], given) | given
    if out is None and not as_json:
        out = _DEFAULT_OUT
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()

    # Only now what takes a second to import.
    from suffice.explainers import Certificate, check_settings
    from suffice.images import find_images
    from suffice.occlusion import make_occlusions

    # Everything that can be wrong with the call is said before the first image costs time.
    _check_files(METHODS.find(method), settings, adapter)
    check_settings(method, keep_confidence, seed, settings, kind, minimal)
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
        "method": method,
        "occlusion": occlusion,
        "kind": kind,
        "keep_confidence": keep_confidence,
        "seed": seed,
        "threshold": threshold,
    }
    # What shapes a result but is not in it; the batch size does not.
    loading = words_of_model(model, weights, classes, target, device, model_options)
    loading |= {"minimal": minimal, "precision": precision}
    named = naming(paths, images, call, settings, loading, over, out)
    with writable(out) as folder:
        job = _Job(
            classifier, call, settings, certificate, loading, images, folder, as_json, show_traceback, named, expect
        )
        return job.run(found)


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


@dataclasses.dataclass
class _Job:
    """The images of one call, one after the other."""

    classifier: Classifier
    call: dict[str, Any]
    settings: dict[str, Any]
    certificate: Certificate | None
    loading: dict[str, Any]
    arguments: list[str]
    folder: Path | None
    as_json: bool
    show_traceback: bool
    named: Naming
    expect: list[str] | None
    entries: list[ExplanationEntry] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def run(self, paths: list[str]) -> int:
        """Explain each path; returns the exit status."""
        from suffice.folders import RESERVED, OutputFolder

        names = folder_names(paths, RESERVED)
        if self.folder is not None:
            OutputFolder(self.folder, "explain").check([_REPORT])

        def one(path: str, name: str, progress: Progress) -> str:
            explanation, directory = self._explain(path, name, len(paths) > 1, progress)
            return _as_json(explanation, directory) if self.as_json else _as_text(explanation)

        return explain_each(
            paths,
            names,
            one,
            self._write_report,
            self.failures,
            complaint=lambda path, error: error,
            what=lambda path: f"could not explain {path} with {self.classifier.name}",
            show_traceback=self.show_traceback,
        )

    def _explain(self, path: str, name: str, several: bool, progress: Progress) -> tuple[Explanation, Path | None]:
        from suffice.folders import OutputFolder
        from suffice.images import frame_of, read_photo
        from suffice.saved import FILES

        if self.folder is not None:
            maybe = () if self.certificate is None else COUNTEREXAMPLE
            OutputFolder(self.folder / name, "explain").check((*FILES, _OVERLAY, *maybe), only=True, below=True)
        photo = read_photo(path)
        check_photo(self.expect, photo)
        explanation, counterexample = self._found(photo, path, progress)
        directory = None if self.folder is None else self.folder / name
        # One of several is made again beside the others, so that the report of them all stays.
        out = self.folder if self.folder is None or not several else self.folder / "again" / name
        how = self._again([path], out, directory, explanation)
        explanation = dataclasses.replace(explanation, made=explanation.made | {"again": how.as_dict()})
        if self.folder is None or directory is None:
            return explanation, None
        from suffice.report.figures import overlay, png_bytes
        from suffice.report.page import make_entry

        frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
        written = self.named.of(explanation)
        extra = {_OVERLAY: png_bytes(overlay(explanation, photo, frame))}
        if counterexample is not None:
            extra |= counterexample_files(counterexample)
        written.save(directory, extra)
        how = self._again([path], out, self.folder, explanation)
        self.entries.append(make_entry(written, photo, frame, directory=name, command=how.line, where=how.where))
        return explanation, directory

    def _found(self, photo: Photo, path: str, progress: Progress) -> tuple[Explanation, Tensor | None]:
        """The explanation, and an image with its part in it that loses the class, where a test met one."""
        from suffice.explainers import with_certificate
        from suffice.question import Question

        call = {name: value for name, value in self.call.items() if name != "method"}
        question = Question(self.classifier, photo, self.loading["target"], name=path, **call)
        method, settings = self.call["method"], self.settings | {"minimal": self.loading["minimal"]}
        if self.certificate is None:
            return question.explain(method, progress=progress, **settings), None
        explanation, guarantee = with_certificate(question, method, settings, self.certificate, progress)
        if self.folder is None or guarantee.counterexample is None:
            return explanation, None
        named = guarantee.to_dict(COUNTEREXAMPLE[0])
        return dataclasses.replace(explanation, guarantee=named), guarantee.counterexample

    def _write_report(self, last: bool) -> None:
        if self.folder is None or not (self.entries or self.failures):
            return
        from suffice.folders import OutputFolder
        from suffice.report.page import render_report

        how = self._again(self.arguments, self.folder, self.folder)
        failures = self.named(self.failures)
        page = render_report(self.entries, command=how.line, where=how.where, failures=failures)
        OutputFolder(self.folder, "explain").write({_REPORT: page})
        if last and not self.as_json:
            say(f"report: {self.folder / _REPORT}")

    def _again(
        self, images: list[str], out: Path | None, beside: Path | None, explanation: Explanation | None = None
    ) -> Again:
        """The command line that makes a result again; with an explanation, every setting of it is spelt out."""
        call, settings, expected = dict(self.call), dict(self.settings), list[str]()
        if explanation is not None:
            call |= {name: getattr(explanation, name) for name in call}
            settings |= explanation.settings
            expected = expected_of(explanation.made)
        options = self.loading | {name.replace("_", "-"): value for name, value in call.items()}
        if self.certificate is not None:
            wanted = self.certificate
            options |= {"certify": wanted.confidence, "rho": wanted.rho, "over": wanted.over}
        options["set"] = [f"{name}={value}" for name, value in settings.items()]
        options["expect"] = expected
        return again("explain", options, images, self.named, out=out, beside=beside)


def _as_json(explanation: Explanation, directory: Path | None) -> str:
    files = explanation.map_files()
    where = {name: None if directory is None or file is None else str(directory / file) for name, file in files.items()}
    return json.dumps(explanation.with_made() | where, ensure_ascii=False, allow_nan=False)


def _as_text(explanation: Explanation) -> str:
    from suffice.guarantees import in_words

    backward = f"{explanation.backward_passes} backward, " if explanation.backward_passes else ""
    lines = [
        f"{printable(explanation.image)}: {printable(explanation.target_name)} (class {explanation.target}), "
        f"confidence {explanation.confidence:.2f}",
        f"  {_verdict(explanation)}",
        *([f"  activations: {explanation.activation_words}"] if explanation.activation_words else []),
        *([] if explanation.guarantee is None else [f"  {printable(in_words(explanation.guarantee))}"]),
        f"  {explanation.forward_passes} forward passes, {backward}{explanation.seconds:.1f} s",
        *(
            f"  note: {printable(note)}"
            for note in [*explanation.notes, *(explanation.guarantee or {}).get("notes", ())]
        ),
    ]
    return "\n".join(lines)


def _verdict(explanation: Explanation) -> str:
    kind, hidden = explanation.kind, printable(explanation.occlusion)
    confidence = f"confidence {explanation.explanation_confidence:.2f}"
    if (explanation.guarantee or {}).get("verdict") == "proved" and not explanation.sufficient:
        return (
            f"{explanation.area:.1%} of what the model sees is kept for a proof (below); with all else hidden "
            f"({hidden}) that is not enough, {confidence}"
        )
    if explanation.verdict == "empty":
        return f"NO PIXEL NEEDED under {hidden}: the class is the model's answer to nothing, {confidence}"
    verdict = {
        "sufficient": "suffices",
        "contrastive": "suffices, and without it the class is lost,",
        "complete": "suffices for all of the confidence, and without it the class is lost,",
    }[kind]
    if not explanation.sufficient:
        verdict = "does NOT suffice" if kind == "sufficient" else f"is NOT {kind}"
    minimal = f"; {explanation.minimality}" if explanation.minimality else ""
    return f"{explanation.area:.1%} of what the model sees {verdict} under {hidden}: {confidence}{minimal}"
