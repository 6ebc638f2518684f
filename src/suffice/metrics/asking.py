"""Which metrics are asked for, under which options: all that can be wrong with that, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from suffice.errors import InputError, did_you_mean, setting_at_fault
from suffice.metrics import sweep
from suffice.metrics.evidence import ScoreOptions
from suffice.metrics.metric import Metric
from suffice.registry import METRICS

Metrics = Iterable[str | Metric] | str | Metric | None
"""Names in `METRICS`, or objects; None for all that are of suffice itself."""


def check_metrics(metrics: Metrics, **options: Any) -> list[str]:
    """Check the metrics and options of a call before anything is loaded, and give the metrics' names.

    Raises:
        InputError: an unknown metric, none at all, an option that none of them knows or that is out of range.
    """
    return [metric.name for metric in checked_metrics(metrics, options)]


def checked_metrics(metrics: Metrics, options: Mapping[str, Any]) -> list[Metric]:
    """The metrics themselves, each once.

    Raises:
        InputError: as `check_metrics`.
    """
    given = {option for option, value in options.items() if value is not None}
    if metrics is None:
        # Not those of packages: what is installed beside suffice must not change what a call asks for.
        own = [METRICS[name] for name in METRICS.builtin]
        asked = [metric for metric in own if metric.unless_named and given.issuperset(metric.required)]
    else:
        several = [metrics] if isinstance(metrics, (str, Metric)) else metrics
        asked = list({id(metric): metric for metric in map(METRICS.find, several)}.values())
    names = [metric.name for metric in asked]
    if not names:
        raise InputError(f"expected at least one metric of {', '.join(METRICS)}; got none")
    if len(set(names)) < len(names):
        raise InputError(f"expected metrics with names that are different; got {', '.join(names)}")
    known = dict.fromkeys(option for metric in asked for option in metric.options)
    for option in options:
        if option not in known:
            raise InputError(
                f"unknown option {option!r} of {', '.join(names)}{did_you_mean(option, known)}; "
                f"expected {', '.join(known) or 'none'}"
            )
    try:
        ScoreOptions(**options)
    except ValidationError as error:
        option, fault = setting_at_fault(error.errors())
        raise InputError(f"option {option}: {fault}" if option else fault) from None
    for metric in asked:
        if missing := [option for option in metric.required if option not in given]:
            raise InputError(f"expected the option {missing[0]} for {metric.name}; got none")
    return asked


def complete_options(metrics: Metrics, measure: str = "confidence", **options: Any) -> dict[str, Any]:
    """Every option that the metrics know but images, with its value, for a record of what was asked."""
    known = {option for metric in checked_metrics(metrics, options) for option in metric.options}
    chosen = ScoreOptions(measure=measure, **options).model_dump()  # type: ignore[arg-type]  # checked there
    if chosen["step"] is None:
        chosen["step"] = {"by value": sweep.STEP_BY_VALUE, "percent": sweep.STEP_PERCENT}
    if chosen["normalise"] is None:
        chosen["normalise"] = "min-max, none for explanations that have a scale of their own"
    return {name: value for name, value in chosen.items() if name in known}
