"""Adapters: the networks that make a map of a classifier's features, their files, and the card that is saved with them.

Source: *Learning Quantifiable Visual Explanations Without Ground-Truth*, section 3.2, Algorithm 1; appendix A.3 for the
layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from suffice.arrays import read_safetensors
from suffice.classifier import Classifier
from suffice.engine import ByRow, seeded
from suffice.errors import InputError, reason
from suffice.features import Stage, record, spatial_stages
from suffice.files import parse_json, storable
from suffice.folders import OutputFolder
from suffice.naming import Naming
from suffice.provenance import sha256_of_tensors

_FORMAT = "suffice-lax-1"
_CARD = ".card.json"
_WIDTHS = (256, 128, 64)  # appendix A.3: 512 -> 256 -> 128 -> 64 -> 1
_FINE_WIDTH = 64
_FINE_STAGES = 3
_FINE_GAIN = 2.0  # of the map's logits, so that maps come close to 0 and 1 in fewer steps


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
    said += ", on the model's own choices" if card.get("labels") == "predicted" else ""
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
