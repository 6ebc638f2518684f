"""The mean with its standard error, for every table.

One value has no standard error: it is None, and printed as nothing, never as NaN or as a certain 0.

>>> print(mean_with_error([0.2, 0.4, 0.6]))
0.400 ± 0.115
>>> print(mean_with_error([0.2]))
0.200 (n = 1)
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable

from suffice.errors import InputError


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean with its standard error and count.

    Attributes:
        value: the mean.
        standard_error: of the mean; None where one value cannot tell it.
        count: number of values.
    """

    value: float
    standard_error: float | None
    count: int

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        """The mean ± its standard error, each with the same format, such as `.2%`; a sign is the mean's alone."""
        if self.standard_error is None:
            return f"{self.value:{spec}} (n = {self.count})"
        return f"{self.value:{spec}} ± {self.standard_error:{spec.lstrip('+')}}"


def mean_with_error(values: Iterable[float]) -> Mean:
    """The mean of values and its standard error: sample standard deviation (n - 1) / √n.

    Args:
        values: finite numbers, drawn independently of each other; of one image under many settings they are not.

    Raises:
        InputError: no values, or one that is not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise InputError("expected at least one value to take a mean of; got none")
    if bad := [number for number in numbers if not math.isfinite(number)]:
        raise InputError(f"expected finite values to take a mean of; got {bad[0]} among {len(numbers)}")
    count = len(numbers)
    error = statistics.stdev(numbers) / math.sqrt(count) if count > 1 else None
    return Mean(statistics.fmean(numbers), error, count)
