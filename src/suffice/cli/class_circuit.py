"""`suffice circuit FOLDER --class NAME`: the circuit of a class, certified against taking images out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from suffice.cli.again import check_photo
from suffice.cli.command import folder_names, one_line, progress_bar, writable
from suffice.cli.process import complain, printable, say
from suffice.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from suffice.circuits.by_class import ClassCircuit
    from suffice.classifier import Classifier


def trace_class(
    classifier: Classifier,
    paths: Sequence[str],
    of_class: str,
    references: Tensor | None,
    *,
    out: str | None,
    as_json: bool,
    show_traceback: bool,
    expect: Sequence[str] | None = None,
    **call: Any,
) -> int:
    """Find, save and say the circuit of one class; returns the exit status, 1 where some images could not be read.

    Args:
        classifier: whose circuit it is.
        paths: of the images.
        of_class: name or number.
        references: as of `class_circuit`.
        out: the folder of results; None for none.
        as_json: one line of JSON instead of text.
        show_traceback: of an error of the model's own code.
        expect: digests that weights and images must have, as `again` prints them.
        call: further arguments of `class_circuit`.
    """
    import torch

    from suffice.circuits.by_class import FILE, class_circuit
    from suffice.folders import OutputFolder
    from suffice.images import read_photo, to_model

    target = classifier.class_index(int(of_class) if of_class.isdigit() else of_class)
    (name,) = folder_names([f"{classifier.class_name(target)}-circuit".replace("/", "-")])
    with writable(out) as folder:
        if folder is not None:
            OutputFolder(folder / name, "circuit").check([FILE], below=True)
        read: dict[str, Tensor] = {}
        failed = False
        for path in paths:
            try:
                photo = read_photo(path)
                check_photo(expect, photo)
                read[path] = to_model(photo, classifier)
            except InputError as error:
                failed = True
                complain(f"{printable(path)}: {error}")
        if not read:
            raise InputError(f"expected images that can be read; of {len(paths)} none can")
        what = f"cannot trace the circuit of {classifier.class_name(target)!r}"
        with progress_bar(1)(f"class {target}") as progress, one_line(what, show_traceback):
            circuit = class_circuit(
                classifier, torch.stack(list(read.values())), target, reference=references, image_names=list(read),
                progress=progress, **call,
            )  # fmt: skip
        if folder is not None:
            circuit.save(folder / name)
        where = None if folder is None else str(folder / name / FILE)
        if as_json:
            say(json.dumps(circuit.summary() | {"class_circuit": where}, ensure_ascii=False, allow_nan=False))
        else:
            say(_as_text(circuit) + ("" if where is None else f"\ncircuit: {printable(where)}"))
    return int(failed)


def _as_text(circuit: ClassCircuit) -> str:
    found = circuit.summary()
    lines = [
        f"{printable(circuit.target_name)} (class {circuit.target}), {found['images']} images",
        f"  {found['channels']:,} of {found['channels_total']:,} channels are certified to stay in the circuit "
        f"whichever {circuit.removed} images are taken out, {found['certified_out']:,} to stay out of it, at a "
        f"confidence of {circuit.votes.confidence:.0%}; of {found['abstained']:,} nothing is said",
        f"  a vote is of {circuit.share:.0%} of every layer; certified to stay is {found['mean_layer_share']:.0%} "
        "of a layer in the mean",
        f"  with these alone the network gives the class to {circuit.accuracy:.0%} of the images and "
        f"{circuit.says_it_of_others:.0%} of the reference images, as a whole to {circuit.whole_accuracy:.0%} and "
        f"{circuit.whole_says_it_of_others:.0%}; without these to {circuit.complement_accuracy:.0%} of the images",
        *(f"  note: {printable(note)}" for note in circuit.notes),
    ]
    start = 0
    for layer in circuit.layers:
        on = circuit.on[start : start + layer.channels]
        start += layer.channels
        lines.append(f"  {printable(layer.name)}: {int(on.sum())} of {layer.channels} {layer.kind}s")
    return "\n".join(lines)
