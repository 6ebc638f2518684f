"""Any explanation to numbers: `score` for one image and map, `score_many` for many, all metrics from one sweep.

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
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from suffice.arrays import plain
from suffice.classifier import Classifier, as_tensor
from suffice.errors import InputError, Notice, did_you_mean
from suffice.explanation import Explanation
from suffice.images import as_image
from suffice.metrics import sweep
from suffice.metrics.confidence_drop import check_fill
from suffice.metrics.evidence import Curve, Progress, ScoreOptions, ask
from suffice.metrics.maps import as_saliency
from suffice.metrics.registry import METRICS
from suffice.metrics.standard_error import Mean, mean_with_error
from suffice.occlusion import check_masks, make_occlusions

_ELEMENTS_AT_ONCE = 2**22  # of the images in one sweep: 27 of 224 x 224


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The metrics of N maps.

    Attributes:
        values: by the name of the metric, float64 (N,); finite.
        curves: `insertion`, `deletion`, the same with `_percent`, `msi_show`, `msi_hide`: as far as they were needed.
        labels: int64 (N,), the classes that were meant; predicted: those that the model gives the whole images.
        confidence: float64 (N,), of the whole image in its label.
        parts: bool (N, H, W), what `area`, `confidence` and ρ are of; None unless they were to be kept.
        heat: float32 (N, H, W), the normalised maps, in [0, 1]; None unless they were to be kept.
        constant: bool (N,), whether a map ranks nothing.
        forward_passes: images that went through the model.
        seconds: wall time.
    """

    values: dict[str, Tensor]
    curves: dict[str, Curve]
    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    parts: Tensor | None
    heat: Tensor | None
    constant: Tensor
    forward_passes: int = 0
    seconds: float = 0.0

    def means(self) -> dict[str, Mean]:
        """The mean of each metric with its standard error."""
        return {name: mean_with_error(values.tolist()) for name, values in self.values.items()}

    def of(self, index: int) -> dict[str, float]:
        """The metrics of one map."""
        return {name: float(values[index]) for name, values in self.values.items()}

    def only(self, index: int) -> Scores:
        """The scores of one map alone."""
        row = slice(index, index + 1)
        kept = {
            name: getattr(self, name)[row]
            for name in ("labels", "predicted", "confidence", "parts", "heat", "constant")
        }
        return dataclasses.replace(
            self,
            values={name: values[row] for name, values in self.values.items()},
            curves={name: dataclasses.replace(curve, values=curve.values[row]) for name, curve in self.curves.items()},
            **kept,
        )


def score(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    saliency: Any,
    metrics: Iterable[str] | str | None = None,
    label: int | str | None = None,
    occlusion: str = "zero",
    *,
    threshold: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, float]:
    """The metrics of one explanation of one image.

    Args:
        classifier: which is asked.
        image: (C, H, W) in [0, 1], as `load_image` returns it, or whatever `load_image` takes.
        saliency: an `Explanation`, or a map from any tool, larger = more important: (H, W), or with leading dimensions
            of 1, of any scale and sign; bool for a mask; a lower resolution is resized bilinearly; attributions of the
            input's channels are summed, see `suffice.metrics.as_saliency`.
        metrics: names in `METRICS`; None for all (`robustness_images` only where `backgrounds` are given).
        label: class by number or name; None for the explanation's target, or the model's own choice.
        occlusion: how absence is shown; of several joined by commas the worst counts: the least confidence where
            salient pixels are shown, the greatest where they are hidden.
        threshold: τ in [0, 1) of `deactivate`.
        seed: of every random draw.
        progress: called with the share of the work that is done.
        options: of the metrics, see `ScoreOptions`.

    Returns:
        By name, finite, in the order asked for. `METRICS[name]` says the range and which direction is better.

    Raises:
        InputError: an unknown metric, none at all, an option that none of the metrics knows, a map that is not finite
            or has other proportions than the image, a class or an occlusion that there is not.
    """
    found = score_maps(
        classifier,
        image,
        {"saliency": saliency},
        metrics,
        label,
        occlusion,
        threshold=threshold,
        seed=seed,
        progress=progress,
        **options,
    )
    return found["saliency"].of(0)


