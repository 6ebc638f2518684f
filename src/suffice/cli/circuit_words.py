"""What `suffice circuit` says of a circuit: some lines of text, or one of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.cli.process import printable

if TYPE_CHECKING:
    from suffice.circuits import Circuit, Core


def as_json(circuit: Circuit, directory: Path | None) -> str:
    """One line of JSON, with the files in a folder."""
    where = {
        name: None if directory is None else str(directory / f"circuit.{kind}")
        for name, kind in (("circuit", "json"), ("graphml", "graphml"), ("svg", "svg"), ("png", "png"))
    }
    return json.dumps(circuit.summary() | {"made": circuit.made} | where, ensure_ascii=False, allow_nan=False)


def as_text(circuit: Circuit) -> str:
    """Some lines for a terminal."""
    verdict = "suffice" if circuit.sufficient else "do NOT suffice"
    explanation = circuit.circuit_explanation_confidence
    full = f"{circuit.layers_full} of {len(circuit.layers)} layers full"
    lines = [
        f"{printable(circuit.image)}: {printable(circuit.target_name)} (class {circuit.target}), "
        f"confidence {circuit.confidence:.2f}",
        f"  {circuit.mean_layer_share:.0%} of a layer in the mean {verdict}: confidence "
        f"{circuit.circuit_confidence:.2f}{'' if explanation is None else f', for the explanation {explanation:.2f}'}",
        f"  largest share of a layer {circuit.largest_layer_share:.0%}, {full}, "
        f"features {circuit.features_share:.0%}; {circuit.channels:,} of {circuit.channels_total:,} channels "
        f"({circuit.share:.1%}); what is off: {circuit.ablation}",
        *_control_lines(circuit),
        f"  {circuit.forward_passes} forward and {circuit.backward_passes} backward passes, {circuit.seconds:.1f} s",
        *(f"  note: {printable(note)}" for note in circuit.notes),
    ]
    return "\n".join(lines)


def _control_lines(circuit: Circuit) -> list[str]:
    """Necessity and the controls, as the terminal shows them."""
    random = circuit.settings["random"]

    def kept(value: bool | None) -> str:
        return "kept" if value else "lost"

    lines = [f"  with the circuit switched off the class is {kept(circuit.complement_kept)}"]
    if circuit.random_complement_kept is not None:
        lines[0] += (
            f"; with random sets of as many channels switched off it is kept by {circuit.random_complement_kept:.0%} "
            f"of {random}: {'necessary' if circuit.necessary else 'NOT shown to be necessary'}"
        )
        lines.append(f"  of {random} random circuits of as many channels {circuit.random_kept:.0%} keep the class")
    elif circuit.complement_kept is not None:
        lines[0] += "; no control was asked (--random 0): NOT shown to be necessary"
    if circuit.core is not None:
        lines.append(_core_line(circuit.core, random))
    elif random:
        lines.append("  core: none, as the class stays with everything switched off")
    else:
        lines.append("  core: not looked for, as no control was asked")
    said = [
        f"where only the last layer is cut to the circuit the class is {kept(circuit.features_kept)}",
        f"for an image without content the circuit {'says it, too' if circuit.blank_kept else 'does not say it'}",
    ]
    if circuit.held_out_kept is not None:
        said.append(f"for {circuit.held_out} images of other classes it says it for {circuit.held_out_kept:.0%}")
    if circuit.resample_kept is not None:
        said.append(f"with what is off taken from other images the class is kept by {circuit.resample_kept:.0%}")
    if circuit.out_of_range is not None:
        said.append(f"{circuit.out_of_range:.1%} of channels leave the range that they have on whole images")
    return [*lines, *(f"  {each}" for each in said)]


def _core_line(core: Core, random: int) -> str:
    others = ""
    if core.held_out_kept is not None:
        others = (
            f"; without it {core.held_out_kept:.0%} of other images keep theirs, without random sets "
            f"{core.random_held_out_kept:.0%}"
        )
    return (
        f"  core: with {core.channels:,} channels switched off ({core.mean_layer_share:.1%} of a layer in the mean, "
        f"{core.in_circuit:.0%} in the circuit) the class is lost; with random sets of as many it is kept by "
        f"{core.random_kept:.0%} of {random}{others}"
    )
