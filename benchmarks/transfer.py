"""How much better are many atlases than one? Leave-one-out on the four people of the MALF data.

    SYNTHMORPH_DATA=FOLDER python benchmarks/transfer.py --cache FOLDER [--out benchmarks/transfer.md]

Each person in turn is the patient, the other three are atlases. The figure is the mean Dice over the 16 core structures
of ``common_labels.csv``. Fusion is done on the fine labels, which are merged afterwards. The best single atlas is
chosen for each patient with hindsight, which is as hard a comparison as there is; the best on average and the mean are
given, too.
"""
from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import numpy as np
import registered as kept
import SimpleITK as sitk

PEOPLE = (1000, 1001, 1113, 1122)
METHODS = ("majority", "staple", "local")


def person(number: int):
    """One of the people as an atlas."""
    from synthmorph_torch.atlas import Atlas

    folder = kept.DATA / "malf"
    return Atlas(str(number), folder / f"{number}_t1.nii.gz", folder / f"{number}_glm.nii.gz").check()


def scores(cache: Path, patients=PEOPLE, methods=METHODS) -> dict[int, dict[str, float]]:
    """Mean Dice over the core structures by patient, and by atlas or method; known ones are not computed again."""
    from synthmorph_torch import agreement, fusion, transfer
    from synthmorph_torch.loader import load_model
    from synthmorph_torch.training.evaluate import Structures

    structures = Structures.read(kept.DATA / "common_labels.csv", "malf")
    model = functools.cache(lambda: load_model("compact", device="cpu"))
    people = {number: person(number) for number in PEOPLE}
    table: dict[int, dict[str, float]] = {}
    for patient in patients:
        truth, path = people[patient], cache / f"scores.{patient}.json"
        row = json.loads(path.read_text()) if path.exists() else {}
        table[patient] = row
        if set(methods) <= set(row):
            continue

        def score(labels: sitk.Image, truth=truth) -> float:
            found = agreement.dice(structures.merge(labels), structures.merge(truth.labels), structures.core)
            return float(np.mean(list(found.values())))

        found = []
        for atlas in (one for number, one in people.items() if number != patient):
            known = kept.registered(cache, f"good.malf{atlas.name}.malf{patient}", atlas.image, truth.image, model)
            found.append(transfer.carried(atlas, truth.image, known.forward))
        row.update({f"atlas {one.atlas.name}": score(one.labels) for one in found})
        for method in methods:
            if method not in row:
                fused = fusion.fuse([one.labels for one in found], method, truth.image, [one.moved for one in found])
                row[method] = score(fused.labels)
                path.write_text(json.dumps(row))
        print(patient, {k: round(v, 4) for k, v in row.items()}, flush=True)
    return table


def to_markdown(table: dict[int, dict[str, float]]) -> str:
    """The table, and the gain of each method."""
    methods = [m for m in METHODS if m in next(iter(table.values()))]
    lines = ["| patient | single atlases | best single | " + " | ".join(methods) + " |",
             "|---" * (3 + len(methods)) + "|"]
    best = {}
    for patient, row in table.items():
        singles = {k.split()[-1]: v for k, v in row.items() if k.startswith("atlas")}
        best[patient] = max(singles.values())
        lines.append(f"| {patient} | {', '.join(f'{v:.3f} ({k})' for k, v in singles.items())} | {best[patient]:.3f} | "
                     + " | ".join(f"{row[m]:.3f}" for m in methods) + " |")
    means = {m: float(np.mean([row[m] for row in table.values()])) for m in methods}
    single = float(np.mean([v for row in table.values() for k, v in row.items() if k.startswith("atlas")]))
    lines.append(f"| **mean** | {single:.3f} | {np.mean(list(best.values())):.3f} | "
                 + " | ".join(f"**{means[m]:.3f}**" for m in methods) + " |")
    lines += ["", "| | " + " | ".join(methods) + " |", "|---" * (1 + len(methods)) + "|",
              "| gain over the best single atlas of each patient | "
              + " | ".join(f"{means[m] - np.mean(list(best.values())):+.4f}" for m in methods) + " |",
              "| gain over the mean single atlas | "
              + " | ".join(f"{means[m] - single:+.4f}" for m in methods) + " |"]
    return "\n".join(lines) + "\n"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where registrations are kept")
    parser.add_argument("--patients", type=int, nargs="+", default=PEOPLE, choices=PEOPLE, help="some of them")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, help="some of them")
    parser.add_argument("--out", type=Path, help="write the tables here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = f"{kept.machine()}\n\n{to_markdown(scores(options.cache, options.patients, options.methods))}"
    print(text)
    if options.out:
        options.out.write_text(f"# Fusing atlases\n\nWritten by `python benchmarks/transfer.py`, which says what is "
                               f"measured. {text}")


if __name__ == "__main__":
    main()
