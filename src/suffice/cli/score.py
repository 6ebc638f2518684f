"""`suffice score IMAGE MAP…`: explanations from any tool, side by side under the same metrics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Again, Expect, Paths, again, check_photo, check_weights, expected_of, naming
from suffice.cli.command import one_line, parse_settings, progress_bar, writable
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options, words_of_model
from suffice.cli.options import (
    LARGEST_SEED,
    OCCLUSION_NAMES,
    BatchSize,
    Classes,
    Device,
    Model,
    Seed,
    Threshold,
    Traceback,
    Weights,
)
from suffice.cli.process import complain, keep_stdout_for_results, print_any_name, say, without_collecting
from suffice.cli.table import side_by_side
from suffice.errors import InputError
from suffice.registry import METRICS

if TYPE_CHECKING:
    from suffice.classifier import Classifier
    from suffice.images import Photo
    from suffice.metrics import Scores
    from suffice.naming import Naming

_REPORT, _FIGURES = "report.html", "scores.json"


@taking_model_options()
def score(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A photo, or sample:cat and the like.")],
    maps: Annotated[
        list[str],
        typer.Argument(
            metavar="MAP…",
            help="Saliency maps, larger = more important: .npy, .npz, .pt, a grey .png, the folder of an explanation.",
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help=f"Joined by commas: {', '.join(METRICS)}. [default: all of suffice's own]"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "--label",
            help="Class number or name. [default: what the explanation explains, or the model's choice]",
        ),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    classes: Classes = None,
    occlusion: Annotated[
        str,
        typer.Option(help=f"How absence is shown: {OCCLUSION_NAMES}; several joined by commas: the worst counts."),
    ] = "zero",
    threshold: Threshold = 0.0,
    seed: Seed = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the metrics: alpha_min, step, measure, fid_measure, normalise, at_threshold, hide, "
            "ties, drop, count, rho_confidence.",
        ),
    ] = None,
    backgrounds: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Photos of other classes, named like photo_285.jpg, for robustness_images."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where a report with the curves goes. [default: none]")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout for each map, nothing else.")
    ] = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    paths: Paths = "relative",
    expect: Expect = None,
    show_traceback: Traceback = False,
) -> int:
    """Score saliency maps of IMAGE from any tool: MSI, insertion, deletion, Fid and more, side by side."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"expected --seed from 0 to {LARGEST_SEED}; got {seed}")
    options: dict[str, Any] = dict(parse_settings(setting or []))
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()

    with without_collecting():  # only now what takes a second to import
        from suffice.metrics import check_metrics
        from suffice.occlusion import make_occlusions

    # Everything that can be wrong with the call is said before the model costs time.
    if "backgrounds" in options:
        raise InputError("expected the folder of backgrounds as --backgrounds DIR; got it in --set")
    names = check_metrics(names, **options, **({} if backgrounds is None else {"backgrounds": backgrounds}))
    if Path(image).is_dir():
        raise InputError(f"expected one photo; {image} is a directory: methods are compared on many by suffice bench")
    given = _read(maps, image)
    keep_buffers()
    classifier = load(
        model,
        weights=weights,
        classes=classes,
        device=device,
        options=model_options.fields(),
        show_traceback=show_traceback,
        batch_size=batch_size,
    )
    check_weights(expect, classifier)
    if target is not None:
        classifier.class_index(target)
    make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)

    loading = words_of_model(model, weights, classes, target, device, model_options)
    named = naming(paths, image, maps, loading, occlusion, options, backgrounds, out)
    call = _Call(
        classifier, image, given, names, target, occlusion, threshold, seed, options, backgrounds, loading, as_json,
        named, expect,
    )  # fmt: skip
    with writable(out) as folder, one_line(f"could not score {image} with {classifier.name}", show_traceback):
        return call.run(folder)


