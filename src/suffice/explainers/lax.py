"""LAX: an adapter on a frozen classifier, trained to give a saliency map in the pass that classifies.

>>> import torch, suffice
>>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
...                               torch.nn.Flatten(), torch.nn.Linear(4, 3))
>>> classifier = suffice.Classifier(network, input_size=(16, 16))
>>> adapter = new_adapter(classifier, AdapterSettings(design="paper"))  # untrained: `suffice train-lax` trains it
>>> logits, maps = heatmaps(classifier, adapter, torch.rand(2, 3, 16, 16))
>>> logits.shape, maps.shape, classifier.forward_passes  # one forward pass an image gives both
(torch.Size([2, 3]), torch.Size([2, 16, 16]), 2)

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

import dataclasses
import itertools
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from suffice.arrays import read_safetensors
from suffice.classifier import Classifier
from suffice.engine import ByRow, seeded
from suffice.errors import InputError, reason
from suffice.explainers.extraction import ranked_cells, smallest_prefix
from suffice.explainers.method import Candidate, Method, MethodSettings
from suffice.explainers.raw_maps import RawMaps, own_choice
from suffice.features import Stage, record, spatial_stages
from suffice.files import parse_json, storable
from suffice.folders import OutputFolder
from suffice.naming import Naming
from suffice.progress import Progress
from suffice.provenance import sha256_of_tensors
from suffice.question import Question

_FORMAT = "suffice-lax-1"
_CARD = ".card.json"
_WIDTHS = (256, 128, 64)  # appendix A.3: 512 -> 256 -> 128 -> 64 -> 1
_FINE_WIDTH = 64
_FINE_STAGES = 3
_FINE_GAIN = 2.0  # of the map's logits, so that maps come close to 0 and 1 in fewer steps
_EPSILON = 1e-8


class AdapterSettings(BaseModel):
    """Settings of an adapter's architecture; unknown settings and values out of range are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: Literal["paper", "fine"] = "fine"
    least_map: int = Field(1, ge=1, le=64)  # paper: features below this side are upsampled to it (CIFAR-10: 8)
    stride: int = Field(4, ge=1, le=32)  # fine: no stage finer than this many pixels is read
    seed: int = Field(0, ge=0, lt=2**31)  # of the first weights


