"""LAX: an adapter on a frozen classifier, trained to give a saliency map in the pass that classifies.

>>> import torch, suffice
>>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
...                               torch.nn.Flatten(), torch.nn.Linear(4, 3))
>>> classifier = suffice.Classifier(network, input_size=(16, 16))
>>> adapter = new_adapter(classifier, AdapterSettings(design="paper"))  # untrained: `suffice train-lax` trains it
>>> logits, maps = heatmaps(classifier, adapter, torch.rand(2, 3, 16, 16))
>>> logits.shape, maps.shape, classifier.forward_passes  # one forward pass an image gives both
(torch.Size([2, 3]), torch.Size([2, 16, 16]), 2)

| file | what |
|---|---|
| `adapters.py` | the adapters and what they cost a pass, their files and cards |
| `losses.py` | what they are trained by; the training itself is in `suffice.training` |

Two designs, and two losses:

| | reads | map | loss |
|---|---|---|---|
| `paper` | the last spatial features | their resolution (CIFAR-10: 8 x 8) | `lax_loss`: equations 7 to 9 |
| `fine` | three resolutions, coarse to fine | a stride of 2 to 4 pixels, sharp edges | `msi_loss`: the terms of MSI |

Why a second one. The entropy of equation 7, a softmax over sigmoids at t = 0.5, is least where about a fifth of the
map is on, which is the penalty that the paper reports (0.205); and nothing in equation 9 keeps the class out of the
complement, which MSI scores. `msi_loss` has a term for each: what is shown above a random threshold keeps the class,
the complement below another one loses it, and the area is paid for as MSI charges it. The thresholds are steep slopes
(`soft_threshold`), so that gradients are true, and random, so that a map has to be near 0 or near 1. Hard thresholds
with a straight-through gradient were tried: they fill the whole map, as a gradient at black says of every pixel that it
would help.

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, section 3.2, Algorithm 1, equations 7 to 9;
appendix A.3 for the layers.
"""

from __future__ import annotations

import os
import weakref
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.extraction import ranked_cells, smallest_prefix
from suffice.explainers.lax.adapters import Adapter as Adapter
from suffice.explainers.lax.adapters import AdapterSettings as AdapterSettings
from suffice.explainers.lax.adapters import FineAdapter as FineAdapter
from suffice.explainers.lax.adapters import PaperAdapter as PaperAdapter
from suffice.explainers.lax.adapters import card_in_words as card_in_words
from suffice.explainers.lax.adapters import heatmaps as heatmaps
from suffice.explainers.lax.adapters import load_adapter as load_adapter
from suffice.explainers.lax.adapters import new_adapter as new_adapter
from suffice.explainers.lax.adapters import upsampled as upsampled
from suffice.explainers.lax.losses import entropy as entropy
from suffice.explainers.lax.losses import lax_loss as lax_loss
from suffice.explainers.lax.losses import msi_loss as msi_loss
from suffice.explainers.lax.losses import soft_threshold as soft_threshold
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.explainers.raw_maps import RawMaps, own_choice
from suffice.progress import Progress
from suffice.question import Question


class LaxSettings(MethodSettings):
    """Settings of LAX as a method of `explain`."""

    adapter: str = ""  # the file that `suffice train-lax` wrote; there is none to fall back on
    alpha_min: float = Field(0.5, ge=0, lt=1)  # above it a pixel is in the mask
    # A mask that is not sufficient gives way to the smallest sufficient set of cells down the map, or never does.
    extract: Literal["when-needed", "always", "never"] = "when-needed"
    cell: int = Field(4, ge=1, le=64)  # side of those cells in pixels


def explain(question: Question, settings: LaxSettings, seed: int, progress: Progress) -> Candidate:
    """The LAX explanation of what `question` asks: the pixels above α_min, if they suffice.

    The adapter explains the class that the model chooses; for another target its map is the same.
    """
    adapter = _loaded(settings.adapter, question.classifier)
    _, maps = heatmaps(question.classifier, adapter, question.image[None])
    saliency = maps[0].numpy().astype(np.float64)
    mask, notes = saliency > settings.alpha_min, tuple(filter(None, (card_in_words(adapter.card),)))
    progress(0.5)
    if settings.extract == "never" or (
        settings.extract == "when-needed" and mask.any() and bool(question(torch.from_numpy(mask[None]))[0])
    ):
        return Candidate(saliency, mask, notes=notes)
    ranking = ranked_cells(saliency, settings.cell)
    needed = smallest_prefix(question, ranking)
    progress(1.0)
    if needed is None:
        return Candidate(saliency, mask, notes=notes)
    return Candidate(saliency, np.logical_or.reduce(ranking[:needed]), notes=notes)


def saliency(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: LaxSettings, progress: Progress
) -> RawMaps:
    """The heatmaps of many images, at the size of the input; they are the same for every target."""
    logits, maps = heatmaps(classifier, _loaded(settings.adapter, classifier), images)
    progress(1.0)
    return RawMaps(maps, own_choice(logits, targets))


_LOADED: weakref.WeakKeyDictionary[Classifier, dict[tuple[str, int], Adapter]] = weakref.WeakKeyDictionary()


def _loaded(path: str, classifier: Classifier) -> Adapter:
    """The adapter in a file, read once for a classifier as long as the file is the same."""
    if not path:
        raise InputError("the method lax needs an adapter that `suffice train-lax` wrote (adapter=FILE); got none")
    try:
        key = path, os.stat(path).st_mtime_ns
    except OSError:
        return load_adapter(path, classifier)  # which says what is wrong
    known = _LOADED.setdefault(classifier, {})
    if key not in known:
        known[key] = load_adapter(path, classifier)
    return known[key]


METHOD = Method(
    "lax",
    LaxSettings,
    explain,
    saliency=saliency,
    own_scale=True,
    needs={"adapter": "train-lax"},
    inside=True,
    fits=lambda classifier, settings: _loaded(settings.adapter, classifier),
)
