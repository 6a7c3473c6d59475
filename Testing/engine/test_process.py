"""What the program asks of its process."""
from __future__ import annotations

import subprocess
import sys

import pytest
from synthmorph_torch import process

RESIDENT = """
import numpy as np
from pathlib import Path
from synthmorph_torch import process

def resident():  # MB
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 10**6

def use():
    np.ones(25_000_000)

use()
freed = resident()
process.prepare()
use()
kept = resident()
process.give_memory_back()
print(freed, kept, resident())
"""


@pytest.mark.skipif(process._glibc() is None, reason="the C library is not glibc")
def test_freed_memory_is_kept_and_given_back():
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    freed, kept, given_back = map(int, run.stdout.split())
    assert kept > freed + 190  # 200 MB were asked for
    assert given_back < freed + 10


def test_nothing_happens_without_glibc(monkeypatch):
    process._glibc.cache_clear()
    monkeypatch.setattr(sys, "platform", "win32")
    try:
        assert process._glibc() is None
        process.prepare()
        process.give_memory_back()
    finally:
        process._glibc.cache_clear()


STREAMS = """
import subprocess, sys
from synthmorph_torch import process
requests, answers = process.own_streams()
print("a library's word")
heard = subprocess.run(["cat"], capture_output=True).stdout
answers.write(f"{requests.readline().strip()}, {sys.stdin.read()!r}, {heard!r}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no cat")
def test_streams_of_our_own():
    run = subprocess.run([sys.executable, "-c", STREAMS], input="größer\nmore\n", capture_output=True, text=True,
                         encoding="utf-8", check=True)
    assert run.stdout == "größer, '', b''"
    assert run.stderr == "a library's word\n"
