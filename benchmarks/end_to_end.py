"""Seconds and memory of whole registrations, from the start of the process to the files on the disk, beside Greedy.

    python benchmarks/end_to_end.py MOVING FIXED [--threads 2] [--repeats 3] [--peers-python PYTHON]

Runs `synthmorph register` by default and without refinement, and Greedy (affine and deformable, NCC), one after the
other in turns, so that a change of the machine's load touches all; then a worker that is kept warm, as the Slicer
module uses it. Prints a Markdown table of the medians with ratios to Greedy. Greedy is left out if it is not installed.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "SynthMorphSlicer"), str(ROOT / "benchmarks")]

from peers.cases import Files  # noqa: E402
from peers.machine import machine  # noqa: E402
from peers.methods import METHODS, Settings, environment  # noqa: E402
from peers.process import Usage, Watch  # noqa: E402

WHOLE = ("synthmorph", "synthmorph-network", "greedy")


class WarmWorker:
    """A worker process and what each of its answers cost."""

    def __init__(self, threads: int, log: Path) -> None:
        self.threads, self._number = threads, 0
        with open(log, "wb") as errors:
            self._process = subprocess.Popen([sys.executable, "-m", "synthmorph_torch.worker"], text=True,
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                             env=environment(True))

    def ask(self, **request: Any) -> Usage:
        """Send a request and wait for its result; wall and CPU-seconds from one to the other."""
        assert self._process.stdin and self._process.stdout
        self._number += 1
        watch, begin, used = Watch(self._process.pid), time.perf_counter(), self._cpu()
        self._process.stdin.write(json.dumps({"id": self._number, "threads": self.threads, **request}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer["event"] == "error":
                raise RuntimeError(answer["message"])
            if answer["event"] == "result":
                break
        watch.stop()
        return Usage(time.perf_counter() - begin, self._cpu() - used, watch.peak / 2**30, 0)

    def _cpu(self) -> float:
        """CPU-seconds of the worker until now (Linux; elsewhere NaN)."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def whole_processes(case: Files, out: Path, settings: Settings, repeats: int) -> dict[str, list[Usage]]:
    names = [name for name in WHOLE if METHODS[name].version(settings) is not None]
    found: dict[str, list[Usage]] = {METHODS[name].title: [] for name in names}
    for _ in range(repeats):
        for name in names:
            usage = METHODS[name].run(case, out / name, settings)
            if usage.status:
                raise RuntimeError(f"{name} failed: {(out / name / 'log.txt').read_text()[-2000:]}")
            found[METHODS[name].title].append(usage)
    return found


def warm(case: Files, out: Path, threads: int, repeats: int) -> dict[str, list[Usage]]:
    """The second and later registrations of a worker, and new values of lambda."""
    worker = WarmWorker(threads, out / "worker.txt")
    outputs = {"folder": str(out), "moved": True}
    register = {"command": "register", "moving": str(case.moving), "fixed": str(case.fixed), "outputs": outputs,
                "options": {}, "model": "compact", "device": "cpu"}
    found: dict[str, list[Usage]] = {}
    try:
        worker.ask(**register)
        for number in range(repeats):
            lam = {"command": "relambda", "regularization": 0.3 + 0.05 * number, "outputs": outputs}
            for title, request in (
                    ("worker, network alone", {**register, "options": {"refine": 0}}),
                    ("worker, preview", {**register, "options": {"preview": True}}),
                    ("worker", register), ("worker, new lambda, preview", {**lam, "preview": True}),
                    ("worker, the same in full", lam)):
                found.setdefault(title, []).append(worker.ask(**request))
    finally:
        worker.close()
    return found


def table(found: dict[str, list[Usage]]) -> str:
    medians = {title: [statistics.median(getattr(usage, name) for usage in usages) for name in ("wall", "cpu")]
               + [max(usage.peak for usage in usages)] for title, usages in found.items()}
    greedy = medians.get(METHODS["greedy"].title)
    lines = ["| what | seconds | CPU-seconds | peak GiB | seconds / Greedy | CPU-seconds / Greedy |",
             "| --- " * 6 + "|"]
    for title, values in medians.items():
        ratios = [f"{values[n] / greedy[n]:.2f}" if greedy else "" for n in (0, 1)]
        lines.append(f"| {title} | {values[0]:.1f} | {values[1]:.1f} | {values[2]:.2f} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moving", type=Path)
    parser.add_argument("fixed", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers-python", default=os.environ.get("SYNTHMORPH_PEERS_PYTHON", sys.executable),
                        metavar="PYTHON", help="interpreter with Greedy (default: $SYNTHMORPH_PEERS_PYTHON or this)")
    options = parser.parse_args()
    case = Files(options.moving.resolve(), options.fixed.resolve())
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        found = whole_processes(case, out, Settings(options.peers_python, options.threads), options.repeats)
        found |= warm(case, out, options.threads, options.repeats)
    print(f"Median of {options.repeats}, {options.threads} threads, {machine()}.\n\n{table(found)}")


if __name__ == "__main__":
    main()
