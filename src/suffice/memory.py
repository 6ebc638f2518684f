"""How much memory there is for a batch: what the machine has free, within what its container is allowed.

>>> available_memory(torch.device("cpu")) > 0
True
"""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

# Limit and use of a container, as Linux says them: control groups of version 2, then of version 1.
_CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory(device: torch.device) -> int:
    """Bytes that a program may still take on a device: on CUDA what the card has free, else main memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> float:
    """Bytes that a container may still take; infinite where there is no limit."""
    for limit, used in _CONTAINER:
        try:
            return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such file; or "max", which is no limit
            continue
    return float("inf")