def score_maps(
    classifier: Classifier,
    image: Tensor | np.ndarray[Any, Any],
    maps: Mapping[str, Any],
    metrics: Iterable[str] | str | None = None,
    label: int | str | None = None,
    occlusion: str = "zero",
    *,
    threshold: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Scores]:
    """The metrics of several maps of one image, side by side, from one sweep; with their curves.

    Args:
        classifier, image, metrics, occlusion, threshold, seed, progress, options: as of `score`.
        maps: by name; each as of `score`.
        label: class by number or name; None for the target of the explanations among the maps, or the model's own
            choice where there are none.

    Returns:
        By name, each `Scores` of one map. What the maps share is asked once, so `forward_passes` and `seconds` are of
        all maps together.

    Raises:
        InputError: as `score`; no map; or explanations of different targets, and no label.
    """
    started, passes = time.perf_counter(), classifier.forward_passes
    names = check_metrics(metrics, **options)
    pixels, assumed = as_image(classifier, image)
    if pixels.ndim != 3:
        raise InputError(f"expected one image (C, H, W); got {tuple(pixels.shape)}")
    for note in assumed:
        warnings.warn(Notice(note), stacklevel=2)
    if not maps:
        raise InputError("expected at least one saliency map; got none")
    targets = sorted({each.target for each in maps.values() if isinstance(each, Explanation)})
    if label is None and len(targets) > 1:
        raise InputError(f"expected a label, as the explanations have different targets; got {targets}")
    chosen = label if label is not None or not targets else targets[0]
    if any("measure" in METRICS[name].options for name in names):
        options = {"measure": "confidence", **options}

    # Explanations have a mask, and that of LAX a scale of its own; what is of one kind goes through one sweep.
    kinds: dict[tuple[bool, bool], list[str]] = {}
    for name, each in maps.items():
        explained = isinstance(each, Explanation)
        kinds.setdefault((explained, explained and each.method == "lax"), []).append(name)
    found: dict[str, Scores] = {}
    for (explained, lax), members in kinds.items():
        of_kind = [maps[name] for name in members]
        heat = [as_saliency(each.saliency if explained else each, pixels.shape[1:], len(pixels)) for each in of_kind]
        scaled = lax and any("normalise" in METRICS[name].options for name in names)
        scores = score_many(
            classifier,
            pixels.expand(len(members), *pixels.shape),
            torch.stack([each.cpu().double() for each in heat]),
            None if chosen is None else [chosen] * len(members),
            names,
            occlusion,
            masks=torch.stack([each.mask for each in of_kind]) if explained else None,
            threshold=threshold,
            seed=seed,
            keep_maps=True,
            progress=_share_of(progress, len(found), len(members), len(maps)),
            **{"normalise": "none", **options} if scaled else options,
        )
        found |= {name: scores.only(index) for index, name in enumerate(members)}
    cost = {"forward_passes": classifier.forward_passes - passes, "seconds": time.perf_counter() - started}
    return {name: dataclasses.replace(found[name], **cost) for name in maps}  # type: ignore[arg-type]


