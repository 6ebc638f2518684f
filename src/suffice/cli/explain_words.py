"""What `suffice explain` says of an explanation: a few lines for a person, or one line of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from suffice.cli.process import printable

if TYPE_CHECKING:
    from suffice.explanation import Explanation


class Right(NamedTuple):
    """An image that the model gets right, where mistakes are to be explained."""

    image: str
    model: str
    label: int
    label_name: str
    confidence: float


def right_as_json(right: Right) -> str:
    """One line: there is nothing to explain."""
    return json.dumps({**right._asdict(), "right": True}, ensure_ascii=False, allow_nan=False)


def right_as_text(right: Right) -> str:
    """One line: there is nothing to explain."""
    name = printable(right.label_name)
    return f"{printable(right.image)}: right, {name} (class {right.label}), confidence {right.confidence:.2f}"


def as_json(explanation: Explanation, directory: Path | None) -> str:
    """One line, with the paths of its maps."""
    files = explanation.map_files()
    where = {name: None if directory is None or file is None else str(directory / file) for name, file in files.items()}
    return json.dumps(explanation.with_made() | where, ensure_ascii=False, allow_nan=False)


def as_text(explanation: Explanation, by: bool = False) -> str:
    """A few lines; with `by` they say which method it was."""
    from suffice.guarantees import in_words as of_guarantee
    from suffice.metrics.small_changes import in_words

    backward = f"{explanation.backward_passes} backward, " if explanation.backward_passes else ""
    named = f", by {explanation.method}" if by else ""
    lines = [
        f"{printable(explanation.image)}{_which(explanation)}{named}: {printable(explanation.target_name)} "
        f"(class {explanation.target}), confidence {explanation.confidence:.2f}",
        f"  {_verdict(explanation)}",
        *([f"  activations: {explanation.activation_words}"] if explanation.activation_words else []),
        *([] if explanation.guarantee is None else [f"  {printable(of_guarantee(explanation.guarantee))}"]),
        *([] if explanation.why_wrong is None else [f"  {line}" for line in wrong_in_words(explanation.why_wrong)]),
        *(
            []
            if explanation.holds_under is None
            else [f"  holds under: {printable(in_words(explanation.holds_under))}"]
        ),
        f"  {explanation.forward_passes} forward passes, {backward}{explanation.seconds:.1f} s",
        *(
            f"  note: {printable(note)}"
            for note in [*explanation.notes, *(explanation.guarantee or {}).get("notes", ())]
        ),
    ]
    return "\n".join(lines)


def _which(explanation: Explanation) -> str:
    """Which of several parts it is."""
    if explanation.why_wrong is not None:
        return (
            ", the part for the wrong class"
            if explanation.why_wrong["role"] == "predicted"
            else ", the part for the label"
        )
    return "" if explanation.parts is None else f", part {explanation.part} of {explanation.parts}"


def wrong_in_words(about: dict[str, Any]) -> list[str]:
    """What the two parts of a mistake have in common and keep of each other; said once, with the second of them.

    >>> keeps = {"confidence": 0.25, "whole": 0.5, "share": 0.5}
    >>> about = {"role": "labelled", "label_name": "cat", "predicted_name": "dog", "overlap": 0.1}
    >>> wrong_in_words({**about, "keeps": {"predicted": {"labelled": keeps}, "labelled": {"predicted": keeps}}})[0]
    'the two parts have 10% of their pixels in common'
    """
    if about["role"] == "predicted":
        return []
    wrong, right = printable(about["predicted_name"]), printable(about["label_name"])

    def kept(part: str, of: str) -> tuple[str, str]:
        said = about["keeps"][part][of]
        return f"{said['share']:.0%}", f"({said['confidence']:.2f} of {said['whole']:.2f})"

    (first, of_right), (second, of_wrong) = kept("predicted", "labelled"), kept("labelled", "predicted")
    return [
        f"the two parts have {about['overlap']:.0%} of their pixels in common",
        f"the part for {wrong} keeps {first} of the confidence in {right} {of_right}, "
        f"the part for {right} {second} of that in {wrong} {of_wrong}",
    ]


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
    if explanation.verdict == "sufficient" and not minimal:
        minimal = "; not shown to be minimal, so less may do (--minimal blocks searches on)"
    return f"{explanation.area:.1%} of what the model sees {verdict} under {hidden}: {confidence}{minimal}"
