"""Thousands of calls with hostile input: no traceback, no hang, no success without a result, nothing touched.

A part is in every run of the tests; `make test-hostile` makes them all, and with HOSTILE_KINDS=maps,masks those of some
kinds, which is too few to pass.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator

import pytest
from calls import Arena, Call, import_everything
from inputs import FILES, KINDS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes and files of POSIX")

LEAST = 10_000  # calls of the whole
FEW = 10  # calls of each kind in every run of the tests
ALONE = 250  # every so manieth call is made in a process of its own


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    import_everything()
    made = Arena(tmp_path_factory.mktemp("hostile"), FILES)
    yield made
    made.close()


def test_a_few_hostile_calls_of_each_kind(arena: Arena) -> None:
    some: list[Call] = []
    for make, _ in KINDS.values():
        calls = [call for call in make(FEW) if not call.alone]
        some += calls[:: max(1, len(calls) // FEW)][:FEW]
    found = [f"{call}: {fault}" for call, faults in arena.faults(some) for fault in faults]
    # Other tests of this process leave files open, which Python closes or replaces when it likes.
    found = [fault for fault in found if "changes open files" not in fault]
    assert not found, "\n".join(found)


@pytest.mark.hostile
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
def test_ten_thousand_hostile_calls(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    found = 0
    started, before = time.monotonic(), arena.calls
    for kind, (make, drawn) in KINDS.items():
        if kind not in os.environ.get("HOSTILE_KINDS", kind).split(","):
            continue
        since, first, faulty = time.monotonic(), arena.calls, found
        for call, faults in arena.faults(_some_alone(make(drawn))):
            found += len(faults)
            with capsys.disabled():
                print("".join(f"\n  {call}: {fault}" for fault in faults), end="", flush=True)
        with capsys.disabled():
            calls, seconds = arena.calls - first, time.monotonic() - since
            print(f"\n{kind}: {calls:,} calls in {seconds:.0f} s, {found - faulty} faults", end="", flush=True)
    calls, seconds = arena.calls - before, time.monotonic() - started
    with capsys.disabled():
        print(f"\n{calls:,} hostile calls in {seconds:.0f} s, {found} faults")
    assert not found
    assert calls >= LEAST


def _some_alone(calls: Iterable[Call]) -> Iterator[Call]:
    for number, call in enumerate(calls):
        yield dataclasses.replace(call, alone=call.alone or (number % ALONE == 0 and not call.model))
