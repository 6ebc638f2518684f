"""What each job does, from the request of a visitor to its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from suffice.circuits import trace_circuit
from suffice.classifier import Classifier
from suffice.engine import between_batches
from suffice.errors import InputError
from suffice.explainers import Certificate, check_settings, with_certificate
from suffice.explainers.along import with_curve
from suffice.explainers.several import parts_of
from suffice.explanation import Explanation
from suffice.guarantees import Guarantee, certify, in_words
from suffice.guarantees.certifying import check_certificate
from suffice.images import as_picture
from suffice.metrics import score_maps
from suffice.metrics.asking import checked_metrics
from suffice.question import Question
from suffice.report.agreement import verdict_on
from suffice.report.circuit_figure import circuit_svg
from suffice.report.figures import overlay, png_bytes
from suffice.report.page import make_entry, render_report
from suffice.report.ranking import buffer_of, known_along
from suffice.saved import explanation_files
from suffice.web.against import of_two, why
from suffice.web.asked import Circuit, Explain, Score, Verify
from suffice.web.jobs import Job
from suffice.web.part import Asked, found_for, part_in_question
from suffice.web.quick import bits_of
from suffice.web.served import Served, checked_occlusion, checked_settings
from suffice.web.wording import again

_FOUND_AT = 0.8  # share of an explanation's job that is done when the part is found, where a curve follows


def work(job: Job) -> dict[str, Any]:
    """Do a job; the result is fit for JSON.

    Raises:
        InputError: what cannot be done; whatever the model's own code raises.
        CancelledError: it was cancelled.
    """
    asked: Asked = job.asked
    request, classifier = asked.request, asked.served.classifier
    if isinstance(request, Explain) and request.against is not None:
        two = of_two(classifier, asked.upload, request.target, request.against)
        with _counted(job, two):
            return explain(job, asked, request, two, 0)
    with _counted(job, classifier):
        match request:
            case Explain():
                return explain(job, asked, request, classifier, request.target)
            case Score():
                return score(job, asked, request)
            case Verify():
                return verify(job, asked, request)
            case Circuit():
                return circuit(job, asked, request)


@contextmanager
def _counted(job: Job, classifier: Classifier) -> Iterator[None]:
    """Tell, between batches, how many images went through a model, beside those that were counted before."""
    others, before = job.forward_passes, classifier.passes

    def count() -> None:
        job.forward_passes = others + classifier.passes.since(before).forward
        job.changed()

    with between_batches(count):
        yield
    count()


# What is wrong with a request is said at once, before it waits in the queue.


def checked(asked: Asked) -> Asked:
    """The same, if all that can be known to be wrong is not.

    Raises:
        InputError: an unknown name, a setting out of range, a file of the server's.
    """
    request, served = asked.request, asked.served
    if request.target is not None:
        served.classifier.class_index(request.target)
    if isinstance(request, Explain):
        settings = settings_of(served, request)
        check_settings(request.method, request.keep_confidence, request.seed, settings, request.kind, request.minimal)
        if request.against is not None:
            served.classifier.class_index(request.against)
        if request.certify is not None:
            _check_over(request.over)
            Certificate(request.certify, request.rho, request.over).checked()
    if isinstance(request, Score):
        _metrics_of(request)
    if isinstance(request, Verify):
        _check_over(request.over)
        check_certificate(request.over, request.rho, request.confidence, request.draws, request.seed)
    if not isinstance(request, Verify):
        checked_occlusion(served, request.occlusion)
    if not isinstance(request, Explain):
        checked_settings(served, request.method, {})
    return asked


def _check_over(over: str) -> None:
    if over.startswith("images"):
        raise InputError(f"expected over as colours, noise or restrictions; got {over!r}: it names a folder")


def settings_of(served: Served, request: Explain) -> dict[str, Any]:
    """The settings of the method that a request gives, in `settings` or beside the rest."""
    beside = request.model_extra or {}
    if both := set(beside) & set(request.settings):
        raise InputError(f"expected each setting once; got {', '.join(sorted(both))} twice")
    return checked_settings(served, request.method, {**beside, **request.settings})


def _metrics_of(request: Score) -> tuple[list[Any], dict[str, Any]]:
    options = dict(request.model_extra or {})
    if "backgrounds" in options:
        raise InputError("expected options that name no folder of the server; got backgrounds")
    return checked_metrics(request.metrics, options), options


# Explanations


def explain(
    job: Job, asked: Asked, request: Explain, classifier: Classifier, target: int | str | None
) -> dict[str, Any]:
    """The smallest part found, several of them, or the part by which one class beats another."""
    upload = asked.upload
    question = Question(
        classifier,
        upload.photo(),
        target,
        occlusion=request.occlusion,
        threshold=request.threshold,
        keep_confidence=request.keep_confidence,
        kind=request.kind,
        seed=request.seed,
        name=upload.name,
    )
    question.watched = job.tried
    found = _parts(job, asked, request, question)
    job.best, job.area = found[0].mask, found[0].area
    job.kept["explanation"] = dataclasses.replace(found[0], raw_saliency=None)
    job.stage = ""
    how = again(upload.name, upload.sha256, asked.served.words, _spoken(request, settings_of(asked.served, request)))
    result = found[0].with_made() | {
        "mask": f"/api/jobs/{job.id}/files/mask.png",
        "saliency": f"/api/jobs/{job.id}/files/saliency.npy",
        "ranking": f"/api/jobs/{job.id}/ranking",
        "minimality": found[0].minimality,
        "guarantee_in_words": "" if found[0].guarantee is None else in_words(found[0].guarantee),
        "again": how,
        "bits": bits_of(found[0].mask),
        "parts": [_brief(each) for each in found],
        "curve": [],
    }
    if request.against is not None:
        result |= why(classifier, question, found[0])
    job.files = {**_files(found[0], asked, how["command"], classifier)}
    if (lost := job.kept.pop("counterexample", None)) is not None:
        job.files["counterexample.png"] = png_bytes(as_picture(lost))
    job.kept["ranking"] = buffer_of(found[0], [])
    job.result = result
    if request.curve:
        job.stage = "asking along the ranking"
        job.changed()
        told = with_curve(
            question, found[0], request.curve, lambda done: job.report(_FOUND_AT + (1 - _FOUND_AT) * done)
        )
        curve = known_along(told)
        job.kept["ranking"] = buffer_of(told, curve)
        job.files = job.files | _files(told, asked, how["command"], classifier)
        result = result | {"curve": [[count, confidence] for count, confidence in curve]}
    return result


def _parts(job: Job, asked: Asked, request: Explain, question: Question) -> list[Explanation]:
    settings = settings_of(asked.served, request)
    whole = _FOUND_AT if request.curve else 1.0
    if request.certify is not None:
        wanted = Certificate(request.certify, request.rho, request.over)
        settings |= {"minimal": request.minimal}
        found, guarantee = with_certificate(
            question, request.method, settings, wanted, lambda done: job.report(whole * done)
        )
        job.kept["counterexample"] = guarantee.counterexample
        return [found]
    asked_of = {"minimal": request.minimal, **settings}
    if request.count == 1:
        return [question.explain(request.method, progress=lambda done: job.report(whole * done), **asked_of)]

    def report(done: float) -> None:
        job.stage = f"part {min(int(done * request.count), request.count - 1) + 1} of at most {request.count}"
        job.report(whole * done)

    return parts_of(question, request.method, request.count, progress=report, **asked_of)


def _spoken(request: Explain, settings: dict[str, Any]) -> dict[str, Any]:
    """What a request says, as `suffice.explain` takes it; what is as it is anyway is left out, but for the question."""
    always = {"method", "occlusion", "keep_confidence", "seed"}
    names = always | {"kind", "threshold", "minimal", "certify", "rho", "over", "target"}
    said = request.model_dump(include=names)
    usual = {name: field.default for name, field in type(request).model_fields.items()}
    return {name: said[name] for name in said if name in always or said[name] != usual[name]} | {"settings": settings}


def _brief(explanation: Explanation) -> dict[str, Any]:
    return {
        "area": explanation.area,
        "explanation_confidence": explanation.explanation_confidence,
        "verdict": explanation.verdict,
        "bits": bits_of(explanation.mask),
    }


def _files(explanation: Explanation, asked: Asked, command: str, classifier: Classifier) -> dict[str, bytes]:
    """What there is to download: the files that `suffice explain --out` writes."""
    photo, frame = asked.upload.photo(), asked.upload.frame(classifier)
    entry = make_entry(explanation, photo, frame, directory="", command=command)
    return {
        **explanation_files(explanation),
        "overlay.png": png_bytes(overlay(explanation, photo, frame)),
        "report.html": render_report([entry], command=command).encode("utf-8", "replace"),
    }


# What is asked about a part


def score(job: Job, asked: Asked, request: Score) -> dict[str, Any]:
    """The metrics of explanations or of a map, side by side, and what the explanations say together."""
    metrics, options = _metrics_of(request)
    maps: dict[str, Any] = dict(asked.explanations)
    if asked.part is not None:
        maps["map"] = asked.part
    if not maps:
        maps[request.method] = found_for(job, asked, request)
    found = score_maps(
        asked.served.classifier,
        asked.upload.pixels_for(asked.served.classifier),
        maps,
        metrics,
        request.target,
        request.occlusion,
        label=request.label,
        threshold=request.threshold,
        seed=request.seed,
        progress=lambda done: job.report(0.5 + done / 2),
        **options,
    )
    explained = {name: each for name, each in maps.items() if isinstance(each, Explanation)}
    first = next(iter(found.values()))
    return {
        "image": asked.upload.name,
        "model": asked.served.classifier.name,
        "label": int(first.labels[0]),
        "label_name": asked.served.classifier.class_name(int(first.labels[0])),
        "occlusion": request.occlusion,
        "seed": request.seed,
        "scores": {name: each.of_map(0) for name, each in found.items()},
        "notes": {name: [note for note in each.notes if note] for name, each in found.items()},
        "metrics": {metric.name: _facts(metric) for metric in metrics},
        "verdict": verdict_on(explained) if len(explained) > 1 else "",
        "forward_passes": first.forward_passes,
        "seconds": first.seconds,
    }


def _facts(metric: Any) -> dict[str, Any]:
    return {"higher_is_better": metric.higher_is_better, "meaning": metric.meaning}


def verify(job: Job, asked: Asked, request: Verify) -> dict[str, Any]:
    """How far it carries that a part suffices."""
    mask, target = part_in_question(job, asked, request)
    classifier = asked.served.classifier
    pixels = asked.upload.pixels_for(classifier)
    found = _guarantee(job, classifier, pixels, mask, target, request)
    index = int(classifier.logits(pixels[None])[0].argmax()) if target is None else classifier.class_index(target)
    if found.counterexample is not None:
        job.files["counterexample.png"] = png_bytes(as_picture(found.counterexample))
    said = found.to_dict("counterexample.png" if found.counterexample is not None else None)
    return {
        "image": asked.upload.name,
        "model": classifier.name,
        "target": index,
        "target_name": classifier.class_name(index),
        "area": float(mask.float().mean()),
        "guarantee": said,
        "in_words": in_words(said),
        "counterexample_name": None
        if found.counterexample_class is None
        else classifier.class_name(found.counterexample_class),
        "bits": bits_of(mask),
    }


def _guarantee(
    job: Job, classifier: Classifier, pixels: Tensor, mask: Tensor, target: int | str | None, request: Verify
) -> Guarantee:
    if request.epsilon is not None:
        from suffice.guarantees.proof import prove

        return prove(
            classifier,
            pixels,
            mask,
            epsilon=request.epsilon,
            target=target,
            seed=request.seed,
            progress=job.report,
        )
    return certify(
        classifier,
        pixels,
        mask,
        target,
        over=request.over,
        rho=request.rho,
        confidence=request.confidence,
        draws=request.draws,
        seed=request.seed,
        progress=job.report,
    )


def circuit(job: Job, asked: Asked, request: Circuit) -> dict[str, Any]:
    """The part of the network that suffices: its numbers, and its drawing as a file."""
    given = asked.part is not None or bool(asked.explanations)
    mask, target = part_in_question(job, asked, request) if given else (None, request.target)
    found = trace_circuit(
        asked.served.classifier,
        asked.upload.pixels_for(asked.served.classifier),
        mask,
        target=target,
        layers=request.layers,
        switch=request.switch,
        nodes=request.nodes,
        edges=request.edges,
        ranking=request.ranking,
        allocation=request.allocation,
        ablation=request.ablation,
        share=request.share,
        keep_confidence=request.keep_confidence,
        minimal_groups=request.minimal_groups,
        occlusion=request.occlusion,
        random=request.random,
        seed=request.seed,
        name=asked.upload.name,
        progress=job.report,
    )
    files = found.files({"circuit.svg": circuit_svg(found)})
    job.files = {name: each.encode() if isinstance(each, str) else each for name, each in files.items()}
    return found.summary() | {"made": found.made, "svg": f"/api/jobs/{job.id}/files/circuit.svg"}
