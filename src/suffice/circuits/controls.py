"""What a circuit's sufficiency is worth: what stands beside it.

A circuit that keeps a class says little where a random one does, where the last features alone do, where it says the
class for a blank image and for photos of other classes, or where the network keeps the class without it.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from suffice.circuits.ablation import SwitchedOff, channel_range, switched_logits
from suffice.circuits.ranking import Decision
from suffice.circuits.references import References
from suffice.circuits.search import random_circuits
from suffice.engine import ByRow


@dataclasses.dataclass(frozen=True)
class Controls:
    """Each is about the image itself, and about keeping the class on top.

    Attributes:
        random_kept: share of random circuits, with as many channels in each layer, that keep it; None for none tried.
        features_kept: whether the whole network with only the circuit's channels of the last layer keeps it.
        blank_kept: whether the circuit says it for an image without content: the image's mean colour.
        complement_kept: whether it is kept with the circuit switched off and everything else on.
        random_complement_kept: share of random circuits, as above, without which it is kept; None for none tried.
        held_out_kept: share of other images, for which the whole network does not say it, for which the circuit does;
            None for none.
        held_out: how many these are.
        resample_kept: share of draws in which it is kept with each channel that is off as it was for some other image;
            None for none.
        out_of_range: share of channels, over all layers, that leave the range that they have over the image and the
            reference images by more than a tenth of it; None without references.
    """

    random_kept: float | None
    features_kept: bool
    blank_kept: bool
    complement_kept: bool
    random_complement_kept: float | None
    held_out_kept: float | None
    held_out: int
    resample_kept: float | None
    out_of_range: float | None

    @property
    def necessary(self) -> bool | None:
        """Whether the class is lost without the circuit, and not without most random ones with equal counts."""
        if self.random_complement_kept is None:
            return None
        return not self.complement_kept and self.random_complement_kept > 0.5


def ask_controls(
    decision: Decision,
    on: Tensor,
    references: References | None,
    held_out: Tensor | None,
    *,
    random: int,
    seed: int,
) -> Controls:
    """What stands beside a circuit.

    Args:
        decision: whose circuit it is; the first of its images is asked about.
        on: bool (channels of all layers,), the circuit.
        references: what the layers return for other images.
        held_out: (M, C, H, W) in [0, 1], images that nothing was made of.
        random: how many random circuits are tried.
        seed: of these.
    """
    drawn = random_circuits(on, decision.layers, random, seed)
    features, last = torch.ones_like(on), decision.slice_of(len(decision.layers) - 1)
    features[last] = on[last]
    image = decision.of_first()
    kept = image.holds_all(torch.cat([torch.stack([features, ~on]), drawn, ~drawn]))
    first = decision.images[:1]
    blank = first.mean(tuple(range(2, first.ndim)), keepdim=True).expand_as(first)
    others = torch.cat([blank] if held_out is None else [blank, held_out])
    said = _said_of(image, on, others)
    applies = torch.zeros(0, dtype=torch.bool)
    if held_out is not None:
        applies = ~image.holds(decision.classifier.logits(held_out))
    resampled = None
    if references is not None and references.draws:
        of_draws = dataclasses.replace(image, offs=references.draws).logits(on[None])[0]
        resampled = float(image.holds(of_draws).float().mean())
    return Controls(
        random_kept=_share(kept[2 : 2 + random]),
        features_kept=bool(kept[0]),
        blank_kept=bool(said[0]),
        complement_kept=bool(kept[1]),
        random_complement_kept=_share(kept[2 + random :]),
        held_out_kept=_share(said[1:][applies]),
        held_out=int(applies.sum()),
        resample_kept=resampled,
        out_of_range=None if references is None else out_of_range(image, on, references),
    )


def out_of_range(decision: Decision, on: Tensor, references: References) -> float:
    """Share of the channels that take values, somewhere on the image, outside of what they have over the references
    and the image itself, by more than a tenth of that range.

    Args:
        decision: whose first image is shown.
        on: bool (channels of all layers,), the circuit.
        references: with the ranges.
    """
    lowest, highest = _ranges(decision, torch.ones_like(on))
    lowest, highest = torch.minimum(lowest, references.lowest), torch.maximum(highest, references.highest)
    slack = 0.1 * (highest - lowest)
    least, greatest = _ranges(decision, on)
    return float(((least < lowest - slack) | (greatest > highest + slack)).float().mean())


def _ranges(decision: Decision, on: Tensor) -> tuple[Tensor, Tensor]:
    """The least and greatest value of each channel before it is switched, (channels of all layers,) each."""

    def question(module: object, x: Tensor, gates: Tensor) -> ByRow:
        found: dict[int, tuple[Tensor, Tensor]] = {}

        def see(index: int, activation: Tensor) -> None:
            found[index] = channel_range(activation, decision.layers[index])

        x = decision.classifier.normalise(x)
        with SwitchedOff(decision.layers, gates, decision.offs[0], see=see):
            output = module(x)  # type: ignore[operator]
        ranges = zip(*(found[i] for i in range(len(decision.layers))), strict=True)
        return ByRow(output, tuple(torch.cat(each)[None] for each in ranges))

    _, (least, greatest) = decision.classifier.ask(question, decision.images[:1], on[None])
    return least[0], greatest[0]


def _said_of(decision: Decision, on: Tensor, images: Tensor) -> Tensor:
    """Whether a circuit says the class for other images, however the rest is off: bool (N,)."""
    said = torch.ones(len(images), dtype=torch.bool)
    for off in decision.offs:
        circuits = on.expand(len(images), -1)
        said &= decision.holds(switched_logits(decision.classifier, decision.layers, images, circuits, off))
    return said


def _share(kept: Tensor) -> float | None:
    return float(kept.float().mean()) if len(kept) else None
