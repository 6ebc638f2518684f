"""How much memory there is for a batch: what the machine has free, within what its container is allowed.

>>> available_memory(torch.device("cpu")) > 0
True
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import psutil
import torch

_MEMBERSHIP = Path("/proc/self/cgroup")


class _Hierarchy(NamedTuple):
    """Where Linux says limits and use of control groups, and of the files that it keeps at hand those it can drop."""

    root: Path
    limit: str
    used: str
    files: str


_VERSION_2 = _Hierarchy(Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Hierarchy(
    Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
)


def available_memory(device: torch.device) -> int:
    """Bytes that a program may still take on a device: on CUDA what the card has free, else main memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> float:
    """Bytes that a container may still take, and all that it is nested in; infinite where there is no limit."""
    return min((_left_in_group(kind, group) for kind, group in _groups()), default=float("inf"))


def _groups() -> Iterator[tuple[_Hierarchy, Path]]:
    """The groups of this process and all above them; a container that sees its own alone has it at the root."""
    names = {_VERSION_1: "/", _VERSION_2: "/"}
    with contextlib.suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if not controllers:
                names[_VERSION_2] = name
            elif "memory" in controllers.split(","):
                names[_VERSION_1] = name
    for kind, name in names.items():
        parts = PurePosixPath(name).parts[1:]
        for depth in range(len(parts) + 1):
            yield kind, kind.root.joinpath(*parts[:depth])


def _left_in_group(kind: _Hierarchy, group: Path) -> float:
    try:
        left = int((group / kind.limit).read_text()) - int((group / kind.used).read_text())
    except (OSError, ValueError):  # no such file; or "max", which is no limit
        return float("inf")
    with contextlib.suppress(OSError, ValueError):
        counts = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        left += next((int(bytes) for name, bytes in counts if name == kind.files), 0)
    return max(0, left)
