"""The parts that a model's decisions rest on, as the benchmark's rows and explanations have them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from suffice.audit.sample import Prediction
from suffice.audit.settings import DRAWS
from suffice.benchmark.explanations import unpack
from suffice.benchmark.plan import Level, Setup, explanation_id
from suffice.benchmark.results import Results
from suffice.explainers.extraction import Mask
from suffice.explanation import Explanation
from suffice.guarantees.interval import CONFIDENCE, at_least

SECOND_PART = ", second part"
"""At the end of the name of a part that was found where the first was hidden."""


class Packed(NamedTuple):
    """A mask, eight pixels to a byte.

    >>> Packed.of(np.eye(3, dtype=bool)).mask.astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """

    bits: bytes
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Mask) -> Packed:
        """Of bool (H, W)."""
        return cls(np.packbits(mask).tobytes(), (mask.shape[0], mask.shape[1]))

    @property
    def mask(self) -> Mask:
        """Bool (H, W)."""
        height, width = self.shape
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=height * width)
        return bits.astype(bool).reshape(self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """The part of one image that alone keeps a class.

    Attributes:
        image: what the model says of all of it.
        target: class that the part keeps.
        area: share of the pixels, in [0, 1].
        sufficient: whether it is what was asked for.
        kept: of `DRAWS` colours, on how many it keeps the class; None where that was not measured, or no pixel is
            needed: the class is there on any colour, and no part is tested.
        inside: share of the part that lies in the object's box; None where no box is known, or no pixel is needed.
        second: whether it was found where the first part was hidden.
        bits, shape: the mask, packed; (height, width) in model coordinates.
    """

    image: Prediction
    target: int
    area: float
    sufficient: bool
    kept: int | None
    bits: bytes = dataclasses.field(repr=False)
    shape: tuple[int, int]
    inside: float | None = None
    second: bool = False

    @property
    def name(self) -> str:
        """Of the image, and which of its parts it is."""
        return self.image.name + SECOND_PART * self.second

    @property
    def mask(self) -> Mask:
        """Bool (H, W) in model coordinates."""
        return Packed(self.bits, self.shape).mask

    @property
    def empty(self) -> bool:
        """Whether the class needs no pixel: the model says it when all is hidden."""
        return self.sufficient and self.area == 0

    @property
    def usable(self) -> bool:
        """Whether it is evidence: sufficient, and not empty."""
        return self.sufficient and self.area > 0

    @property
    def centre(self) -> tuple[float, float]:
        """Mean row and column of its pixels, each in [0, 1]; the middle for an empty part."""
        rows, columns = np.nonzero(self.mask)
        if not len(rows):
            return 0.5, 0.5
        height, width = self.shape
        return float((rows.mean() + 0.5) / height), float((columns.mean() + 0.5) / width)

    @property
    def rho_at_least(self) -> float | None:
        """Lower bound of ρ, the share of all colours on which it keeps the class, at 95%."""
        return None if self.kept is None else at_least(self.kept, DRAWS, CONFIDENCE)


def share_inside(part: Mask, thing: Mask) -> float | None:
    """The share of a part's pixels that lie on an object; None for an empty part.

    >>> share_inside(np.array([[True, True], [True, False]]), np.array([[True, False], [False, False]]))
    0.3333333333333333
    """
    return float((part & thing).sum() / part.sum()) if part.any() else None


def where_of(centres: Sequence[tuple[float, float]], area: float) -> str:
    """Where in the frame parts lie, in words.

    >>> where_of([(0.9, 0.1), (0.85, 0.15)], 0.02), where_of([(0.1, 0.1), (0.9, 0.9)], 0.02)
    ('lower left', 'all over the frame')
    """
    if area > 0.5:
        return "most of the frame"
    points = np.array(centres)
    if len(points) > 1 and float(points.std(0).max()) > 0.2:
        return "all over the frame"
    row, column = points.mean(0)
    down = "upper" if row < 1 / 3 else "lower" if row > 2 / 3 else ""
    across = "left" if column < 1 / 3 else "right" if column > 2 / 3 else ""
    if not down and not across:
        return "middle"
    return f"{down} {across}".strip() if down and across else f"{down or across} {'middle' if down else 'side'}"


def read_parts(folder: Path, images: Sequence[Prediction]) -> tuple[list[Part], dict[str, str]]:
    """The parts of the images that a benchmark has explained, and the errors of those that it could not.

    Args:
        folder: of its results.
        images: that were asked for.
    """
    results = Results(folder)
    setup, _ = _asked(results)
    by_name = {image.name: image for image in images}
    rho: dict[str, float] = {}
    errors: dict[str, str] = {}
    for row in results.columns(("setup", "image", "metric", "value", "status", "error")):
        if row["setup"] != setup.id or row["image"] not in by_name:
            continue
        if row["status"] != "done":
            errors.setdefault(row["image"], row["error"])
        else:
            errors.pop(row["image"], None)
            if row["metric"] == "certified_rho":
                rho[row["image"]] = row["value"]
    kept = {round(at_least(count, DRAWS, CONFIDENCE), 9): count for count in range(DRAWS + 1)}
    parts = []
    for name, found in explanations(folder, list(by_name)):
        parts.append(
            Part(
                image=by_name[name],
                target=found.target,
                area=found.area,
                sufficient=found.sufficient,
                # The bound tells the count that it is of.
                kept=kept.get(round(rho[name], 9)) if name in rho and found.verdict != "empty" else None,
                **Packed.of(found.mask.numpy())._asdict(),
            )
        )
    order = {image.name: index for index, image in enumerate(images)}
    return sorted(parts, key=lambda part: order[part.name]), errors


def explanations(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, Explanation]]:
    """The stored explanations of some images, in the order in which they lie on the disk."""
    results = Results(folder)
    setup, level = _asked(results)
    there = results.stored()
    wanted = {explanation_id(setup, name, level): name for name in names}
    for identifier in sorted(wanted.keys() & there.keys(), key=lambda each: there[each]):
        row = results.load(identifier)
        assert row is not None
        result = unpack(row).result
        assert isinstance(result, Explanation)
        yield wanted[identifier], result


def _asked(results: Results) -> tuple[Setup, Level]:
    """The one setup and level of an audit's benchmark."""
    run = results.read_run()
    assert run is not None  # it has just run
    (setup,), (level,) = run["setups"], run["levels"]
    fields = [field.name for field in dataclasses.fields(Setup)]
    indices = {name: setup[name] for name in fields if name not in ("dataset", "model", "method")}
    return Setup(**indices, dataset=0, model=0, method=0), Level(**level)


