"""Two runs of a benchmark, compared image by image."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from suffice.benchmark.config import canonical
from suffice.benchmark.entries import Table, TableEntry, word
from suffice.benchmark.plan import changes
from suffice.benchmark.tables import Report
from suffice.benchmark.values import ResultGroup, beyond_error, metric_of
from suffice.errors import InputError
from suffice.metrics import Mean, mean_with_error


@dataclasses.dataclass(frozen=True)
class Change:
    """How the mean of a group of results differs between two runs.

    Attributes:
        group: in both.
        before, after: means over the images that both have.
        difference: after minus before, paired by image.
        largest: difference of one image, by its absolute value.
        equal: whether every image has the same value in both, bit for bit.
    """

    group: ResultGroup
    before: Mean
    after: Mean
    difference: Mean
    largest: float
    equal: bool

    @property
    def verdict(self) -> str:
        """Whether the second run is better or worse, beyond two standard errors of the paired difference."""
        if self.difference.count < 2:
            return "one image"
        if not beyond_error(self.difference):
            return "within the error"
        return "better" if (self.difference.value > 0) == metric_of(self.group.metric).higher_is_better else "worse"


def compare(before: Report, after: Report) -> list[Change]:
    """Compare every group of results that both runs have, over the images that both have."""
    found = []
    for group, images in after.values.items():
        both = sorted(images.keys() & before.values.get(group, {}).keys())
        if both:
            pairs = [(before.values[group][image], images[image]) for image in both]
            found.append(
                Change(
                    group,
                    mean_with_error(b for b, _ in pairs),
                    mean_with_error(a for _, a in pairs),
                    mean_with_error(a - b for b, a in pairs),
                    max((a - b for b, a in pairs), key=abs),
                    all(a == b for b, a in pairs),
                )
            )
    return found


def comparison_table(before: Report, after: Report) -> Table:
    """Where two runs differ, those furthest apart, in standard errors, first; and what was changed.

    Raises:
        InputError: they have no group in common.
    """
    found = compare(before, after)
    if not found:
        raise InputError("expected two runs with data sets, models, methods and metrics in common; these have none")
    changed = [change for change in found if not change.equal]
    changed.sort(key=lambda c: -abs(c.difference.value) / (c.difference.standard_error or 1e-12))
    rows = []
    for change in changed:
        group, metric = change.group, metric_of(change.group.metric)
        level = word("level", group.level, group.at)
        name = ", ".join([group.dataset, group.model, group.method, group.occlusion, level, group.metric])
        texts = [
            f"{change.before.value:.4g}",
            f"{change.after.value:.4g}",
            f"{change.difference:+.4g}",
            f"{change.largest:+.4g}",
        ]
        entries = [TableEntry(None, False, text) for text in (*texts, str(change.after.count), change.verdict)]
        rows.append((f"{name} {metric.arrow}", tuple(entries)))
    note = f"{len(found) - len(changed)} of {len(found)} means are of equal values, image by image, and not listed."
    missing = len(after.values) - len(found), len(before.values) - len(found)
    if any(missing):
        note += f" {missing[0]} means are in the second run only, {missing[1]} in the first only."
    lines = what_changed(before, after)
    note += f" Changed from the first run to the second: {'; '.join(lines) or 'nothing that is known'}."
    columns = ("before", "after", "difference", "largest of one image", "images", "")
    return Table("Comparison of two runs, paired by image", "", columns, tuple(rows), note)


def what_changed(before: Report, after: Report) -> list[str]:
    """What was asked otherwise in the second of two runs, and what it was made under, in a line each."""
    lines = changes(before.config.model_dump(mode="json"), after.config)
    made = [_made_under(report.provenance) for report in (before, after)]
    for name in dict.fromkeys([*made[0], *made[1]]):
        old, new = (", ".join(found.get(name, ["none"])) for found in made)
        if old != new:
            lines.append(f"{name}: {old} -> {new}")
    return lines


def _made_under(provenance: Iterable[str]) -> dict[str, list[str]]:
    """By what it is, such as code or device, all that the rows of a run were made under."""
    found: dict[str, set[str]] = {}
    for line in provenance:
        for name, value in json.loads(line).items():
            found.setdefault(name, set()).add(value if isinstance(value, str) else canonical(value))
    return {name: sorted(values) for name, values in found.items()}
