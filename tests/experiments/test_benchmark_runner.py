"""A run that is killed at random moments and called again ends with the table of a run that never was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(__file__).parents[2] / "experiments" / "benchmark_runner.py"


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, str(COMMAND), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and fork")
def test_killed_and_called_again() -> None:
    said = run("kills", "--kills", "2", "--explanations", "12")
    assert "called again, the table is equal, 0 rows made twice" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and fork")
def test_twenty_kills() -> None:
    assert "the table is equal, 0 rows made twice" in run("kills")


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    assert "resident after 200 images" in run("memory")