def joined(parts: Sequence[Part]) -> list[Part]:
    """One part for each image: where it has several they become one, named after the first.

    Two parts of one image are no two cases, and where either would do, hiding one of them shows nothing.
    """
    by_image: dict[int, list[Part]] = {}
    for part in parts:
        by_image.setdefault(part.image.number, []).append(part)
    return [some[0] if len(some) == 1 else _as_one(some) for some in by_image.values()]


def _as_one(parts: Sequence[Part]) -> Part:
    masks = np.stack([part.mask for part in parts])
    known = [(part.inside, part.area) for part in parts if part.inside is not None]
    total = sum(area for _, area in known)
    return dataclasses.replace(
        parts[0],
        bits=np.packbits(masks.any(0)).tobytes(),
        area=float(masks.any(0).mean()),
        inside=sum(inside * area for inside, area in known) / total if total else None,
    )


def as_tensor(masks: Sequence[Mask]) -> Tensor:
    """Masks as bool (N, H, W)."""
    return torch.from_numpy(np.stack(masks))


def by_target(parts: Sequence[Part]) -> Mapping[int, list[Part]]:
    """Parts by the class that they keep."""
    found: dict[int, list[Part]] = {}
    for part in parts:
        found.setdefault(part.target, []).append(part)
    return found
