"""The circuit of a class, from some images of it: which channels stay in it whatever few of the images are taken out.

Each image scores every channel; the circuit of a set of images is, in each layer, the share of channels with the
largest mean score. Of the images at hand, n of them, sets of m are drawn at random, and each casts a vote: which
channels are in its circuit. A channel whose share of votes is large enough is certified:

    Let p be the share of all sets of m of the n images in whose circuit a channel is, and let k images be taken out,
    whichever. A set of m of all n images has none of these k with probability β = C(n - k, m) / C(n, m), and is then
    drawn from what is left, each such set alike. So p = β p' + (1 - β) q, with p' the share of votes after the images
    were taken out, and q some number in [0, 1]. Therefore p' ≥ 1 - (1 - p)/β and p' ≤ p/β: if p > 1 - β/2 the channel
    has the majority of the votes whichever k images (or fewer) are taken out, and if p < β/2 it has not. No better
    bound holds for all ways to make circuits of images.

p is known from some draws only, by bounds of Clopper and Pearson; with probability `confidence` all verdicts are right
at once (each of the C channels has two tests at (1 - confidence)/(2C)). What neither bound decides is abstained from.
What is certified is the vote of the sets, and not the circuit of all images together.

Source: votes with abstention over random deletions of the data, as in *Certified Circuits* (arXiv 2602.22968); the
theorem and its proof for sets of m without replacement are as above, after Levine and Feizi 2020 (arXiv 2002.10733).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffice.circuits.ablation import SwitchedOff, channel_means, switched_logits
from suffice.circuits.connectivity import Layer, connect
from suffice.circuits.ranking import best_of_each_layer
from suffice.circuits.readout import read_out
from suffice.circuits.references import sample_references
from suffice.classifier import Classifier
from suffice.engine import ByRow
from suffice.errors import InputError
from suffice.folders import OutputFolder
from suffice.guarantees.interval import at_least, at_most
from suffice.progress import Progress

FILE = "class-circuit.json"
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Sizes that are tried, of each layer, where none is given."""


