"""The images of one call of `suffice explain`, one after the other: one part, several, or those of a mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suffice.cli.again import Again, again, check_photo, expected_of
from suffice.cli.command import (
    COUNTEREXAMPLE,
    ImagesJob,
    counterexample_files,
    folder_names,
    of_another_photo,
    result_before,
)
from suffice.cli.explain_words import Right, as_json, as_text, right_as_json, right_as_text
from suffice.cli.process import complain, say
from suffice.errors import InputError
from suffice.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.circuits import Circuit
    from suffice.classifier import Classifier
    from suffice.explainers import Certificate
    from suffice.explanation import Explanation
    from suffice.images import Frame, Photo
    from suffice.question import Question
    from suffice.report.page import ExplanationEntry

SIZES = 8
"""Along the ranking, at which the model is asked for a report: about a tenth of what an explanation takes."""
REPORT, OVERLAY, PARTS = "report.html", "overlay.png", "parts.png"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is wanted of each image besides a part.

    Attributes:
        count: of parts without a common pixel, at most.
        why_wrong: the parts for the model's own choice and for the label, where the two differ.
        label: of every image; None: the number at the end of its name.
        holds_under: whether each part is tested by small changes of its picture.
        others: the networks that it is shown to then; other_names: what the call calls them.
        methods: whose parts are set side by side; at most one: that of the call.
        circuit: whether the report shows that of each part.
        curve: at so many sizes along the ranking the model is asked; None: at some, where there is a report.
        paste: whether the part is pasted on other backgrounds; None: where there is a report.
    """

    count: int = 1
    why_wrong: bool = False
    label: str | None = None
    holds_under: bool = False
    others: tuple[Classifier, ...] = ()
    other_names: tuple[str, ...] = ()
    curve: int | None = None
    paste: bool | None = None
    methods: tuple[str, ...] = ()
    circuit: bool = False

    @property
    def folders(self) -> list[str]:
        """Of the parts after the first, in the folder of their image."""
        if len(self.methods) > 1:
            return list(self.methods[1:])
        return ["labelled"] if self.why_wrong else [f"part-{number}" for number in range(2, self.count + 1)]

    def words(self) -> dict[str, Any]:
        """By the names of the command line."""
        return {
            "count": self.count if self.count > 1 else None,
            "why-wrong": self.why_wrong,
            "label": self.label,
            "holds-under": self.holds_under and not self.other_names,
            "other-model": list(self.other_names),
            "curve": self.curve,
            "circuit": self.circuit,
            "paste": self.paste is True,
            "no-paste": self.paste is False,
        }


def shares(methods: Sequence[str], progress: Progress) -> list[tuple[str, Progress]]:
    """Each method with its own share of the progress."""
    from suffice.explainers.several import share_of

    return [(method, share_of(progress, index, len(methods))) for index, method in enumerate(methods)]


