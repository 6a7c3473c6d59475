"""Freed memory stays with the process until it is given back."""
from __future__ import annotations

import subprocess
import sys

import pytest
from synthmorph_torch import memory

RESIDENT = """
import numpy as np
from pathlib import Path
from synthmorph_torch import memory

def resident():  # MB
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 10**6

def use():
    np.ones(25_000_000)

use()
freed = resident()
memory.keep_freed()
use()
kept = resident()
memory.give_back()
print(freed, kept, resident())
"""


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_kept_and_given_back():
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    freed, kept, given_back = map(int, run.stdout.split())
    assert kept > freed + 190  # 200 MB were asked for
    assert given_back < freed + 10


def test_nothing_happens_without_glibc(monkeypatch):
    memory._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    try:
        assert memory._glibc() is None
        memory.keep_freed()
        memory.give_back()
    finally:
        memory._glibc.cache_clear()
