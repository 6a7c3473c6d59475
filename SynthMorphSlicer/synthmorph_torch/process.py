"""What this program asks of the process that it runs in: memory, standard streams, and file names."""
from __future__ import annotations

import contextlib
import ctypes
import functools
import locale
import os
import sys
from typing import TextIO

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of glibc's mallopt(3)
NEVER = 2**31 - 1


def prepare() -> None:
    """To be called once by a program, before it reads files or computes."""
    _keep_freed_memory()
    _take_any_file_name()


def give_memory_back() -> None:
    """Give the system the memory that has been freed."""
    if library := _glibc():
        library.malloc_trim(ctypes.c_size_t(0))


def own_streams() -> tuple[TextIO, TextIO]:
    """Standard input and output for the caller alone.

    What libraries print goes to standard error instead, and where they look for input there is nothing. On Windows,
    some look while they are being loaded, NumPy's among them, and wait until whoever is reading there has got a line
    (numpy/numpy#24290).
    """
    streams = (os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return streams


def _keep_freed_memory() -> None:
    """Keep what is freed, instead of asking the system for the same pages again and again.

    glibc maps every large tensor anew, and the system clears each of its pages at first touch: a tenth of the time of a
    registration. Without glibc, or where it refuses, nothing changes.
    """
    if library := _glibc():
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, NEVER)


def _take_any_file_name() -> None:
    """Have C libraries on Windows, ITK among them, take file names as UTF-8, as everywhere else."""
    if os.name == "nt":
        with contextlib.suppress(locale.Error):  # Windows before 2018 cannot
            locale.setlocale(locale.LC_CTYPE, ".UTF-8")


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
