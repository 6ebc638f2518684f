"""What an audit has found: rates with intervals, and the names of the images behind each.

>>> print(Rate.of(["a", "b", "c"], ["a", "b", "c", "d"]))
75% (19% to 99%), 3 of 4
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from suffice.guarantees.interval import interval


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of some cases, with its interval of Clopper and Pearson at 95%.

    Attributes:
        count: of the cases that show it; total: of all of them.
        images: names of the images that show it, each once.
    """

    count: int
    total: int
    images: tuple[str, ...] = ()

    @classmethod
    def of(cls, shown: Iterable[str], every: Iterable[str]) -> Rate:
        """The rate of images that show something among all of them."""
        names = tuple(shown)
        return cls(len(names), len(tuple(every)), names)

    @classmethod
    def where(cls, shown: Sequence[bool], names: Sequence[str]) -> Rate:
        """The rate of cases that show something, each of the image of that name, which several may be of.

        >>> Rate.where([True, False, True], ["a", "b", "a"])
        Rate(count=2, total=3, images=('a',))
        """
        images = dict.fromkeys(name for name, yes in zip(names, shown, strict=True) if yes)
        return cls(sum(shown), len(shown), tuple(images))

    @property
    def value(self) -> float | None:
        """In [0, 1]; None of no case."""
        return self.count / self.total if self.total else None

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the share at 95%; of no case 0 and 1."""
        return interval(self.count, self.total) if self.total else (0.0, 1.0)

    @property
    def counts(self) -> str:
        """The share without an interval, as of cases that are not independent.

        >>> Rate(12, 14).counts
        '12 of 14'
        """
        return f"{self.count:,} of {self.total:,}"

    def __str__(self) -> str:
        if not self.total:
            return "–"
        low, high = self.bounds
        return f"{self.count / self.total:.0%} ({low:.0%} to {high:.0%}), {self.counts}"

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        low, high = self.bounds
        return {
            "rate": self.value,
            "low": low,
            "high": high,
            "count": self.count,
            "total": self.total,
            "images": list(self.images),
        }


@dataclasses.dataclass(frozen=True)
class Average:
    """A mean over images, with its standard error and the interval of Student's t at 95%.

    >>> print(Average.of({"a": 0.1, "b": 0.3}))
    20% ± 10%, 2 images
    """

    value: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    images: tuple[str, ...]

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Average:
        """The mean of a value by image."""
        from suffice.metrics.standard_error import mean_with_error

        if not values:
            return cls(None, None, None, None, ())
        mean = mean_with_error(list(values.values()))
        low = high = None
        if mean.standard_error is not None:
            from scipy import stats

            reach = float(stats.t.ppf(0.975, len(values) - 1)) * mean.standard_error
            low, high = max(0.0, mean.value - reach), min(1.0, mean.value + reach)
        return cls(mean.value, mean.standard_error, low, high, tuple(values))

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.0%}"
        return f"{self.value:.0%}{error}, {len(self.images)} image{'' if len(self.images) == 1 else 's'}"

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {
            "mean": self.value,
            "standard_error": self.standard_error,
            "low": self.low,
            "high": self.high,
            "images": list(self.images),
        }


def as_json(found: Any) -> Any:
    """Findings, in whatever lists and dataclasses, as JSON has them."""
    if isinstance(found, (Rate, Average)):
        return found.to_dict()
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {f.name: as_json(getattr(found, f.name)) for f in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        return {str(name): as_json(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [as_json(value) for value in found]
    return found
