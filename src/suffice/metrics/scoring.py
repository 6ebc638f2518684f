"""Score explanations: `score` for one image and map, `score_many` for many, all metrics from one sweep.

>>> import torch, suffice
>>> class Corner(torch.nn.Module):  # class 1 where the top left pixel is bright
...     def forward(self, x):
...         return torch.stack([torch.full((len(x),), 0.5), x[:, 0, 0, 0]], 1) * 100
>>> classifier = suffice.Classifier(Corner(), input_size=(2, 2), mean=(0, 0, 0), std=(1, 1, 1))
>>> saliency = [[1.0, 0.2], [0.2, 0.0]]
>>> scores = suffice.score(classifier, torch.ones(3, 2, 2), saliency, ["msi", "msi_base", "msi_penalty", "area"])
>>> {name: round(value, 2) for name, value in scores.items()}
{'msi': 0.74, 'msi_base': 0.99, 'msi_penalty': 0.25, 'area': 0.25}
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from suffice.arrays import plain_tensor
from suffice.classifier import SIDES, Classifier
from suffice.errors import InputError, Notice
from suffice.explanation import Explanation
from suffice.images import as_image
from suffice.metrics.asking import Metrics, checked_metrics
from suffice.metrics.confidence_drop import check_fill
from suffice.metrics.evidence import Evidence, ScoreOptions, gather_evidence
from suffice.metrics.maps import as_saliency, scale_note
from suffice.metrics.metric import Metric
from suffice.metrics.scores import MapScores, Scores, ScoresByName, joined
from suffice.occlusion import (
    DEFAULT_FOR_MEASURES,
    AnyOcclusions,
    check_masks,
    joined_names,
    make_occlusions,
    split_names,
)
from suffice.outputs import as_tensor
from suffice.progress import Progress, with_bar
from suffice.registry import METHODS

if TYPE_CHECKING:
    pass

_ELEMENTS_AT_ONCE = 2**22  # of the images in one sweep: 27 of 224 x 224


@with_bar
def score(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    saliency: Any,
    metrics: Metrics = None,
    target: int | str | None = None,
    occlusion: AnyOcclusions = DEFAULT_FOR_MEASURES,
    *,
    label: int | str | None = None,
    threshold: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> MapScores:
    """The metrics of one explanation of one image.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes.
        saliency: an `Explanation`, or a map from any tool, larger = more important: (H, W), or with leading dimensions
            of 1, of any scale and sign; bool for a mask; a lower resolution is resized bilinearly; attributions of the
            input's channels are summed, see `suffice.metrics.as_saliency`.
        metrics: names in `METRICS`, or a `Metric` of your own; None for all of suffice's whose required options are
            given (`robustness_images` needs `backgrounds`).
        target: class by number or name; None for the explanation's target, or the model's own choice.
        occlusion: how absence is shown; of several joined by commas the worst counts: the least confidence where
            salient pixels are shown, the greatest where they are hidden. `zero` unless said, also for an explanation
            that was made under another, so that numbers can be compared (a warning says so);
            `explanation.occlusion` for its own.
        label: another name of `target`.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of every random draw.
        progress: called with the share of the work that is done. None: a bar, in a notebook or on a terminal.
        options: of the metrics, see `ScoreOptions`.

    Returns:
        By name, finite, in the order asked for: a dict that a notebook shows as a table. `METRICS[name]` says the range
        and which direction is better.

    Raises:
        InputError: an unknown metric, none at all, an option that none of the metrics knows, a map that is not finite
            or has other proportions than the image, a class or an occlusion that there is not.
    """
    found = score_maps(
        classifier,
        image,
        {"saliency": saliency},
        metrics,
        _one_target(target, label),
        occlusion,
        threshold=threshold,
        seed=seed,
        progress=progress,
        **options,
    )
    if isinstance(saliency, Explanation) and (other := judged_elsewhere(saliency, occlusion)):
        warnings.warn(Notice(f"{other}: occlusion={saliency.occlusion!r} asks as it was found"), stacklevel=3)
    for note in filter(None, found["saliency"].notes):
        warnings.warn(Notice(note), stacklevel=3)
    return MapScores(found["saliency"])


def target_of(maps: Iterable[Any], classifier: Classifier) -> int | None:
    """The class in a model that the explanations among some maps are of; None where there are none.

    Raises:
        InputError: they are of several, or as `Explanation.class_in`.
    """
    targets = {each.class_in(classifier) for each in maps if isinstance(each, Explanation)}
    if len(targets) > 1:
        raise InputError(f"expected a target, as the explanations have different targets; got {sorted(targets)}")
    return targets.pop() if targets else None


def judged_elsewhere(explanation: Explanation, occlusion: AnyOcclusions) -> str:
    """Says that a part is judged under another occlusion than it was found under; empty where it is the same."""
    names = joined_names(occlusion)
    if split_names(names) == split_names(explanation.occlusion):
        return ""
    return f"The explanation was made under {explanation.occlusion}, and is scored under {names}"


@with_bar
def score_maps(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    maps: Mapping[str, Any],
    metrics: Metrics = None,
    target: int | str | None = None,
    occlusion: AnyOcclusions = DEFAULT_FOR_MEASURES,
    *,
    label: int | str | None = None,
    threshold: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> ScoresByName:
    """The metrics of several maps of one image, side by side, from one sweep; with their curves.

    Args:
        classifier, image, metrics, occlusion, threshold, seed, progress, label, options: as of `score`.
        maps: by name; each as of `score`.
        target: class by number or name; None for the target of the explanations among the maps, or the model's own
            choice where there are none.

    Returns:
        By name, each `Scores` of one map. What the maps share is asked once, so `forward_passes` and `seconds` are of
        all maps together.

    Raises:
        InputError: as `score`; no map; explanations of different targets, and none said; or of a class that has another
            name in this model.
    """
    started, passes = time.perf_counter(), classifier.passes
    asked = checked_metrics(metrics, options)
    pixels, assumed = as_image(classifier, image)
    pixels = classifier.check_image(pixels)
    for note in assumed:
        warnings.warn(Notice(note), stacklevel=3)
    if not maps:
        raise InputError("expected at least one saliency map; got none")
    chosen = _one_target(target, label)
    if chosen is None:
        chosen = target_of(maps.values(), classifier)
    known = {option for metric in asked for option in metric.options}
    if "measure" in known:
        options = {"measure": "confidence", **options}
    scaled_here = "normalise" in known and options.get("normalise") is None

    # Explanations have a mask, and some a scale of their own; what is of one kind goes through one sweep.
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for name, each in maps.items():
        explained = isinstance(each, Explanation)
        kinds.setdefault((explained, explained and _own_scale(each, scaled_here)), []).append(name)
    found: dict[str, Scores] = {}
    for (explained, own_scale), members in kinds.items():
        of_kind = [maps[name] for name in members]
        values = [as_saliency(each.saliency if explained else each, pixels.shape[1:], len(pixels)) for each in of_kind]
        scores = score_many(
            classifier,
            pixels.expand(len(members), *pixels.shape),
            torch.stack([each.cpu().double() for each in values]),
            None if chosen is None else [chosen] * len(members),
            asked,
            occlusion,
            masks=torch.stack([each.mask for each in of_kind]) if explained else None,
            threshold=threshold,
            seed=seed,
            keep_maps=True,
            progress=_share_of(progress, len(found), len(members), len(maps)),
            **{**options, "normalise": "none"} if own_scale and scaled_here else options,
        )
        found |= {name: scores.only(index) for index, name in enumerate(members)}
    cost = {"forward_passes": classifier.passes.since(passes).forward, "seconds": time.perf_counter() - started}
    return ScoresByName({name: dataclasses.replace(found[name], **cost) for name in maps})  # type: ignore[arg-type]


@with_bar
def score_many(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    saliency: Tensor | np.ndarray[Any, Any],
    labels: Sequence[int | str] | Tensor | np.ndarray[Any, Any] | None = None,
    metrics: Metrics = None,
    occlusion: AnyOcclusions = DEFAULT_FOR_MEASURES,
    *,
    masks: Tensor | np.ndarray[Any, Any] | None = None,
    threshold: float = 0.0,
    seed: int = 0,
    keep_maps: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Scores:
    """The metrics of many maps, each with its image and label; by accuracy unless `measure` says otherwise.

    All metrics are means over images, of MSI as of its penalty (equation 5): `Scores.means` is a row of the paper's
    tables. Images and steps share full batches; images are taken some at a time, so that they need not fit a device.

    Args:
        classifier: which is asked.
        images: (N, C, H, W) in [0, 1]; for many maps of one image, `image.expand(N, -1, -1, -1)`, of which what does
            not depend on the map is asked once.
        saliency: (N, h, w); or (N, C, H, W), attributions of the C channels of the input, which are summed.
        labels: N classes, the true ones as a rule; None for those that the model gives the whole images.
        metrics, occlusion, threshold, seed, progress, options: as of `score`.
        masks: bool (N, H, W), the parts that `area`, `confidence`, `confidence_drop` and ρ are of; None for the
            pixels above `alpha_min`.
        keep_maps: whether the result holds the normalised maps and the parts: gigabytes, of a large data set.

    Raises:
        InputError: as `score`.
    """
    started, passes = time.perf_counter(), classifier.passes
    asked = checked_metrics(metrics, options)
    chosen = ScoreOptions(**options)
    chosen = chosen.model_copy(update={"measure": chosen.measure or "accuracy"})
    images, maps = as_tensor(images), plain_tensor(as_tensor(saliency), 2**62)
    sides = len(classifier.preprocessing.input_size)
    if images.ndim != 2 + sides or len(images) == 0:
        raise InputError(
            f"expected images (N, {', '.join(('C', *SIDES[sides]))}), at least one; got {tuple(images.shape)}"
        )
    if maps.ndim not in (1 + sides, 2 + sides) or len(maps) != len(images):
        raise InputError(f"expected a saliency map for each of {len(images)} images; got {tuple(maps.shape)}")
    classes = _labels(classifier, labels, len(images))
    parts = None if masks is None else check_masks(masks, images).cpu()
    occlusions = make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)
    if chosen.drop == "soft":
        for each in occlusions:
            check_fill(each)
    total = len(images)

    needs = list(dict.fromkeys(need for metric in asked for need in metric.needs))
    done: list[Scores] = []
    at_once = max(1, _ELEMENTS_AT_ONCE // images[0].numel())
    for first in range(0, total, at_once):
        some = slice(first, first + at_once)
        pixels = classifier.check_images(images[some])
        ranked = torch.stack([as_saliency(one[None], images.shape[2:], images.shape[1]) for one in maps[some]])
        evidence = gather_evidence(
            occlusions,
            pixels,
            ranked,
            None if classes is None else classes[some],
            None if parts is None else parts[some],
            needs,
            chosen,
            seed,
            _share_of(progress, first, len(pixels), total),
        )
        done.append(_scores_of(evidence, asked, ranked, keep_maps))
    cost = {"forward_passes": classifier.passes.since(passes).forward, "seconds": time.perf_counter() - started}
    by_name = {metric.name: metric for metric in asked}
    return dataclasses.replace(joined(done), metrics=by_name, **cost)  # type: ignore[arg-type]


def _scores_of(evidence: Evidence, asked: Sequence[Metric], maps: Tensor, keep_maps: bool) -> Scores:
    """The metrics of the maps, (N, H, W), that evidence was asked for."""
    return Scores(
        {metric.name: _values(metric, evidence) for metric in asked},
        evidence.curves(),
        evidence.answers.labels,
        evidence.answers.top,
        evidence.answers.whole_confidence,
        evidence.parts if keep_maps else None,
        evidence.saliency if keep_maps else None,
        (maps.flatten(1).amin(1) == maps.flatten(1).amax(1)).cpu(),
        draws={metric.name: metric.draws(evidence) for metric in asked if metric.draws is not None},
        notes=tuple(map(scale_note, maps, evidence.saliency, [evidence.options.alpha_min] * len(maps)))
        if any("normalise" in metric.options for metric in asked)
        else ("",) * len(maps),
    )


def _own_scale(explanation: Explanation, needed: bool) -> bool:
    """Whether the saliency of an explanation is on a scale of its own; one that is not known is said, where needed."""
    if explanation.method in METHODS:
        return METHODS[explanation.method].own_scale
    if needed:
        warnings.warn(
            f"the method {explanation.method!r} of an explanation is not installed here, so its saliency is taken to "
            "have no scale of its own and is normalised (min-max); the option normalise decides it",
            stacklevel=3,
        )
    return False


def _values(metric: Metric, evidence: Evidence) -> Tensor:
    values, count = metric.compute(evidence), len(evidence.images)
    if values.shape != (count,) or not bool(values.isfinite().all()):
        raise InputError(
            f"expected a finite value for each of {count} maps from the metric {metric.name}; got {values}"
        )
    return values


def _one_target(target: int | str | None, label: int | str | None) -> int | str | None:
    """The class that is meant, by either of its two names."""
    if target is not None and label is not None:
        raise InputError(f"expected the class once, as target; got target={target!r} and label={label!r}")
    return label if target is None else target


def _share_of(progress: Progress | None, first: int, count: int, total: int) -> Progress:
    return lambda share: None if progress is None else progress((first + share * count) / total)


def _labels(classifier: Classifier, labels: Any, count: int) -> Tensor | None:
    if labels is None:
        return None
    given = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    if len(given) != count:
        raise InputError(f"expected a label for each of {count} images; got {len(given)}")
    return torch.tensor([classifier.class_index(label) for label in given])
