"""Two runs of a benchmark, compared image by image."""

from __future__ import annotations

import dataclasses

from suffice.benchmark.tables import Report, Table, TableEntry, word
from suffice.benchmark.values import ResultGroup, metric_of
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
    """Where two runs differ, those furthest apart, in standard errors, first.

    Raises:
        InputError: they have no group in common.
    """
    changes = compare(before, after)
    if not changes:
        raise InputError("expected two runs with data sets, models, methods and metrics in common; these have none")
    changed = [change for change in changes if not change.equal]
    changed.sort(key=lambda c: -abs(c.difference.value) / (c.difference.standard_error or 1e-12))
    rows = []
    for change in changed:
        group, metric = change.group, metric_of(change.group.metric)
        level = word("level", group.level, group.at)
        name = ", ".join([group.dataset, group.model, group.method, group.occlusion, level, group.metric])
        better = change.difference.value * (1 if metric.higher_is_better else -1)
        verdict = "better" if better > 0 else "worse" if better < 0 else "same mean"
        texts = [
            f"{change.before.value:.4g}",
            f"{change.after.value:.4g}",
            f"{change.difference:+.4g}",
            f"{change.largest:+.4g}",
        ]
        entries = [TableEntry(None, False, text) for text in (*texts, str(change.after.count), verdict)]
        rows.append((f"{name} {metric.arrow}", tuple(entries)))
    note = f"{len(changes) - len(changed)} of {len(changes)} means are of equal values, image by image, and not listed."
    missing = len(after.values) - len(changes), len(before.values) - len(changes)
    if any(missing):
        note += f" {missing[0]} means are in the second run only, {missing[1]} in the first only."
    columns = ("before", "after", "difference", "largest of one image", "images", "")
    return Table("Comparison of two runs, paired by image", "", columns, tuple(rows), note)