@dataclasses.dataclass(kw_only=True)
class Job(ImagesJob):
    """The explanations of some images."""

    call: dict[str, Any]
    settings: dict[str, Any]
    certificate: Certificate | None
    loading: dict[str, Any]
    wanted: Wanted
    entries: list[ExplanationEntry] = dataclasses.field(default_factory=list)

    def run(self, paths: list[str]) -> int:
        """Explain each path; returns the exit status."""
        from suffice.folders import RESERVED, OutputFolder

        names = folder_names(paths, RESERVED)
        if self.folder is not None:
            OutputFolder(self.folder, "explain").check([REPORT])

        def one(path: str, name: str, progress: Progress) -> str:
            found = self._explain(path, name, len(paths) > 1, progress)
            if isinstance(found, Right):
                return right_as_json(found) if self.as_json else right_as_text(found)
            return "\n".join(
                as_json(*each) if self.as_json else as_text(each[0], len(self.wanted.methods) > 1) for each in found
            )

        return self.run_each(paths, names, one, "explain")

    def _explain(
        self, path: str, name: str, several: bool, progress: Progress
    ) -> list[tuple[Explanation, Path | None]] | Right:
        """The explanations of one image, each with the folder that it is in."""
        from suffice.folders import OutputFolder
        from suffice.images import frame_of, read_photo
        from suffice.saved import FILES, JSON

        directories = [name, *(f"{name}/{part}" for part in self.wanted.folders)]
        if self.folder is not None:
            maybe = () if self.certificate is None else COUNTEREXAMPLE
            files = (*FILES, OVERLAY, *maybe)
            for directory in directories:
                more = () if directory != name or len(directories) == 1 else (PARTS,)
                OutputFolder(self.folder / directory, "explain").check((*files, *more), only=True, below=True)
        photo = read_photo(path)
        check_photo(self.expect, photo)
        found = self._found(photo, path, progress)
        if isinstance(found, Right):
            return found
        # One of several is made again beside the others, so that the report of them all stays.
        several = several or len(self.wanted.methods) > 1
        out = self.folder if self.folder is None or not several else self.folder / "again" / name
        frame = frame_of(photo.pixels.size, self.classifier.preprocessing)
        made = []
        for (explanation, counterexample), directory in zip(found, directories, strict=False):
            place = None if self.folder is None else self.folder / directory
            how = self._again([path], out, place, explanation)
            explanation = dataclasses.replace(explanation, made=explanation.made | {"again": how.as_dict()})
            made.append((explanation, place, counterexample))
        before = {} if self.folder is None else result_before(self.folder / name, "explain", JSON)
        self._write([(path, out), *zip(made, directories, strict=False)], photo, frame)
        if self.folder is not None and of_another_photo(before, made[0][0].made):
            complain(f"replaced {self.folder / name}, an explanation of another photo of this name")
        return [(explanation, place) for explanation, place, _ in made]

    def _write(self, made: Sequence[Any], photo: Photo, frame: Frame) -> None:
        if self.folder is None:
            return
        from suffice.report.agreement import verdict_on
        from suffice.report.figures import overlay, parts_overlay, png_bytes
        from suffice.report.page import make_entry, of_one_image

        (path, out), *parts = made
        every = [self.named.of(explanation) for (explanation, _, _), _ in parts]
        entries: list[ExplanationEntry] = []
        for written, ((_, place, counterexample), directory) in zip(every, parts, strict=True):
            extra = {OVERLAY: png_bytes(overlay(written, photo, frame))}
            if len(every) > 1 and not entries:
                extra[PARTS] = png_bytes(parts_overlay(every, photo, frame))
            if counterexample is not None:
                extra |= counterexample_files(counterexample)
            written.save(place, extra)
            how = self._again([path], out, self.folder, written)
            circuit = self._circuit(photo, written) if self.wanted.circuit else None
            entries.append(
                make_entry(
                    written, photo, frame, directory=directory, command=how.line, where=how.where, circuit=circuit
                )
            )
        compared = {each.method: each for each in every} if len(self.wanted.methods) > 1 else {}
        self.entries += of_one_image(entries, verdict_on(compared) if compared else "")

    def _found(self, photo: Photo, path: str, progress: Progress) -> list[tuple[Explanation, Tensor | None]] | Right:
        """The explanations, and an image with the part in it that loses the class, where a test met one."""
        from suffice.explainers.several import explain_mistake, parts_of
        from suffice.question import Question

        call = {name: value for name, value in self.call.items() if name != "method"}
        question = Question(self.classifier, photo, self.loading["target"], name=path, **call)
        method, settings = self.call["method"], self.settings | {"minimal": self.loading["minimal"]}
        if self.certificate is not None:
            return [self._certified(question, method, settings, progress)]
        if self.wanted.why_wrong:
            label = self._label(path)
            if float(self.classifier.margins(question.whole_logits, label)) > 0:
                return Right(path, self.classifier.name, label, self.classifier.class_name(label), question.confidence)
            mistake = explain_mistake(question, label, method, progress=progress, **settings)
            found = [mistake.predicted, mistake.labelled]
        elif len(self.wanted.methods) > 1:
            found = [self._by(each, question, share) for each, share in shares(self.wanted.methods, progress)]
        elif self.wanted.count > 1:
            found = parts_of(question, method, self.wanted.count, progress=progress, **settings)
        else:
            found = [question.explain(method, progress=progress, **settings)]
        return [(self._tested(question, each), None) for each in found]

    def _circuit(self, photo: Photo, explanation: Explanation) -> Circuit:
        from suffice.circuits import trace_circuit
        from suffice.progress import unseen

        return trace_circuit(
            self.classifier, photo, explanation.mask, target=explanation.target,
            keep_confidence=0.5 if explanation.keep_confidence is None else explanation.keep_confidence,
            seed=explanation.seed, name=explanation.image, progress=unseen,
        )  # fmt: skip

    def _by(self, method: str, question: Question, progress: Progress) -> Explanation:
        """By one of several methods, which gets those of the settings that are its own."""
        from suffice.registry import METHODS

        known = METHODS[method].settings.model_fields
        settings = {name: value for name, value in self.settings.items() if name in known}
        return question.explain(method, minimal=self.loading["minimal"], progress=progress, **settings)

    def _label(self, path: str) -> int:
        """The class that an image is labelled with: that of the call, or the number at the end of its name."""
        from suffice.guarantees.contexts import label_of

        if self.wanted.label is not None:
            return self.classifier.class_index(self.wanted.label)
        try:
            return self.classifier.class_index(label_of(Path(path)))
        except InputError as error:
            raise InputError(f"{error} (or say --label)") from None

    def _tested(self, question: Question, explanation: Explanation) -> Explanation:
        """With what the model says along the ranking, on other backgrounds and of small changes, as is wanted."""
        from suffice.explainers.along import with_curve
        from suffice.explainers.pasted import with_pastes

        if question.target != explanation.target:
            question = question.of(explanation.target)
        sizes, paste = self.wanted.curve, self.wanted.paste
        sizes = (0 if self.folder is None else SIZES) if sizes is None else sizes
        explanation = with_curve(question, explanation, sizes)
        if self.folder is not None if paste is None else paste:
            explanation = with_pastes(question, explanation)
        if not self.wanted.holds_under:
            return explanation
        from suffice.metrics import holds_under

        found = holds_under(
            self.classifier, question.image, explanation.mask, explanation.target, explanation.occlusion,
            others=self.wanted.others,
        )  # fmt: skip
        return dataclasses.replace(explanation, holds_under=found)

    def _certified(
        self, question: Question, method: str, settings: dict[str, Any], progress: Progress
    ) -> tuple[Explanation, Tensor | None]:
        from suffice.explainers import with_certificate

        assert self.certificate is not None
        explanation, guarantee = with_certificate(question, method, settings, self.certificate, progress)
        explanation = self._tested(question, explanation)
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
        OutputFolder(self.folder, "explain").write({REPORT: page})
        if last and not self.as_json:
            say(f"report: {self.folder / REPORT}")

    def _again(
        self, images: list[str], out: Path | None, beside: Path | None, explanation: Explanation | None = None
    ) -> Again:
        """The command line that makes a result again; with an explanation, every setting of it is spelt out."""
        call, settings, expected = dict(self.call), dict(self.settings), list[str]()
        if explanation is not None:
            call |= {name: getattr(explanation, name) for name in call}
            settings = explanation.settings if len(self.wanted.methods) > 1 else settings | explanation.settings
            expected = expected_of(explanation.made)
        options = self.loading | {name.replace("_", "-"): value for name, value in call.items()}
        if self.certificate is not None:
            wanted = self.certificate
            options |= {"certify": wanted.confidence, "rho": wanted.rho, "over": wanted.over}
        options["set"] = [f"{name}={value}" for name, value in settings.items()]
        options["expect"] = expected
        options |= self.wanted.words()
        return again("explain", options, images, self.named, out=out, beside=beside)
