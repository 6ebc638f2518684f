"""Where a network has spatial activations, found without being told: layer names, layouts, reshape functions.

>>> import torch, suffice
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1),
...                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
>>> classifier = suffice.Classifier(network, input_size=(32, 32))
>>> for stage in spatial_stages(classifier):
...     print(stage.name, stage.channels, stage.height, stage.width, stage.layout)
1 4 32 32 channels-first
4 8 16 16 channels-first
>>> with record(classifier, [last_stage(classifier)]) as activations:
...     _ = classifier.logits(torch.rand(2, 3, 32, 32))
>>> last_stage(classifier).maps(activations["4"]).shape
torch.Size([2, 8, 16, 16])

A probe, two images of noise, goes through the network, and what each module returns is looked at:

| layout | shape | networks |
|---|---|---|
| `channels-first` | (N, C, h, w) | convolutional networks |
| `channels-last` | (N, h, w, C) | Swin, and others that end a block with a linear layer |
| `tokens` | (N, prefix + h·w, C) | ViT; the class token and registers are the prefix |

What is computed and not read on the way to the logits is left out: an auxiliary branch, or maps that a module returns
beside what it has pooled of them. Preferred is what no skip connection goes around: the output of a block, and not of a
layer in one of its branches.

The probe says something of the network and not of an image, so it is not counted in `Classifier.forward_passes`; it is
made once for a classifier. What no module returns (the result of a bare function in `forward`) cannot be seen. Tokens
are taken to lie row by row: the early stages of Hiera, which keeps them in another order, come out shuffled.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence

from torch import nn

from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean
from suffice.features.blocks import blocks_of, chosen, outside_of_coarser_blocks, trunk
from suffice.features.layout import spatial
from suffice.features.linear import hidden_linear_layers
from suffice.features.probing import has_effect, probe
from suffice.features.recording import record
from suffice.features.stage import Layout, Stage

__all__ = [
    "Layout",
    "Stage",
    "hidden_linear_layers",
    "last_stage",
    "named_stage",
    "reads_class_token",
    "record",
    "spatial_stages",
]


class NoStagesError(InputError):
    """A network in which no module returns a spatial activation."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """All spatial activations of a classifier's module, and the ones chosen among them."""

    module: nn.Module
    maps: tuple[Stage, ...]  # in the order in which calls end
    stages: tuple[Stage, ...]
    last: Stage
    class_token: bool


_FOUND: weakref.WeakKeyDictionary[Classifier, _Found] = weakref.WeakKeyDictionary()


def spatial_stages(classifier: Classifier) -> list[Stage]:
    """The network's spatial activations from fine to coarse: for each resolution the last module that returns it.

    What lies inside of a block that goes on to a coarser resolution is left out: of ResNet the stages are `relu` and
    `layer1` to `layer4`.

    A network of one resolution (ViT, MLP-Mixer, ConvMixer) gives up to four of its blocks, evenly spaced in depth, the
    last one among them.

    Raises:
        InputError: a black box, or a network in which no module returns a spatial activation.
    """
    return list(_found(classifier).stages)


def has_spatial_stages(classifier: Classifier) -> bool:
    """Whether some module of the network returns a spatial activation; raises InputError of a black box."""
    try:
        _found(classifier)
    except NoStagesError:
        return False
    return True


def last_stage(classifier: Classifier) -> Stage:
    """The last spatial activation that the logits are a function of: where class activation maps are read.

    It is the last of `spatial_stages`, or what comes after it at the same resolution (a final norm). Where a class
    token is read out, nothing that the last block returns for the patches has any effect, so it is then the first
    module of the last block, its norm: the customary place. Where that is in question a second probe decides: NaN in a
    stage that has an effect reaches the logits.

    Raises:
        InputError: as `spatial_stages`.
    """
    return _found(classifier).last


def named_stage(classifier: Classifier, name: str) -> Stage:
    """The spatial activation of a module by its name, of its last call.

    Raises:
        InputError: a module that does not return one, or as `spatial_stages`.
    """
    maps = _found(classifier).maps
    named = {stage.name: stage for stage in (*maps, *(stage for stage in maps if stage.read))}
    if name not in named:
        known = ", ".join(stage.name for stage in spatial_stages(classifier))
        raise InputError(
            f"expected a module of {classifier.name} that returns a spatial activation, such as {known}; "
            f"got {name!r}{did_you_mean(name, named)}"
        )
    return named[name]


def reads_class_token(classifier: Classifier) -> bool:
    """Whether the logits are read from tokens that stand before those of the patches, and from no patch itself.

    Raises:
        InputError: as `spatial_stages`.
    """
    return _found(classifier).class_token


def _found(classifier: Classifier) -> _Found:
    known = _FOUND.get(classifier)
    if known is not None and known.module is classifier.module:
        names = dict(known.module.named_modules())
        if all(names.get(stage.name) is stage.module for stage in (*known.stages, known.last)):
            return known
    module = classifier.require_module("finding spatial activations")
    seen = probe(classifier, module)
    maps = spatial(
        seen, classifier.preprocessing.height_and_width("a map of the image"), len(classifier.preprocessing.mean)
    )
    calls = outside_of_coarser_blocks([stage for stage in maps if stage.read] or maps)
    if not calls:
        shapes = ", ".join(dict.fromkeys(str(("N", *s.shape)).replace("'", "") for s in seen[-6:]))
        raise NoStagesError(
            f"expected a network with spatial activations, a module that returns (N, C, h, w), (N, h, w, C) or tokens "
            f"(N, h·w, C); in {classifier.name} no module does: the last ones return {shapes or 'no tensor'}"
        )
    stages = chosen(calls)
    last, at_the_end = _last(classifier, calls, stages, known=seen[0].fact is not None)
    class_token = last.prefix_tokens > 0 and not at_the_end
    _FOUND[classifier] = _Found(module, tuple(maps), tuple(stages), last, class_token)
    return _FOUND[classifier]


def _last(
    classifier: Classifier, calls: Sequence[Stage], stages: Sequence[Stage], *, known: bool
) -> tuple[Stage, bool]:
    """The last stage that has an effect, and whether it is the last of all.

    Args:
        classifier: which is asked again where that is not yet clear.
        calls, stages: of its network; all of them are read, if that is known.
        known: whether it is.
    """
    resolution = stages[-1].height, stages[-1].width
    here = [stage for stage in calls if (stage.height, stage.width) == resolution]
    way = trunk(here) or here
    candidates = [way[-1]]
    if way[-1].layout == "tokens":
        blocks = blocks_of(here)
        # The stream from block to block, and not a wider or narrower layer that reads it.
        width = blocks[-1].channels
        inside = [s for s in here if s.channels == width and s.name.startswith(f"{blocks[-1].name}.")]
        last_of_stream = [stage for stage in way if stage.channels == width][-1]
        candidates = [last_of_stream, blocks[-1], *inside[:1], *reversed(blocks[:-1])]
    # Of tokens some may be read and others not; of maps all are.
    if known and candidates[0].prefix_tokens == 0:
        return candidates[0], True
    last = next((stage for stage in candidates if has_effect(classifier, stage)), candidates[0])
    return last, last is candidates[0]
