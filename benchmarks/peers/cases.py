"""What is registered: pairs and their variants, made on demand and kept in the results folder."""
from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .variants import VARIANTS, Pair

CYCLE = ("1000-1001", "1001-1113", "1113-1122", "1122-1000")
HEADS = tuple(f"{moving}-{fixed}-{seed}" for seed in (1, 2) for moving, fixed in (("15", "16"), ("16", "15")))
SAME_PERSON = {  # moving and fixed image of one person, in multicontrast/
    "ms12-flair-t1": ("ms12_study1_FLAIR", "ms12_study1_T1W"), "ms12-t2-t1": ("ms12_study1_T2W", "ms12_study1_T1W"),
    "ms12-t1-t1": ("ms12_study2_T1W", "ms12_study1_T1W"), "chris-pd-t1": ("chris_PD", "chris_t1"),
    "msx19-flair-t1": ("msx19_mni_FLAIR_brain", "msx19_mni_T1_brain")}


@dataclass(frozen=True)
class Entry:
    """Where one label number belongs: common structure and its name, side, and whether it counts in the mean."""

    common: int
    name: str
    side: str
    core: bool


@dataclass(frozen=True)
class Files:
    """Two images to register."""

    moving: Path
    fixed: Path


@dataclass(frozen=True)
class Case(Files):
    """A registration of the benchmark; same-person cases have no labels."""

    variant: str
    pair: str
    folder: Path
    scheme: str = "malf"

    @property
    def labelled(self) -> bool:
        return self.variant != "same-person"


@functools.cache
def label_table(data: Path, scheme: str) -> dict[int, Entry]:
    """The labels of a scheme that count as common structures, by number."""
    with open(data / "common_labels.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["scheme"] == scheme and int(row["common_id"])]
    return {int(row["label"]): Entry(int(row["common_id"]), row["common_name"], row["side"], row["core"] == "1")
            for row in rows}


def names(variants: Sequence[str], pairs: Sequence[str], data: Path) -> list[tuple[str, str]]:
    """The variants and pairs asked for, in the order in which they are run.

    Pairs are names, "all" or "cycle"; by default all ordered pairs for the plain variant and the cycle for others.
    """
    found = []
    for variant in variants:
        if variant in VARIANTS:
            people = sorted(path.name.removesuffix("_t1.nii.gz") for path in (data / "malf").glob("*_t1.nii.gz"))
            everyone = [f"{a}-{b}" for a, b in itertools.permutations(people, 2)]
            default: Sequence[str] = everyone if variant == "plain" else CYCLE
        else:
            everyone = list(HEADS if variant == "heads" else SAME_PERSON)
            default = everyone
        chosen = {"all": everyone, "cycle": [p for p in CYCLE if p in everyone] or everyone}
        wanted = [p for pair in pairs for p in chosen.get(pair, [pair])] if pairs else default
        found += [(variant, pair) for pair in wanted if pair in everyone]
    return found


def make(variant: str, pair: str, data: Path, root: Path) -> Case:
    """The files of a case, made if they are not there yet."""
    folder = root / variant / pair
    scheme = "fs" if variant == "heads" else "malf"
    case = Case(folder / "moving.nii.gz", folder / "fixed.nii.gz", variant, pair, folder, scheme)
    if (folder / "done.json").exists():
        return case
    folder.mkdir(parents=True, exist_ok=True)
    if variant == "same-person":
        contents: dict[str, sitk.Image] = {
            name: sitk.ReadImage(str(data / "multicontrast" / f"{stem}.nii.gz"))
            for name, stem in zip(("moving", "fixed"), SAME_PERSON[pair], strict=True)}
    else:
        if variant == "heads":
            from .heads import whole_heads

            made = whole_heads(pair, data)
        else:
            made = VARIANTS[variant](malf_pair(pair, data))
        contents = {name: getattr(made, name) for name in ("moving", "fixed", "moving_labels", "fixed_labels")}
    for name, image in contents.items():
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    note: dict[str, Any] = {"variant": variant, "pair": pair, "scheme": scheme}
    (folder / "done.json").write_text(json.dumps(note))
    return case


def malf_pair(name: str, data: Path) -> Pair:
    """Two people with manual labels."""
    moving, fixed = name.split("-")
    files = [data / "malf" / f"{person}_{kind}.nii.gz" for person in (moving, fixed) for kind in ("t1", "glm")]
    image, labels, target, target_labels = (sitk.ReadImage(str(path)) for path in files)
    return Pair(name, image, labels, target, target_labels, data)


def whole_labels(case: Case, data: Path) -> sitk.Image:
    """The labels of the fixed person before anything was cut."""
    return sitk.ReadImage(str(data / "malf" / f"{case.pair.split('-')[1]}_glm.nii.gz"))
