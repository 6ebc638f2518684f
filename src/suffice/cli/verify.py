"""`suffice verify IMAGE MASK`: how far a part's sufficiency carries: certified, proved, refuted or unknown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suffice.buffers import keep_buffers
from suffice.cli.again import Expect, Paths, again, check_photo, check_weights, expected_of, naming
from suffice.cli.command import (
    COUNTEREXAMPLE,
    counterexample_files,
    number,
    of_another_photo,
    one_line,
    progress_bar,
    result_before,
    whole_number,
    writable,
)
from suffice.cli.loading import NONE_GIVEN, ModelOptions, load, taking_model_options, words_of_model
from suffice.cli.options import (
    LARGEST_SEED,
    BatchSize,
    Classes,
    Device,
    Json,
    Model,
    Over,
    Rho,
    Seed,
    Traceback,
    Weights,
)
from suffice.cli.process import complain, keep_stdout_for_results, print_any_name, printable, say, without_collecting
from suffice.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.classifier import Classifier
    from suffice.guarantees import Guarantee
    from suffice.naming import Naming
    from suffice.progress import Progress

_JSON = "guarantee.json"


@taking_model_options()
def verify(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A photo, or sample:cat and the like.")],
    mask: Annotated[
        str,
        typer.Argument(
            metavar="MASK",
            help="The folder of an explanation; or a mask, or a map of which what is above --alpha-min is the part: "
            ".npy, .npz, .pt, a grey .png.",
        ),
    ],
    over: Over = "colours",
    rho: Rho = 0.9,
    confidence: Annotated[
        float, typer.Option(parser=number, metavar="NUMBER", help="With which the verdict holds.")
    ] = 0.95,
    draws: Annotated[
        int, typer.Option(parser=whole_number, metavar="INTEGER", help="After so many contexts it is unknown.")
    ] = 1000,
    epsilon: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="NUMBER",
            help="Prove it instead: by how much each pixel outside the part may change, 0 to 1; 1 for any value.",
        ),
    ] = None,
    alpha_min: Annotated[
        float,
        typer.Option(parser=number, metavar="NUMBER", help="Of a map, from its least value 0 to its greatest 1."),
    ] = 0.5,
    target: Annotated[
        str | None,
        typer.Option(help="Class number or name. [default: what the explanation explains, or the model's choice]"),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    classes: Classes = None,
    seed: Seed = 0,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the verdict and a counterexample go. [default: none]"),
    ] = None,
    as_json: Json = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    model_options: ModelOptions = NONE_GIVEN,
    paths: Paths = "relative",
    expect: Expect = None,
    show_traceback: Traceback = False,
) -> int:
    """Find out how far it carries that the part of IMAGE in MASK suffices: by draws, or by a proof.

    The exit status is 0 for every verdict; which one it is stands in the first words, and in `guarantee.verdict` of the
    JSON: certified, proved, refuted or unknown.
    """
    if seed > LARGEST_SEED:
        raise InputError(f"expected --seed from 0 to {LARGEST_SEED}; got {seed}")
    if not 0 <= alpha_min < 1:
        raise InputError(f"expected --alpha-min from 0 to below 1; got {alpha_min:g}")
    if epsilon is not None and not 0 < epsilon <= 1:
        raise InputError(f"expected --epsilon above 0, up to 1; got {epsilon:g}")
    if epsilon is not None and (over, rho, confidence, draws) != ("colours", 0.9, 0.95, 1000):
        raise InputError("expected --epsilon, or --over, --rho, --confidence and --draws; got both")
    if as_json:
        print_any_name("utf-8")
        keep_stdout_for_results()

    with without_collecting():  # only now what takes a second to import
        from suffice.guarantees.certifying import check_certificate
        from suffice.metrics import read_map

    # Everything that can be wrong with the call is said before the model costs time.
    check_certificate(over, rho, confidence, draws, seed)
    content = read_map(mask, image)
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
    loading = words_of_model(model, weights, classes, target, device, model_options)
    named = naming(paths, image, mask, loading, over, out)
    test = {"over": over, "rho": rho, "confidence": confidence, "draws": draws}
    call = _Call(
        classifier, image, mask, content, alpha_min, target, test, epsilon, seed, as_json, loading, named, expect
    )
    with writable(out) as folder, one_line(f"could not verify {mask} with {classifier.name}", show_traceback):
        return call.run(folder)


@dataclasses.dataclass
class _Call:
    """One part of one image; `test` is what `suffice.certify` takes."""

    classifier: Classifier
    image: str
    mask: str
    content: Any
    alpha_min: float
    target: str | None
    test: dict[str, Any]
    epsilon: float | None
    seed: int
    as_json: bool
    loading: dict[str, Any]
    named: Naming
    expect: list[str] | None

    def run(self, folder: Path | None) -> int:
        """Say what is known of the part, and write it; returns the exit status."""
        from suffice.explanation import Explanation
        from suffice.folders import OutputFolder
        from suffice.guarantees import in_words
        from suffice.images import frame_of, notes_on, prepare, read_photo
        from suffice.provenance import made_by

        if folder is not None:
            OutputFolder(folder, "verify").check((*COUNTEREXAMPLE, _JSON), only=True)
        photo = read_photo(self.image)
        check_photo(self.expect, photo)
        pixels = prepare(photo, self.classifier)
        part = self._part(frame_of(photo.pixels.size, self.classifier.preprocessing))
        target: int | str | None = self.target
        notes = list(notes_on(photo, self.classifier))
        if isinstance(self.content, Explanation):
            target = self.content.class_in(self.classifier) if target is None else target
            notes += self.content.notes_on(self.classifier)
        index = int(self.classifier.logits(pixels[None])[0].argmax()) if target is None else target
        index = self.classifier.class_index(index)
        with progress_bar(1)(self.image) as progress:
            found = self._guarantee(pixels, part, index, progress)
        files: dict[str, bytes | str] = {}
        if folder is not None and found.counterexample is not None:
            files |= counterexample_files(found.counterexample)
        made = made_by(self.classifier, pixels, photo.sha256)
        facts = self._facts(index, part, found.to_dict(COUNTEREXAMPLE[0] if files else None), notes)
        facts |= {"made": made | {"again": self._again(folder, made)}}
        if folder is not None:
            written, before = self.named(facts), result_before(folder, "verify", _JSON)
            text = json.dumps(written, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            OutputFolder(folder, "verify").write(files | {_JSON: text}, only=True)
            if _of_another_question(before, written):
                complain(f"replaced {folder / _JSON}, the verdict on {before.get('image')} with {before.get('mask')}")
        if self.as_json:
            say(json.dumps(facts, ensure_ascii=False, allow_nan=False))
            return 0
        backward = f"{found.backward_passes} backward, " if found.backward_passes else ""
        say(
            "\n".join(
                [
                    f"{printable(self.image)}: {printable(facts['target_name'])} (class {index}), the part of "
                    f"{facts['area']:.1%} in {printable(self.mask)}",
                    f"  {printable(in_words(facts['guarantee']))}",
                    f"  {found.forward_passes} forward passes, {backward}{found.seconds:.1f} s",
                    *(f"  note: {printable(note)}" for note in [*notes, *found.notes]),
                ]
            )
        )
        return 0

    def _guarantee(self, pixels: Tensor, part: Tensor, target: int, progress: Progress) -> Guarantee:
        if self.epsilon is not None:
            from suffice.guarantees.proof import prove

            return prove(
                self.classifier, pixels, part, epsilon=self.epsilon, target=target, seed=self.seed, progress=progress
            )
        from suffice.guarantees import certify

        return certify(self.classifier, pixels, part, target, seed=self.seed, progress=progress, **self.test)

    def _again(self, folder: Path | None, made: dict[str, Any]) -> dict[str, Any]:
        """How to make it again, fit for JSON."""
        options = (
            self.loading
            | (self.test if self.epsilon is None else {"epsilon": self.epsilon})
            | {"alpha-min": self.alpha_min, "seed": self.seed}
        )
        options["expect"] = expected_of(made)
        return again("verify", options, [self.image, self.mask], self.named, out=folder, beside=folder).as_dict()

    def _part(self, frame: Any) -> Tensor:
        """The part, bool (H, W), as the model sees it."""
        from suffice.explanation import Explanation
        from suffice.metrics import fitted, part_of_map

        if isinstance(self.content, Explanation):
            width, height = frame.crop
            if tuple(self.content.mask.shape) != (height, width):
                received = " x ".join(map(str, self.content.mask.shape))
                raise InputError(
                    f"{self.mask}: expected an explanation for an input of {height} x {width}; got {received}, of "
                    "another model?"
                )
            return self.content.mask
        try:
            values = fitted(self.content, frame, len(self.classifier.preprocessing.mean))
        except InputError as error:
            raise InputError(f"{self.mask}: {error}") from error
        least = float(values.min())
        if least == float(values.max()) and least not in (0, 1):
            raise InputError(f"{self.mask}: expected a mask or a map with a part; every pixel of it is {least:g}")
        return part_of_map(values, self.alpha_min)

    def _facts(self, target: int, part: Tensor, guarantee: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """What the JSON says."""
        from importlib.metadata import version

        return {
            "image": self.image,
            "mask": self.mask,
            "model": self.classifier.name,
            "version": version("suffice"),
            "target": target,
            "target_name": self.classifier.class_name(target),
            "area": float(part.float().mean()),
            "guarantee": guarantee,
            "notes": notes,
            **({} if self.classifier.weights is None else {"weights": self.classifier.weights}),
            **self.classifier.facts(),
        }


def _of_another_question(before: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether a verdict is on another photo or part than the new one, or on other contexts."""
    if not before:
        return False

    def asked(content: dict[str, Any]) -> list[Any]:
        guarantee = content.get("guarantee")
        known = guarantee if isinstance(guarantee, dict) else {}
        return [content.get("mask"), content.get("target"), *(known.get(name) for name in ("distribution", "epsilon"))]

    return of_another_photo(before, facts["made"]) or asked(before) != asked(facts)
