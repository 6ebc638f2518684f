"""What a process keeps of a large tensor that is gone, seen from the system's side."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

GROWN = """
import psutil, torch
{first}
before = psutil.Process().memory_info().rss
torch.ones(64 << 18)  # 64 MiB, gone at once
print((psutil.Process().memory_info().rss - before) >> 20)
"""


def grown(first: str) -> int:
    """MiB that a process still holds after a tensor of 64 MiB is gone."""
    run = subprocess.run([sys.executable, "-c", GROWN.format(first=first)], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is set belongs to glibc")
def test_large_buffers_stay_with_the_process_that_asks_for_it() -> None:
    assert grown("") < 32
    assert grown("from suffice.buffers import keep_buffers; keep_buffers()") >= 60