def score_many(
    classifier: Classifier,
    images: Tensor | np.ndarray[Any, Any],
    saliency: Tensor | np.ndarray[Any, Any],
    labels: Sequence[int | str] | Tensor | np.ndarray[Any, Any] | None = None,
    metrics: Iterable[str] | str | None = None,
    occlusion: str = "zero",
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
    started, passes = time.perf_counter(), classifier.forward_passes
    names = check_metrics(metrics, **options)
    chosen = ScoreOptions(**options)
    chosen = chosen.model_copy(update={"measure": chosen.measure or "accuracy"})
    images, maps = as_tensor(images), plain(as_tensor(saliency), 2**62)
    if images.ndim != 4 or len(images) == 0:
        raise InputError(f"expected images (N, C, H, W), at least one; got {tuple(images.shape)}")
    if maps.ndim not in (3, 4) or len(maps) != len(images):
        raise InputError(f"expected a saliency map for each of {len(images)} images; got {tuple(maps.shape)}")
    classes = _labels(classifier, labels, len(images))
    parts = None if masks is None else check_masks(masks, images).cpu()
    ways = make_occlusions(classifier, occlusion, threshold=threshold, seed=seed)
    if chosen.drop == "soft":
        for way in ways:
            check_fill(way)
    total = len(images)

    needs = list(dict.fromkeys(need for name in names for need in METRICS[name].needs))
    done: list[Scores] = []
    at_once = max(1, _ELEMENTS_AT_ONCE // images[0].numel())
    for first in range(0, total, at_once):
        some = slice(first, first + at_once)
        pixels = classifier.check_images(images[some])
        heat = torch.stack([as_saliency(one[None], images.shape[2:], images.shape[1]) for one in maps[some]])
        evidence = ask(
            ways,
            pixels,
            heat,
            None if classes is None else classes[some],
            None if parts is None else parts[some],
            needs,
            chosen,
            seed,
            _share_of(progress, first, len(pixels), total),
        )
        done.append(
            Scores(
                {name: METRICS[name].of(evidence) for name in names},
                evidence.curves(),
                evidence.answers.labels,
                evidence.answers.top,
                evidence.answers.whole_confidence,
                evidence.parts if keep_maps else None,
                evidence.heat if keep_maps else None,
                (heat.amin((1, 2)) == heat.amax((1, 2))).cpu(),
            )
        )
    return _joined(done, classifier.forward_passes - passes, time.perf_counter() - started)


def check_metrics(metrics: Iterable[str] | str | None, **options: Any) -> list[str]:
    """The metrics' names, after all that can be wrong with the call is said, before anything is loaded.

    Raises:
        InputError: an unknown metric, none at all, an option that none of them knows or that is out of range.
    """
    names = [metrics] if isinstance(metrics, str) else None if metrics is None else list(metrics)
    if names is None:
        names = [name for name in METRICS if name != "robustness_images" or options.get("backgrounds") is not None]
    if not names:
        raise InputError(f"expected at least one metric of {', '.join(METRICS)}; got none")
    for name in names:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}; expected {', '.join(METRICS)}")
    known = dict.fromkeys(option for name in names for option in METRICS[name].options)
    for option in options:
        if option not in known:
            raise InputError(
                f"unknown option {option!r} of {', '.join(names)}{did_you_mean(option, known)}; "
                f"expected {', '.join(known) or 'none'}"
            )
    try:
        ScoreOptions(**options)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"option {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; got {first['input']!r}"
        ) from None
    if "robustness_images" in names and options.get("backgrounds") is None:
        raise InputError("expected the option backgrounds, images of other classes, for robustness_images; got none")
    return list(dict.fromkeys(names))


def complete_options(
    metrics: Iterable[str] | str | None, measure: str = "confidence", **options: Any
) -> dict[str, Any]:
    """Every option that the metrics know but backgrounds, with its value, for a record of what was asked."""
    names = check_metrics(metrics, **options)
    known = {option for name in names for option in METRICS[name].options}
    chosen = ScoreOptions(measure=measure, **options).model_dump()  # type: ignore[arg-type]  # checked there
    if chosen["step"] is None:
        chosen["step"] = {"by value": sweep.STEP_BY_VALUE, "percent": sweep.STEP_PERCENT}
    if chosen["normalise"] is None:
        chosen["normalise"] = "min-max, none for explanations by lax"
    return {name: value for name, value in chosen.items() if name in known and name != "backgrounds"}


def _share_of(progress: Progress | None, first: int, count: int, total: int) -> Progress:
    return lambda share: None if progress is None else progress((first + share * count) / total)


def _labels(classifier: Classifier, labels: Any, count: int) -> Tensor | None:
    if labels is None:
        return None
    given = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) else list(labels)
    if len(given) != count:
        raise InputError(f"expected a label for each of {count} images; got {len(given)}")
    return torch.tensor([classifier.class_index(label) for label in given])


def _joined(done: Sequence[Scores], forward_passes: int, seconds: float) -> Scores:
    first = done[0]
    return Scores(
        {name: torch.cat([each.values[name] for each in done]) for name in first.values},
        {
            name: dataclasses.replace(curve, values=torch.cat([each.curves[name].values for each in done]))
            for name, curve in first.curves.items()
        },
        torch.cat([each.labels for each in done]),
        torch.cat([each.predicted for each in done]),
        torch.cat([each.confidence for each in done]),
        _all_of([each.parts for each in done]),
        _all_of([each.heat for each in done]),
        torch.cat([each.constant for each in done]),
        forward_passes,
        seconds,
    )


def _all_of(maps: Sequence[Tensor | None]) -> Tensor | None:
    kept = [each for each in maps if each is not None]
    return torch.cat(kept) if kept else None
