"""How large each structure is, how the left compares with the right, and with the atlas."""
from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .files import check_output_path, write_text

COLUMNS = ("label", "name", "voxels", "volume_mm3", "asymmetry_percent", "atlas_mm3", "change_percent")
_SIDES = {"left": "right", "lh": "rh", "l": "r"}
_OPPOSITE = {**_SIDES, **{right: left for left, right in _SIDES.items()}}
_WORD = re.compile(r"(?<![a-z])(left|right|lh|rh|l|r)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Volume:
    """One structure.

    ``asymmetry_percent`` is 100 (left - right) / mean of both, on both rows of a pair, None without a partner.
    ``change_percent`` is the difference from the atlas' volume in per cent of that.
    """

    label: int
    name: str
    voxels: int
    volume_mm3: float
    asymmetry_percent: float | None = None
    atlas_mm3: float | None = None
    change_percent: float | None = None


def volumes_mm3(labels: sitk.Image) -> dict[int, float]:
    """Volume of every label but 0, in cubic millimetres; sheared grids count right, too."""
    cell = abs(float(np.linalg.det(np.reshape(labels.GetDirection(), (3, 3))))) * float(np.prod(labels.GetSpacing()))
    values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    return {int(v): int(c) * cell for v, c in zip(values, counts, strict=True) if v}


def volumes(labels: sitk.Image, names: Mapping[int, str] | None = None,
            atlases: Iterable[Mapping[int, float]] = ()) -> list[Volume]:
    """The table of volumes.

    Args:
        labels: integer label map.
        names: of the labels. A name with the word left, right, lh, rh, l or r has a partner on the other side.
        atlases: volumes in mm3 by label (:func:`volumes_mm3`) of one or more atlases; their mean is compared with.
    """
    values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    voxels = {int(v): int(c) for v, c in zip(values, counts, strict=True)}
    return compare(volumes_mm3(labels), voxels, names or {}, list(atlases))


def compare(found: Mapping[int, float], voxels: Mapping[int, int], names: Mapping[int, str],
            atlases: Sequence[Mapping[int, float]] = ()) -> list[Volume]:
    """The table of volumes, of sizes that are known already: mm3 and voxels by label."""
    rows = []
    for label in sorted({*found, *(n for atlas in atlases for n in atlas)}):
        volume = found.get(label, 0.0)
        there = [atlas[label] for atlas in atlases if label in atlas]
        atlas = float(np.mean(there)) if there else None
        rows.append(Volume(label, names.get(label) or f"Label {label}", voxels.get(label, 0), volume,
                           _asymmetry(label, names, found), atlas, 100 * (volume / atlas - 1) if atlas else None))
    return rows


def partner(label: int, names: Mapping[int, str]) -> tuple[int, bool] | None:
    """The label of the same structure on the other side, and whether ``label`` is the left one; None without."""
    name = names.get(label, "")
    match = _WORD.search(name.replace("_", " "))
    if match is None:
        return None
    word = match[1].lower()
    wanted = _key(name[:match.start()] + _OPPOSITE[word] + name[match.end():])
    for other, text in names.items():
        if other != label and _key(text) == wanted:
            return other, word in _SIDES
    return None


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _asymmetry(label: int, names: Mapping[int, str], found: Mapping[int, float]) -> float | None:
    other = partner(label, names)
    if other is None:
        return None
    here, there = found.get(label, 0.0), found.get(other[0], 0.0)
    if not here + there:
        return None
    left, right = (here, there) if other[1] else (there, here)
    return 100 * (left - right) / ((left + right) / 2)


def as_csv(rows: Iterable[Volume]) -> str:
    """The table as CSV; empty cells where a value is not known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        rest = (row.asymmetry_percent, row.atlas_mm3, row.change_percent)
        writer.writerow([row.label, row.name, row.voxels, f"{row.volume_mm3:.1f}",
                         *("" if value is None else f"{value:.1f}" for value in rest)])
    return buffer.getvalue()


def write_volumes(rows: Iterable[Volume], path: str | Path) -> None:
    """Write the table of volumes as .csv, whole or not at all."""
    write_text(check_output_path(path, "table"), as_csv(rows))