@dataclasses.dataclass
class _Call:
    """The maps of one image, by the name that tables give them."""

    classifier: Classifier
    image: str
    given: dict[str, tuple[str, Any]]
    metrics: list[str]
    target: str | None
    occlusion: str
    threshold: float
    seed: int
    options: dict[str, Any]
    backgrounds: str | None
    loading: dict[str, Any]
    as_json: bool
    named: Naming
    expect: list[str] | None

    def run(self, folder: Path | None) -> int:
        """Score every map that can be; returns the exit status."""
        from suffice.folders import OutputFolder
        from suffice.images import frame_of, prepare, read_photo
        from suffice.metrics import score_maps
        from suffice.provenance import made_by

        if folder is not None:
            OutputFolder(folder, "score").check([_FIGURES, _REPORT])
        photo = read_photo(self.image)
        check_photo(self.expect, photo)
        pixels = prepare(photo, self.classifier)
        frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
        fitting, failures = self._fitting(frame)
        if not fitting:
            return 1
        target: int | str | None = self.target
        options = dict(self.options)
        if self.backgrounds is not None:
            target = self._known_target(pixels, fitting)
            options["backgrounds"] = self._backgrounds(target)
        with progress_bar(1)(self.image) as progress:
            found = score_maps(
                self.classifier,
                pixels,
                fitting,
                self.metrics,
                target,
                self.occlusion,
                threshold=self.threshold,
                seed=self.seed,
                progress=progress,
                **options,
            )
        made = made_by(self.classifier, pixels, photo.sha256)
        made |= {"again": self._again(folder, made).as_dict()}
        lines = [self._facts(name, found[name], photo) | {"made": made} for name in found]
        if self.as_json:
            for line in lines:
                say(json.dumps(line, ensure_ascii=False, allow_nan=False))
        else:
            say(side_by_side(lines, found), styled=True)
        if folder is not None:
            self._write(folder, lines, found, photo, failures)
        return 1 if failures else 0

    def _fitting(self, frame: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The maps that are of this image, and of the others what is wrong with them."""
        from suffice.explanation import Explanation
        from suffice.metrics import fitted

        fitting: dict[str, Any] = {}
        failures: list[tuple[str, str]] = []
        for name, (path, content) in self.given.items():
            try:
                if isinstance(content, InputError):
                    raise content
                if isinstance(content, Explanation):
                    _check_size(content, frame, path)
                    fitting[name] = content
                else:
                    fitting[name] = _named(path, fitted, content, frame, len(self.classifier.preprocessing.mean))
            except InputError as error:
                if len(self.given) == 1:
                    raise
                failures.append((path, str(error)))
                complain(str(error))
        return fitting, failures

    def _known_target(self, pixels: Any, maps: Mapping[str, Any]) -> int:
        from suffice.metrics.scoring import target_of

        if self.target is not None:
            return self.classifier.class_index(self.target)
        target = target_of(maps.values(), self.classifier)
        return int(self.classifier.logits(pixels[None])[0].argmax()) if target is None else target

    def _backgrounds(self, target: int) -> Any:
        import torch

        from suffice.images import load_image
        from suffice.metrics import photos_of_other_classes

        assert self.backgrounds is not None
        photos = photos_of_other_classes(self.backgrounds, target, seed=self.seed)
        return torch.stack([load_image(path, self.classifier) for path in photos])

    def _facts(self, name: str, scores: Scores, photo: Photo) -> dict[str, Any]:
        """What one line of JSON says."""
        from importlib.metadata import version

        from suffice.images import notes_on

        label, predicted = int(scores.labels[0]), int(scores.predicted[0])
        notes = [*notes_on(photo, self.classifier)]
        if bool(scores.constant[0]):
            notes.append("The map is constant: it ranks no pixel, and its curves are those of the reading order.")
        notes += filter(None, scores.notes)
        if label != predicted:
            notes.append(f"The model's own choice for the whole image is {self.classifier.class_name(predicted)}.")
        notes += self._of_explanation(name)
        return {
            "image": self.image,
            "map": self.given[name][0],
            "model": self.classifier.name,
            "version": version("suffice"),
            "label": label,
            "label_name": self.classifier.class_name(label),
            "confidence": float(scores.confidence[0]),
            "scores": scores.of_map(0),
            "at_least": scores.at_least(0),
            "occlusion": self.occlusion,
            "settings": {"threshold": self.threshold, **self._settings(), **self._weights()},
            "seed": self.seed,
            "forward_passes": scores.forward_passes,
            "seconds": scores.seconds,
            "notes": notes,
            **self.classifier.facts(),
        }

    def _of_explanation(self, name: str) -> list[str]:
        """What to know of a map that is an explanation."""
        from suffice.explanation import Explanation
        from suffice.metrics.scoring import judged_elsewhere

        explanation, notes = self.given[name][1], []
        if not isinstance(explanation, Explanation):
            return []
        if other := judged_elsewhere(explanation, self.occlusion):
            notes.append(f"{other}: --occlusion {explanation.occlusion} asks as it was found.")
        notes += explanation.notes_on(self.classifier)
        if explanation.verdict == "empty":
            notes.append(
                "The explanation is empty: the class is the model's answer to nothing, and its area 0 no merit."
            )
        return notes

    def _settings(self) -> dict[str, Any]:
        """Every option that one of the metrics knows, with its value."""
        from suffice.metrics import complete_options

        backgrounds = {} if self.backgrounds is None else {"backgrounds": self.backgrounds}
        return complete_options(self.metrics, **self.options, **backgrounds) | backgrounds

    def _weights(self) -> dict[str, str]:
        return {} if self.classifier.weights is None else {"weights": self.classifier.weights}

    def _write(
        self,
        folder: Path,
        lines: Sequence[Mapping[str, Any]],
        found: Mapping[str, Scores],
        photo: Photo,
        failures: Sequence[tuple[str, str]],
    ) -> None:
        from suffice.folders import OutputFolder
        from suffice.report.scores import render_scores

        curves = {
            name: {
                curve: {"positions": each.positions.tolist(), "values": each.values[0].tolist(), "by": each.by}
                for curve, each in found[name].curves.items()
            }
            for name in found
        }
        lines, how = self.named(lines), self._again(folder, lines[0]["made"])
        content = [dict(line) | {"curves": each} for line, each in zip(lines, curves.values(), strict=True)]
        page = render_scores(
            lines,
            {self.named(name): each for name, each in found.items()},
            photo,
            self.classifier.preprocessing,
            command=how.line,
            where=how.where,
            failures=self.named(failures),
        )
        figures = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
        OutputFolder(folder, "score").write({_REPORT: page, _FIGURES: figures})
        if not self.as_json:
            say(f"report: {folder / _REPORT}")

    def _again(self, folder: Path | None, made: Mapping[str, Any]) -> Again:
        options = self.loading | {
            "metrics": ",".join(self.metrics),
            "occlusion": self.occlusion,
            "threshold": self.threshold,
            "seed": self.seed,
            "set": [f"{name}={value}" for name, value in self.options.items()],
            "backgrounds": self.backgrounds,
            "expect": expected_of(made),
        }
        files = [self.image, *(path for path, _ in self.given.values())]
        return again("score", options, files, self.named, out=folder, beside=folder)


def _read(paths: Sequence[str], image: str) -> dict[str, tuple[str, Any]]:
    """What each path holds, or what is wrong with it, by a name that is short and its own."""
    from suffice.metrics import read_map

    if len(set(paths)) != len(paths):
        raise InputError(f"expected each map once; got {', '.join(paths)}")
    short = [Path(path).name for path in paths]
    given: dict[str, tuple[str, Any]] = {}
    for path, name in zip(paths, short, strict=True):
        try:
            content: Any = read_map(path, image)
        except InputError as error:
            if len(paths) == 1:
                raise
            content = error
        given[name if name and short.count(name) == 1 else path] = (path, content)
    return given


def _named(path: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _check_size(explanation: Any, frame: Any, path: str) -> None:
    width, height = frame.crop
    if tuple(explanation.mask.shape) != (height, width):
        received = " x ".join(map(str, explanation.mask.shape))
        raise InputError(
            f"{path}: expected an explanation for an input of {height} x {width}; got {received}, of another model?"
        )
