"""`suffice explain IMAGE…`: photos in, explanations and one report out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.cli.process import complain, keep_buffers
from suffice.errors import InputError

if TYPE_CHECKING:
    from suffice.classifier import Classifier
    from suffice.explanation import Explanation
    from suffice.report.page import Entry

_DEFAULT_OUT = "suffice-out"


def explain(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE…", help="Files, folders of images, or sample:cat and the like.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="timm:NAME, torchvision:NAME, module.path:function or FILE.onnx. [default: efficientnet-lite0]"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A .safetensors, .pth or .pt file, 'random', or 'download'.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="Class names, one a line; or imagenet-1k.")
    ] = None,
    method: Annotated[str, typer.Option(help="How to search: causal.")] = "causal",
    occlusion: Annotated[
        str,
        typer.Option(
            help="How absence is shown: deactivate, zero, min, max, mean, blur, noise, colour:NAME, image:FILE; "
            "several joined by commas mean all at once."
        ),
    ] = "deactivate",
    keep_confidence: Annotated[
        float, typer.Option(help="Share of the whole image's confidence to keep, 0 to 1 (γ).")
    ] = 0.5,
    target: Annotated[str | None, typer.Option(help="Class number or name. [default: the model's choice]")] = None,
    threshold: Annotated[float, typer.Option(help="τ of deactivate, from 0 up to below 1.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, such as iterations=20."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help=f"Where the results go. [default: {_DEFAULT_OUT}; nothing with --json]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 to screen faster; verdicts are those of float32.")
    ] = "float32",
    batch_size: Annotated[int | None, typer.Option(help="Images in one pass. [default: what fits]")] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the model's input in pixels. [default: its own]")
    ] = None,
) -> int:
    """Find the smallest part of each IMAGE that suffices for the model's decision, and write a report."""
    if not 0 <= keep_confidence <= 1:
        raise InputError(f"expected --keep-confidence from 0 to 1; got {keep_confidence:g}")
    settings = _parse_settings(setting or [])
    if out is None and not as_json:
        out = _DEFAULT_OUT

    # Only now what takes a second to import.
    from suffice.explainers import check_settings
    from suffice.images import find_images
    from suffice.models import load_classifier
    from suffice.occlusion import make_occlusions

    # Everything that can be wrong with the call is said before the first image costs time.
    check_settings(method, keep_confidence, seed, settings)
    paths = find_images(images)
    keep_buffers()
    classifier = load_classifier(
        model,
        weights=weights,
        class_names=classes,
        device=device,
        precision=precision,  # type: ignore[arg-type]  # checked there
        batch_size=batch_size,
        input_size=None if input_size is None else (input_size, input_size),
    )
    if target is not None:
        classifier.class_index(target)
    make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)

    call = {
        "method": method,
        "occlusion": occlusion,
        "target": target,
        "keep_confidence": keep_confidence,
        "seed": seed,
        "threshold": threshold,
    }
    # What shapes a result but is not in it; batch size and device do not.
    loading = {"model": model, "weights": weights, "classes": classes, "target": target, "input-size": input_size}
    with _writable(out) as folder:
        job = _Job(classifier, {**call, **settings}, loading, images, folder, as_json)
        return job.run(paths)


