"""Does the verdict catch ruined registrations, and does it leave good ones alone? On real pairs of brains.

    SYNTHMORPH_DATA=FOLDER python benchmarks/verdict.py --cache FOLDER [--out benchmarks/verdict.md]
"""
from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np
import registered as kept
import SimpleITK as sitk

# moving > fixed; no person of the one list occurs in the other
TUNING = """malf1000>malf1001 malf1001>malf1000 oasis>malf1000 malf1001>oasis avg152T1>malf1001 malf1000>avg152T1
avg152T2>oasis oasis>avg152T2 chris_t1>avg152T1 chris_t1>malf1000 oasis>chris_t1 chris_PD>chris_t1 avg152PD>malf1001
chris_PD>avg152T1""".split()
EVALUATION = """malf1113>malf1122 malf1122>malf1113 eve>malf1113 malf1122>eve eve>single_subj single_subj>eve
malf1113>single_subj single_subj>malf1122 msx19_T1>eve eve>msx19_T1 msx19_FLAIR>malf1113 msx19_FLAIR>single_subj
malf1122>msx19_FLAIR ms12_T1>eve ms12_T2>eve ms12_FLAIR>malf1113 ms12_T1>ms12_T2 ms12_FLAIR>ms12_T1 ms12_2T1>ms12_T1
single_subj>ms12_T1 ms12_T2>single_subj msx19_T1>ms12_2T1 eve>ms12_T2 ms12_FLAIR>msx19_T1""".split()
ORGANS = {"tuning": {"chest": 0, "thigh": 0}, "evaluation": {"chest": 1, "thigh": 1, "kidneys": 1}}


def main() -> None:
    import torch
    from synthmorph_torch.loader import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = functools.cache(lambda: load_model("compact", device="cpu"))
    for pairs in (TUNING, EVALUATION):
        for pair in pairs:
            m, f = pair.split(">")
            kept.registered(options.cache, f"good.{m}.{f}", kept.read(m), kept.read(f), model)
    people = [f"malf{n}" for n in (1000, 1001, 1113, 1122)]
    for m in people:
        for f in people:
            if m != f:
                kept.registered(options.cache, f"good.{m}.{f}", kept.read(m), kept.read(f), model)
    for number, pair in enumerate(TUNING + EVALUATION):
        m, f = pair.split(">")
        if number % 2:
            continue
        axis, low = number // 2 % 3, bool(number // 6 % 2)
        kept.registered(options.cache, f"half.{m}.{f}", kept.halved(kept.read(m), axis, low), kept.read(f), model)
    for group, pairs in (("tuning", TUNING), ("evaluation", EVALUATION)):
        for number, f in enumerate(dict.fromkeys(pair.split(">")[1] for pair in pairs)):
            for kind, seed in [list(ORGANS[group].items())[number % len(ORGANS[group])]]:
                kept.registered(options.cache, f"organ.{kind}{seed}.{f}", kept.organ(kind, seed), kept.read(f), model)


if __name__ == "__main__":
    main()
