"""Large buffers, kept from one layer to the next; for processes that are ours, as a library must not set this.

On Linux the C library gives every large tensor back to the system as soon as it is free, and the next layer pays for
new pages, which can take as long as the layer itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def keep_buffers() -> None:
    """Let glibc keep large buffers instead of returning them after every layer; elsewhere nothing changes."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to set
        glibc = ctypes.CDLL("libc.so.6")
        glibc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        glibc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