def missing_probability(images: int, sample: int, removed: int) -> float:
    """β = C(n - k, m) / C(n, m): that a set of m of n images has none of k.

    >>> missing_probability(4, 2, 1), missing_probability(4, 2, 3)
    (0.5, 0.0)
    """
    left = images - removed
    return math.comb(left, sample) / math.comb(images, sample) if left >= sample else 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Votes:
    """How many of some random sets of images have each channel in their circuit, and what that certifies.

    Attributes:
        count: int (channels,), of `draws`.
        draws: how many sets were drawn.
        images: n, how many there are.
        sample: m, how many each set has.
        confidence: that all verdicts are right at once.

    >>> votes = Votes(torch.tensor([1000, 600, 0]), 1000, images=50, sample=5, confidence=0.95)
    >>> votes.stays(2).tolist(), votes.stays_out(2).tolist(), votes.removable().tolist()
    ([True, False, False], [False, False, True], [29, 1, 29])
    """

    count: Tensor
    draws: int
    images: int
    sample: int
    confidence: float = 0.95

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper bound of the share of all sets whose circuits have each channel, (channels,) each."""
        each = 1 - (1 - self.confidence) / (2 * len(self.count))
        known = {c: (at_least(c, self.draws, each), at_most(c, self.draws, each)) for c in set(self.count.tolist())}
        both = torch.tensor([known[c] for c in self.count.tolist()], dtype=torch.float64)
        return both[:, 0], both[:, 1]

    def stays(self, removed: int) -> Tensor:
        """Channels that keep the majority of the votes whichever `removed` images, or fewer, are taken out: bool."""
        return self.bounds()[0] > 1 - missing_probability(self.images, self.sample, removed) / 2

    def stays_out(self, removed: int) -> Tensor:
        """Channels that do not get it whichever images are taken out: bool."""
        return self.bounds()[1] < missing_probability(self.images, self.sample, removed) / 2

    def removable(self) -> Tensor:
        """How many images can be taken out before nothing is said of a channel any more: int, -1 where nothing is."""
        lower, upper = self.bounds()
        found = torch.full((len(lower),), -1)
        for k in range(self.images - self.sample + 1):
            beta = missing_probability(self.images, self.sample, k)
            found[(lower > 1 - beta / 2) | (upper < beta / 2)] = k
        return found


def vote(
    scores: Tensor,
    circuits: Callable[[Tensor], Tensor],
    *,
    sample: int,
    draws: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Votes:
    """Draw sets of images, and count in whose circuits each channel is.

    Args:
        scores: (images, channels), of each image.
        circuits: from mean scores (N, channels) of N sets to bool of that shape.
        sample: how many images each set has.
        draws: how many sets.
        seed: of these.
        confidence: see `Votes`.

    Raises:
        InputError: more images in a set than there are; no set; a confidence that is none.
    """
    images = len(scores)
    if not 1 <= sample <= images:
        raise InputError(f"expected sets of 1 to {images} images, as many as there are; got {sample}")
    if draws < 1 or not 0 < confidence < 1:
        raise InputError(f"expected at least one draw and a confidence in (0, 1); got {draws} and {confidence}")
    generator = torch.Generator().manual_seed(seed)
    count = torch.zeros(scores.shape[1], dtype=torch.int64)
    for first in range(0, draws, 256):
        rows = min(256, draws - first)
        chosen = torch.rand(rows, images, generator=generator).topk(sample, 1).indices
        means = torch.zeros(rows, images).scatter_(1, chosen, 1 / sample) @ scores
        count += circuits(means).sum(0)
    return Votes(count, draws, images, sample, confidence)


def image_scores(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: Tensor,
    target: int,
    off: Any = None,
    *,
    steps: int = 4,
) -> Tensor:
    """What the log-odds of a class owe to each channel in each image, (N, channels): its size.

    The derivative by how far a channel is on, as all are turned up together from off to on: its mean over `steps`.

    Args:
        classifier: of a PyTorch module.
        layers: of a recording of it.
        images: (N, C, H, W) in [0, 1].
        target: class index.
        off: what is there where a channel is off, as of `SwitchedOff`.
        steps: forward and backward passes an image.

    Source: integrated gradients (Sundararajan et al. 2017) over the gates of the channels.
    """
    channels = sum(layer.channels for layer in layers)
    total = torch.zeros(len(images), channels)
    for step in range(steps):

        def question(module: Any, batch: Tensor, at: float = (step + 0.5) / steps) -> ByRow:
            with torch.enable_grad():
                x = classifier.normalise(batch).detach()
                gates = torch.full((len(x), channels), at, device=x.device, requires_grad=True)
                with SwitchedOff(layers, gates, off):
                    output = module(x)
                odds = classifier.log_odds(classifier.read(output), target)
                (slopes,) = torch.autograd.grad(odds.sum(), [gates])
            return ByRow(output, (slopes,))

        total += classifier.ask(question, images, gradients=True).extras[0].cpu() / steps
    return total.abs()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ClassCircuit:
    """The circuit of a class.

    Attributes:
        layers: whose channels are nodes, in order.
        target, target_name: the class.
        on: bool (channels of all layers,), the circuit: certified to stay whichever `removed` images are taken out.
        certified_out: bool (channels,), certified to stay out of it; of all others nothing is said.
        removable: int (channels,), how many images can be taken out without changing what is said; -1: nothing is.
        in_images: int (channels,), in the circuits of how many images, each by itself.
        votes: what it was certified by.
        removed, share: k, and the share of each layer that a set's circuit has.
        accuracy, whole_accuracy: share of these images that the circuit alone, and the whole network, give the class.
        complement_accuracy: share that the network gives it with the circuit switched off and everything else on.
        says_it_of_others, whole_says_it_of_others: share of the reference images that the circuit alone, and the whole
            network, give the class.
        notes: what is to be known before one relies on it.
        image_names: what the images are called.
        model: what the classifier is called.
        forward_passes, backward_passes: how many were made.
    """

    layers: tuple[Layer, ...]
    target: int
    target_name: str
    on: Tensor
    certified_out: Tensor
    removable: Tensor
    in_images: Tensor
    votes: Votes
    removed: int
    share: float
    accuracy: float
    whole_accuracy: float
    complement_accuracy: float
    says_it_of_others: float
    whole_says_it_of_others: float
    notes: tuple[str, ...]
    image_names: tuple[str, ...]
    model: str
    forward_passes: int
    backward_passes: int

    def __repr__(self) -> str:
        certified = f"{int(self.on.sum())} of {len(self.on)} channels certified for {self.removed} images taken out"
        return f"<ClassCircuit: {self.target_name!r} (class {self.target}), {certified} of {self.votes.images}>"

    def summary(self) -> dict[str, Any]:
        """What was found, without the channels; fit for JSON."""
        return {
            "target": self.target,
            "target_name": self.target_name,
            "model": self.model,
            "images": self.votes.images,
            "channels": int(self.on.sum()),
            "channels_total": len(self.on),
            "mean_layer_share": float(torch.tensor([part.float().mean() for part in self._parts(self.on)]).mean()),
            "certified_out": int(self.certified_out.sum()),
            "abstained": int((~self.on & ~self.certified_out).sum()),
            "removed": self.removed,
            "confidence_of_certificate": self.votes.confidence,
            "draws": self.votes.draws,
            "sample": self.votes.sample,
            "share": self.share,
            "accuracy": self.accuracy,
            "whole_accuracy": self.whole_accuracy,
            "complement_accuracy": self.complement_accuracy,
            "says_it_of_others": self.says_it_of_others,
            "whole_says_it_of_others": self.whole_says_it_of_others,
            "notes": list(self.notes),
            "forward_passes": self.forward_passes,
            "backward_passes": self.backward_passes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        fields = {"on": self.on, "certified_out": self.certified_out, "removable": self.removable,
                  "in_images": self.in_images, "votes": self.votes.count}  # fmt: skip
        parts = {name: self._parts(value.int()) for name, value in fields.items()}
        layers = [
            {"name": layer.name, "kind": layer.kind} | {name: part[i].tolist() for name, part in parts.items()}
            for i, layer in enumerate(self.layers)
        ]
        return self.summary() | {"layers": layers, "image_names": list(self.image_names)}

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write `class-circuit.json` into a folder, which is made; what suffice did not write is not replaced.

        Raises:
            InputError: the place cannot be written to, or the file there is not suffice's, or was changed since.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        OutputFolder(directory, "circuit").write({FILE: text + "\n"})
        return Path(directory)

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([layer.channels for layer in self.layers])


def class_circuit(
    classifier: Classifier,
    images: Tensor,
    target: int | str,
    *,
    layers: str | Sequence[str] = "hidden",
    reference: Tensor | None = None,
    removed: int = 2,
    sample: int | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    share: float | None = None,
    keep_accuracy: float = 0.9,
    seed: int = 0,
    image_names: Sequence[str] = (),
    progress: Progress | None = None,
) -> ClassCircuit:
    """The channels that a class rests on in a set of images, certified against taking images out.

    Args:
        classifier: of a PyTorch module.
        images: (N, C, H, W) in [0, 1], of the class.
        target: the class, by number or name.
        layers: whose channels are nodes, as of `suffice.circuits.connectivity.connect`.
        reference: (N, C, H, W) in [0, 1], of all kinds; a channel that is off is its mean over these. None for the
            photos of `suffice.circuits.references.sample_references`.
        removed: k, how many images may be taken out.
        sample: m, how many images each vote is by; None for a tenth of them, and at least one.
        draws: how many votes.
        confidence: that all verdicts hold at once.
        share: of each layer that a vote's circuit has; None for the smallest of `SHARES` at which the circuit of all
            images together keeps `keep_accuracy`, as all larger ones do. The certificate is for this share.
        keep_accuracy: by how much more often the whole network gives the class to these images than to the reference
            images; a circuit has to keep this share of it, so that one that says the class of everything is none.
        seed: of the draws.
        image_names: what the images are called in the result.
        progress: called with the share of the work that is done.

    Raises:
        InputError: fewer than two images; an argument out of range; whatever `connect` raises.

    Source: see the top of this file for the theorem.
    """
    began, report = classifier.passes, progress or (lambda done: None)
    images, chosen = classifier.check_images(images), classifier.class_index(target)
    sample = max(1, len(images) // 10) if sample is None else sample
    _check(len(images), removed, sample, share, keep_accuracy)
    found = read_out(classifier, images[0], chosen, "stages").recording
    nodes = connect(classifier.require_module("a circuit"), found, layers, follow=False).layers
    others = classifier.check_images(sample_references(classifier) if reference is None else reference)
    off = channel_means(classifier, nodes, others)
    scores = image_scores(classifier, nodes, images, chosen, off)
    report(0.6)

    def says_it(on: Tensor) -> tuple[float, float]:
        """Of which share of the images a circuit says the class, and of which share of the others."""
        asked = torch.cat([images, others])
        logits = switched_logits(classifier, nodes, asked, on.expand(len(asked), -1), off)
        says = (classifier.margins(logits, chosen) > 0).float()
        return float(says[: len(images)].mean()), float(says[len(images) :].mean())

    whole = says_it(torch.ones(scores.shape[1], dtype=torch.bool))
    notes: tuple[str, ...] = ()
    if share is None:
        share, notes = _smallest_share(scores, nodes, says_it, whole, keep_accuracy)
    report(0.8)

    def circuits(means: Tensor) -> Tensor:
        return best_of_each_layer(means, nodes, share)

    votes = vote(scores, circuits, sample=sample, draws=draws, seed=seed, confidence=confidence)
    on = votes.stays(removed)
    alone, without = says_it(on), says_it(~on)
    report(1.0)
    passes = classifier.passes.since(began)
    return ClassCircuit(
        layers=tuple(nodes),
        target=chosen,
        target_name=classifier.class_name(chosen),
        on=on,
        certified_out=votes.stays_out(removed),
        removable=votes.removable(),
        in_images=circuits(scores).sum(0),
        votes=votes,
        removed=removed,
        share=share,
        accuracy=alone[0],
        whole_accuracy=whole[0],
        complement_accuracy=without[0],
        says_it_of_others=alone[1],
        whole_says_it_of_others=whole[1],
        notes=notes,
        image_names=tuple(image_names),
        model=classifier.name,
        forward_passes=passes.forward,
        backward_passes=passes.backward,
    )


def _smallest_share(
    scores: Tensor,
    layers: Sequence[Layer],
    says_it: Callable[[Tensor], tuple[float, float]],
    whole: tuple[float, float],
    keep_accuracy: float,
) -> tuple[float, tuple[str, ...]]:
    """Of each layer, such that the circuit of all images together keeps the class; and a note where that is all."""
    demanded = whole[0] - whole[1]
    if demanded <= 0:
        return 1.0, (
            f"the network gives the class to {whole[0]:.0%} of the images and to {whole[1]:.0%} of the reference "
            "images: there is nothing for a circuit to keep, so every channel is in it",
        )
    share = 1.0
    for smaller in reversed(SHARES[:-1]):
        own, of_others = says_it(best_of_each_layer(scores.mean(0, keepdim=True), layers, smaller)[0])
        if own - of_others < keep_accuracy * demanded:
            break
        share = smaller
    if share < 1:
        return share, ()
    return share, (
        f"with {SHARES[-2]:.0%} of every layer, less than {keep_accuracy:.0%} is kept of how much more often "
        "the network gives the class to the images than to the reference images, so every channel is in the circuit",
    )


def _check(images: int, removed: int, sample: int, share: float | None, keep_accuracy: float) -> None:
    if images < 2:
        raise InputError(f"expected at least two images of the class; got {images}")
    if not 0 <= removed <= images - sample:
        raise InputError(
            f"expected 0 to {max(0, images - sample)} images to be taken out, so that {sample} are left for a vote; "
            f"got {removed} of {images}"
        )
    if share is not None and not 0 < share <= 1:
        raise InputError(f"expected a share of each layer above 0, up to 1; got {share}")
    if not 0 <= keep_accuracy <= 1:
        raise InputError(f"expected keep_accuracy from 0 to 1; got {keep_accuracy}")
