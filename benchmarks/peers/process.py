"""Run a program and measure what it and its children used."""
from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Usage:
    """What a process tree used: wall and CPU seconds (user and system), peak resident memory in GiB, exit status."""

    wall: float
    cpu: float
    peak: float
    status: int


def measure(command: Sequence[str], log: Path, threads: int, environment: dict[str, str] | None = None) -> Usage:
    """Run a command to its end, with its output in a file.

    CPU-seconds are what the kernel charged to the process and its finished children. The peak of memory is the
    largest sum over the process tree of resident memory, looked at every 50 ms (Linux only, elsewhere NaN); pages that
    processes share count more than once.
    """
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                            "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), str(threads))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(list(command), stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                                   env={**os.environ, **limits, **(environment or {})})
        watch = Watch(process.pid)
        timer = threading.Timer(TIMEOUT_SECONDS, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
            watch.stop()
        wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, and not by subprocess
    return Usage(wall, used.ru_utime + used.ru_stime, watch.peak / 2**30, process.returncode)


class Watch:
    """Looks at the memory of a process and its descendants from a thread until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.peak = 0.0 if Path("/proc/self/statm").exists() else float("nan")
        self._pid, self._stopped = pid, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.peak = max(self.peak, tree_memory(self._pid))


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants; what has gone in the meantime counts nothing."""
    total, waiting = 0, [pid]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            total += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (folder / "task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total