class PaperAdapter(nn.Module):
    """C -> 256 -> 128 -> 64 -> 1 convolutions (3 x 3, ReLU between) on the last spatial features.

    Args:
        channels: of the features.
        least_map: features of a smaller side are upsampled to it, bilinearly, inside of the module.

    Source: appendix A.3.1.
    """

    def __init__(self, channels: int, least_map: int = 1) -> None:
        super().__init__()
        sizes = (channels, *_WIDTHS, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(sizes)
        )
        self.least_map = least_map

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the map (N, 1, h, w) from the maps of one stage, a sequence of one tensor (N, C, h, w)."""
        (x,) = features
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else F.relu(x))
            short = min(x.shape[2:])
            if number == 0 and short < self.least_map:
                scale = self.least_map / short
                size = [round(side * scale) for side in x.shape[2:]]
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x


class FineAdapter(nn.Module):
    """From the coarsest stage to the finest: upsample, add the next stage, convolve.

    Args:
        channels: of each stage, coarse to fine.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, _FINE_WIDTH, 1) for c in channels)
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, _FINE_WIDTH),
                nn.ReLU(),
                nn.Conv2d(_FINE_WIDTH, _FINE_WIDTH, 3, padding=1),
                nn.GroupNorm(8, _FINE_WIDTH),
                nn.ReLU(),
            )
            for _ in channels
        )
        self.head = nn.Conv2d(_FINE_WIDTH, 1, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the map (N, 1, h, w), at the resolution of the finest stage, from (N, C, h, w) of each stage."""
        x: Tensor | None = None
        for feature, lateral, smooth in zip(features, self.lateral, self.smooth, strict=True):
            here = lateral(feature)
            if x is not None:
                here = here + F.interpolate(x, size=here.shape[2:], mode="bilinear", align_corners=False)
            x = smooth(here)
        assert x is not None
        return _FINE_GAIN * self.head(x)


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter for one classifier.

    Attributes:
        module: from the maps of `stages` to the logits of the heatmap.
        stages: of the classifier, in the order in which the module takes them.
        settings: what shaped it.
        backbone: what it was made for: name, stages, and a sum of the weights.
        trained: how it was trained, as its file says it; empty for a new one.
        card: what must be known of it (`suffice.training.card`): data, base, MSI on test images, failures; empty for a
            new one, and for those that earlier versions wrote.
    """

    module: nn.Module
    stages: tuple[Stage, ...]
    settings: AdapterSettings
    backbone: Mapping[str, Any]
    trained: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def heatmaps(self, activations: Mapping[str, Tensor], size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The heatmap from recorded activations, twice, in [0, 1].

        Returns:
            (N, 1, h, w) at the resolution of the features, and (N, H, W) at `size`.

        Source: Algorithm 1, steps 2b and 3. The paper upsamples what the sigmoid gives, so that an edge becomes a ramp,
        whose pixels draw the outline of the part and give the class away (Hide of MSI). The design `fine` upsamples
        before the sigmoid, which keeps the edge.
        """
        logits = self.module([stage.maps(activations[stage.name]) for stage in self.stages]).float()
        low = torch.sigmoid(logits)
        if self.settings.design == "fine":
            return low, torch.sigmoid(upsampled(logits, size))
        return low, upsampled(low, size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write safetensors with settings and card in its header, and the card beside it, as `NAME.card.json`.

        The files appear whole or not at all.

        Raises:
            InputError: it cannot be written, or another file is there that suffice did not write.
        """
        from safetensors.torch import save

        header = {
            "format": _FORMAT,
            "settings": self.settings.model_dump(),
            "backbone": dict(self.backbone),
            "trained": dict(self.trained),
            "card": dict(self.card),
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.state_dict().items()}
        path = Path(path)
        files: dict[str, bytes | str] = {path.name: save(state, {"suffice": json.dumps(header)})}
        if self.card:
            files[f"{path.stem}{_CARD}"] = json.dumps(dict(self.card), indent=2) + "\n"
        OutputFolder(path.parent, "train-lax").write(files)


def new_adapter(classifier: Classifier, settings: AdapterSettings) -> Adapter:
    """An untrained adapter for a classifier, whose spatial features are found by themselves.

    Raises:
        InputError: a classifier without spatial features.
    """
    stages = _stages(classifier, settings)
    with seeded(settings.seed):
        channels = [stage.channels for stage in stages]
        module: nn.Module = (
            PaperAdapter(channels[0], settings.least_map) if settings.design == "paper" else FineAdapter(channels)
        )
    return Adapter(module.to(classifier.device).eval(), tuple(stages), settings, _backbone(classifier, stages))


def load_adapter(path: str | os.PathLike[str], classifier: Classifier) -> Adapter:
    """The adapter in a file, for the classifier that it was trained on.

    Raises:
        InputError: no such file, not an adapter, or one that was trained on another backbone or other weights of it.
    """
    what = "an adapter that `suffice train-lax` wrote"
    state, about = read_safetensors(Path(path), what)
    try:
        header = parse_json(storable(about.get("suffice", "{}")).encode(), what)
        if header.get("format") != _FORMAT:
            raise InputError(f"expected an adapter that `suffice train-lax` wrote; {path} holds something else")
        settings, made_for = AdapterSettings(**header["settings"]), header["backbone"]
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # pydantic's, and those of another structure
        raise InputError(
            f"expected an adapter that `suffice train-lax` wrote in {path}; got {reason(error)}"
        ) from error
    adapter = new_adapter(classifier, settings)
    for what, word in (("stages", "features"), ("weights", "weights")):
        if made_for[what] != adapter.backbone[what]:
            found, wanted = _short(adapter.backbone[what]), _short(made_for[what])
            raise InputError(
                f"{path} was trained on {made_for['model']} and fits no other backbone: expected {word} {wanted}; "
                f"{classifier.name} has {found}"
            )
    adapter.module.load_state_dict(state)
    return dataclasses.replace(adapter, trained=header["trained"], card=_checked_card(header.get("card", {}), path))


def _checked_card(card: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        card_in_words(card)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"expected the card of an adapter in {path}; got {reason(error)}") from error
    return card


def card_in_words(card: Mapping[str, Any]) -> str:
    """The card of an adapter in one line; empty for an empty one.

    >>> failures = {"unreadable": [], "misclassified": [3], "insufficient": [3, 7], "complement_keeps_class": []}
    >>> test = {"images": 100, "msi": {"mean": 0.8631, "standard_error": 0.0191}, "failures": failures}
    >>> card_in_words({"data": {"name": "photos", "images": 24}, "test": test})  # doctest: +NORMALIZE_WHITESPACE
    'adapter trained on 24 images of photos; on 100 test images MSI 0.863 ± 0.019, on whose terms it was trained; of
    these 1 misclassified, 2 insufficient'
    """
    if not card:
        return ""
    said = f"adapter trained on {int(card['data']['images']):,} images of {card['data']['name']}"
    test = card.get("test")
    if not test:
        return f"{said}; not tested"
    failed = ", ".join(
        f"{len(which)} {str(name).replace('_', ' ')}" for name, which in test["failures"].items() if which
    )
    if "msi" not in test:
        return f"{said}; of {test['images']} test images {failed}"
    error = test["msi"]["standard_error"]
    msi = f"{float(test['msi']['mean']):.3f}" + ("" if error is None else f" ± {float(error):.3f}")
    said += f"; on {int(test['images']):,} test images MSI {msi}, on whose terms it was trained"
    return f"{said}; of these {failed}" if failed else said


def heatmaps(classifier: Classifier, adapter: Adapter, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and heatmaps from one forward pass an image: the adapter reads the features that the logits come from.

    Args:
        classifier: its `forward_passes` grow by N.
        adapter: of this classifier.
        images: (N, C, H, W) in [0, 1].

    Returns:
        float32 logits (N, K), and maps (N, H, W) in [0, 1], 0 = unimportant, on the CPU.

    Raises:
        InputError: images of another shape or range, or an adapter of another classifier.

    Source: Algorithm 1, steps 1 to 3.
    """
    images = classifier.check_images(images)
    modules = dict(classifier.require_module("LAX").named_modules())
    if any(modules.get(stage.name) is not stage.module for stage in adapter.stages):
        raise InputError(f"expected an adapter that was made or loaded for this very classifier, {classifier.name}")

    def question(module: Any, x: Tensor) -> ByRow:
        with record(classifier, adapter.stages) as activations:
            output = module(classifier.normalise(x))
            _, maps = adapter.heatmaps(activations, x.shape[2:])
        return ByRow(output, (maps.cpu(),))

    logits, (maps,) = classifier.ask(question, images)
    return logits, maps


def upsampled(low: Tensor, size: Sequence[int]) -> Tensor:
    """(N, H, W) of `size` from (N, 1, h, w), bilinearly: Algorithm 1, step 3."""
    return F.interpolate(low, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def entropy(maps: Tensor, temperature: float = 0.5) -> Tensor:
    """Mean entropy of P = softmax(max(0, M)/t) over the pixels of each map; least, 0, where one pixel has it all.

    Args:
        maps: (N, …), after the sigmoid, at low resolution.
        temperature: t above 0.

    Source: equation 7.

    >>> round(float(entropy(torch.zeros(1, 4))), 4)  # log 4: all alike
    1.3863
    >>> round(float(entropy(torch.tensor([[0.0, np.log(3) / 2]]), 0.5)), 4)  # P = 1/4, 3/4
    0.5623
    """
    p = torch.softmax(maps.flatten(1).clamp(min=0) / temperature, 1)
    return -(p * torch.log(p + _EPSILON)).sum(1).mean()


def lax_loss(
    masked_logits: Tensor, labels: Tensor, maps: Tensor, weight: float, temperature: float
) -> dict[str, Tensor]:
    """Equation 9: cross-entropy of what the model says of X ⊙ M, plus λ times the entropy of M.

    Args:
        masked_logits: (N, K), of the image times its upsampled map (Algorithm 1, steps 4 and 5).
        labels: (N,).
        maps: (N, 1, h, w), M at low resolution.
        weight: λ.
        temperature: t.
    """
    cross, spread = F.cross_entropy(masked_logits, labels), entropy(maps, temperature)
    return {"loss": cross + weight * spread, "cross_entropy": cross, "entropy": spread}


def msi_loss(
    shown_logits: Tensor, rest_logits: Tensor, labels: Tensor, maps: Tensor, area_weight: float, rest_weight: float
) -> dict[str, Tensor]:
    """The terms of MSI as a loss: what is shown keeps the class, the rest loses it, and the area is paid for.

    Args:
        shown_logits: (N, K), with the pixels above a threshold alone: Show(> α) of equations 1 and 2.
        rest_logits: (N, K), with the pixels below a threshold alone: Show(< α_min) of equation 1.
        labels: (N,).
        maps: (N, H, W) in [0, 1], whose mean stands for the area (equation 5).
        area_weight, rest_weight: of the terms.
    """
    shown = F.cross_entropy(shown_logits, labels)
    probability = rest_logits.softmax(1).gather(1, labels[:, None])[:, 0]
    # -log(1 - p): as the cross-entropy of "not this class". Bounded, so that one image cannot outweigh a batch.
    rest = -torch.log1p(-probability.clamp(max=1 - 1e-4)).mean()
    area = maps.mean()
    return {"loss": shown + rest_weight * rest + area_weight * area, "shown": shown, "rest": rest, "area": area}


def soft_threshold(maps: Tensor, alpha: Tensor | float, width: float = 0.1) -> Tensor:
    """How far maps exceed α: 0 well below it, 1/2 at it, 1 well above, the logistic function of (M - α)/width.

    >>> soft_threshold(torch.tensor([0.1, 0.5, 0.9]), 0.5)
    tensor([0.0180, 0.5000, 0.9820])
    """
    return torch.sigmoid((maps - alpha) / width)


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


def _stages(classifier: Classifier, settings: AdapterSettings) -> list[Stage]:
    found = spatial_stages(classifier)
    if settings.design == "paper":
        return found[-1:]
    height = classifier.preprocessing.input_size[0]
    return [stage for stage in reversed(found) if height / stage.height >= settings.stride or stage is found[-1]][
        :_FINE_STAGES
    ]


def _backbone(classifier: Classifier, stages: Sequence[Stage]) -> dict[str, Any]:
    """What an adapter is made for: it reads features, so other weights make it as useless as another network."""
    return {
        "model": Naming(classifier.name)(classifier.name),
        "stages": [[stage.name, stage.channels, stage.height, stage.width, stage.layout] for stage in stages],
        "weights": sha256_of_tensors(classifier.require_module("LAX")),
    }


def _short(what: Any) -> str:
    if isinstance(what, str):
        return what[:12]
    return "; ".join(f"{name or 'output'} {channels}x{height}x{width}" for name, channels, height, width, _ in what)


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
