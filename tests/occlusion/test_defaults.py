"""The one rule for what is taken where no occlusion is named, wherever one can be named."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import suffice
from suffice.benchmark.config import BenchmarkConfig
from suffice.cli.circuit import circuit
from suffice.cli.explain import explain
from suffice.cli.score import score
from suffice.metrics import score_maps
from suffice.occlusion import DEFAULT_FOR_LOGITS, DEFAULT_FOR_MEASURES, DEFAULT_FOR_VERDICTS


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (
            [suffice.Question, suffice.explain, suffice.explain_series, suffice.explain_several, suffice.explain_batch,
             explain],
            DEFAULT_FOR_VERDICTS,
        ),
        ([suffice.score, suffice.score_many, score_maps, score, suffice.trace_circuit, circuit], DEFAULT_FOR_MEASURES),
        ([suffice.masked_logits], DEFAULT_FOR_LOGITS),
    ],
)  # fmt: skip
def test_each_takes_what_the_rule_says(functions: list[Callable[..., Any]], expected: str) -> None:
    assert [inspect.signature(each).parameters["occlusion"].default for each in functions] == [expected] * len(
        functions
    )


def test_the_benchmark_asks_for_verdicts_as_explain_does() -> None:
    assert BenchmarkConfig.model_fields["occlusions"].default == (DEFAULT_FOR_VERDICTS,)


def test_they_are_those_of_the_public_contract() -> None:
    assert (DEFAULT_FOR_VERDICTS, DEFAULT_FOR_MEASURES, DEFAULT_FOR_LOGITS) == ("robust", "zero", "deactivate")
