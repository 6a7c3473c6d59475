"""SynthMorphSlicer and its peers on the same pairs in one run: accuracy, regularity, robustness, time and memory.

    python benchmarks/peers --data FOLDER --out FOLDER [--methods ...] [--variants ...] [--pairs ...] [--fresh ...]

Every registration has a process of its own, whose seconds, CPU-seconds and peak memory are measured. Writes results.csv
with one row per method, variant and pair, results.md and plots into the output folder. Rows that are there already are
not computed again; --fresh METHOD computes that method's rows anew. Methods that are not installed are named and left
out. See benchmarks/README.md for the data and for how to install the peers.
"""
from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "SynthMorphSlicer"), str(ROOT / "benchmarks")]

from peers import cases, report, rigid, scoring  # noqa: E402
from peers.machine import machine  # noqa: E402
from peers.methods import METHODS, Method, Settings  # noqa: E402
from peers.results import Results  # noqa: E402
from peers.variants import VARIANTS  # noqa: E402

ALL_VARIANTS = (*VARIANTS, "heads", "same-person")


def main() -> None:
    options = parse()
    results, settings = Results(options.out / "results.csv"), Settings(
        options.peers_python, options.threads, tuple(options.synthmorph_arguments.split()))
    if not options.report_only:
        run(options, results, settings)
    report.write(results.read(), options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with malf/, synthseg/, multicontrast/, "
                                                                 "common_labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="results folder; may hold earlier results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD",
                        help=f"of {', '.join(METHODS)} (default: all)")
    parser.add_argument("--variants", nargs="+", choices=ALL_VARIANTS, default=list(ALL_VARIANTS), metavar="VARIANT",
                        help=f"of {', '.join(ALL_VARIANTS)} (default: all)")
    parser.add_argument("--pairs", nargs="+", default=[], metavar="PAIR",
                        help="as 1000-1001 (moving-fixed), 'all' or 'cycle' (default: all plain ones, else the cycle)")
    parser.add_argument("--fresh", nargs="+", choices=METHODS, default=[], metavar="METHOD",
                        help="compute these methods' rows of the chosen variants and pairs anew")
    parser.add_argument("--threads", type=int, default=1, help="threads that each method may use (default: 1)")
    parser.add_argument("--peers-python", default=os.environ.get("SYNTHMORPH_PEERS_PYTHON", sys.executable),
                        metavar="PYTHON", help="interpreter with the peers (default: $SYNTHMORPH_PEERS_PYTHON or this)")
    parser.add_argument("--synthmorph-arguments", default="", metavar="'...'",
                        help="more arguments for synthmorph register, in one string")
    parser.add_argument("--keep", action="store_true", help="keep warps and moved images, about 15 MB per registration")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write tables and plots")
    options = parser.parse_args()
    options.data, options.out = options.data.resolve(), options.out.resolve()
    return options


def run(options: argparse.Namespace, results: Results, settings: Settings) -> None:
    """Do what is not yet done, pair by pair, all methods on one pair before the next."""
    chosen = [METHODS[name] for name in dict.fromkeys([*options.methods, *options.fresh])]
    versions = {method.name: method.version(settings) for method in chosen}
    for method in chosen:
        if versions[method.name] is None:
            print(f"{method.name} is not installed and left out.")
    chosen = [method for method in chosen if versions[method.name] is not None]
    asked = [(method, variant, pair) for variant, pair in cases.names(options.variants, options.pairs, options.data)
            for method in chosen if method.rigid == (variant == "same-person")]
    results.drop((m.name, v, p) for m, v, p in asked if m.name in options.fresh)
    done = results.read()
    todo = [item for item in asked if (item[0].name, *item[1:]) not in done]
    for pair in dict.fromkeys(pair for method, _, pair in asked if method.rigid):
        rigid.find_brain(cases.make("same-person", pair, options.data, options.out / "cases"), options.data, settings)
    for number, (method, variant, pair) in enumerate(todo, 1):
        case = cases.make(variant, pair, options.data, options.out / "cases")
        row = attempt(method, case, options, settings)
        results.add({**row, "version": versions[method.name]})
        print(f"{number}/{len(todo)} {method.name} {variant} {pair}: {row['status']}" + summary(row), flush=True)


def attempt(method: Method, case: cases.Case, options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """One registration and its scores, as a row; a failure is a row, too."""
    out = options.out / "runs" / method.name / case.variant / case.pair
    shutil.rmtree(out, ignore_errors=True)
    usage = method.run(case, out, settings)
    row: dict[str, Any] = {
        "method": method.name, "variant": case.variant, "pair": case.pair,
        "status": "done" if usage.status == 0 else f"failed ({usage.status})",
        "wall_seconds": usage.wall, "cpu_seconds": usage.cpu, "peak_gib": usage.peak, "threads": settings.threads,
        "date": datetime.date.today().isoformat(), "machine": machine()}
    if usage.status == 0:
        status = method.carry(case, case.folder / "moving_labels.nii.gz", out, settings) if case.labelled else 0
        row |= {"status": f"labels failed ({status})"} if status else scoring.score(case, out, options.data)
    if not options.keep:
        for path in out.glob("*.nii.gz"):
            path.unlink()
    return row


def summary(row: dict[str, Any]) -> str:
    dice = f", Dice {row['mean_dice']:.3f}" if "mean_dice" in row else ""
    return f"{dice}, {row['cpu_seconds']:.0f} CPU-seconds, {row['peak_gib']:.2f} GiB"


if __name__ == "__main__":
    main()