@dataclasses.dataclass
class _Job:
    """The images of one call, one after the other."""

    classifier: Classifier
    call: dict[str, Any]
    loading: dict[str, Any]
    arguments: list[str]
    folder: Path | None
    as_json: bool
    entries: list[Entry] = dataclasses.field(default_factory=list)
    failures: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def run(self, paths: list[str]) -> int:
        """Explain each path; returns the exit status."""
        try:
            with _progress(paths) as progress:
                for path, name in zip(paths, _unique_names(paths), strict=True):
                    try:
                        self._explain(path, name, progress(path))
                    except InputError as error:
                        if len(paths) == 1:
                            raise
                        self.failures.append((path, str(error)))
                        complain(str(error))
        finally:
            # Also after an interruption: what is done is worth a report.
            if self.folder is not None and (self.entries or self.failures):
                self._write_report(self.folder)
        return 1 if self.failures else 0

    def _explain(self, path: str, name: str, progress: Callable[[float], None]) -> None:
        from suffice.explainers import explain as explain_image
        from suffice.images import frame_of, prepare, read_photo

        photo = read_photo(path)
        image = prepare(photo, self.classifier)
        explanation = explain_image(self.classifier, image, name=path, progress=progress, **self.call)
        directory = None
        if self.folder is not None:
            from suffice.report.figures import overlay, png_bytes
            from suffice.report.page import make_entry

            frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
            directory = self.folder / name
            explanation.save(directory, {"overlay.png": png_bytes(overlay(explanation, photo, frame))})
            command = self._command([path], explanation)
            self.entries.append(make_entry(explanation, photo, frame, directory=name, command=command))
        if self.as_json:
            _print_json(explanation, directory)
        else:
            _print_text(explanation)

    def _write_report(self, folder: Path) -> None:
        from suffice.report.page import render_report

        page = render_report(self.entries, command=self._command(self.arguments), failures=self.failures)
        partial = folder / ".report.html"
        partial.write_text(page, encoding="utf-8")
        partial.replace(folder / "report.html")
        if not self.as_json:
            print(f"report: {folder / 'report.html'}")

    def _command(self, images: list[str], explanation: Explanation | None = None) -> str:
        """The command line that makes a result again; with an explanation, every setting of it is spelt out."""
        words = ["suffice", "explain", *images]
        for option, value in self.loading.items():
            words += [] if value is None else [f"--{option}", str(value)]
        settings = dict(self.call) if explanation is None else {**self.call, **explanation.settings}
        for name, value in settings.items():
            if name in ("method", "occlusion", "keep_confidence", "seed", "threshold", "precision"):
                words += [f"--{name.replace('_', '-')}", str(value)]
            elif name not in ("target", "weights"):
                words += ["--set", f"{name}={value}"]
        return shlex.join([*words, "--out", str(self.folder)])


def _print_json(explanation: Explanation, directory: Path | None) -> None:
    maps = {"mask": "mask.png", "saliency": "saliency.npy"}
    where = {name: None if directory is None else str(directory / file) for name, file in maps.items()}
    print(json.dumps(explanation.to_dict() | where, ensure_ascii=False, allow_nan=False), flush=True)


def _print_text(explanation: Explanation) -> None:
    verdict = "suffices" if explanation.sufficient else "does NOT suffice"
    print(
        f"{explanation.image}: {explanation.target_name} (class {explanation.target}), "
        f"confidence {explanation.confidence:.2f}\n"
        f"  {explanation.area:.1%} of what the model sees {verdict} under {explanation.occlusion}: "
        f"confidence {explanation.explanation_confidence:.2f}\n"
        f"  {explanation.forward_passes} forward passes, {explanation.seconds:.1f} s",
        *(f"  note: {note}" for note in explanation.notes),
        sep="\n",
        flush=True,
    )


def _parse_settings(pairs: list[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise InputError(f"expected --set NAME=VALUE; got {pair!r}")
        settings[name.replace("-", "_")] = value
    return settings


def _unique_names(paths: list[str]) -> list[str]:
    """A folder name for each path: its stem, numbered where several share it."""
    names: list[str] = []
    for path in paths:
        stem = Path(path.removeprefix("sample:")).stem or "image"
        name, number = stem, 2
        while name in names:
            name, number = f"{stem}-{number}", number + 1
        names.append(name)
    return names


@contextlib.contextmanager
def _writable(out: str | None) -> Iterator[Path | None]:
    """The output folder, made and tried out; gone again if it was made here and nothing came of it."""
    if out is None:
        yield None
        return
    folder = Path(out)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"expected an output folder that can be written to; got {out}: {error.strerror}") from error
    try:
        yield folder
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


@contextlib.contextmanager
def _progress(paths: list[str]) -> Iterator[Callable[[str], Callable[[float], None]]]:
    """A progress bar on stderr, where that is a terminal: for each path, a function that is told the share done."""
    if not sys.stderr.isatty():
        yield lambda path: lambda share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        image = bar.add_task("", total=1.0)
        every = bar.add_task(f"{len(paths)} images", total=len(paths), visible=len(paths) > 1)
        started = 0

        def start(path: str) -> Callable[[float], None]:
            nonlocal started
            bar.update(every, completed=started)
            bar.reset(image, description=Path(path).name, total=1.0)
            started += 1
            return lambda share: bar.update(image, completed=share)

        yield start
