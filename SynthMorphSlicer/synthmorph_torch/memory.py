"""Freed memory: kept for the next tensor while there is work, given back to the system when there is none."""
from __future__ import annotations

import ctypes
import functools
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)
NEVER = 2**31 - 1


def keep_freed() -> None:
    """Have this process keep what it frees, instead of asking the system for the same pages again and again.

    glibc maps every large tensor anew, and the system clears each of its pages at first touch: a tenth of the time of a
    registration. Without glibc, or where it refuses, nothing changes.
    """
    if library := _glibc():
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, NEVER)


def give_back() -> None:
    """Give the system back what has been freed."""
    if library := _glibc():
        library.malloc_trim(ctypes.c_size_t(0))


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
