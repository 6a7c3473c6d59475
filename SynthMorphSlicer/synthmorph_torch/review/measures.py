"""The table of measures: each with its unit, its tolerance and whether it is met."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import agreement, quality, transforms
from . import landmarks as marks
from .case import Case, darkest
from .tolerances import TOLERANCES


@dataclass(frozen=True)
class Measure:
    """One row: ``status`` is "ok", "look", "bad", or "" where there is nothing to hold it against."""

    key: str
    group: str
    name: str
    value: float | None
    unit: str = ""
    status: str = ""
    tolerance: str = ""
    source: str = ""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        return asdict(self)


def measure(key: str, group: str, name: str, value: float | None, unit: str = "", tolerance: str = "",
            note: str = "") -> Measure:
    """A row held against a tolerance of :data:`TOLERANCES`, if one is named."""
    value = None if value is None or not np.isfinite(value) else float(value)
    if not tolerance:
        return Measure(key, group, name, value, unit, note=note)
    limit = TOLERANCES[tolerance]
    return Measure(key, group, name, value, unit, limit.status(value), limit.text, limit.source, note)


def table(case: Case, mask: sitk.Image | None = None) -> list[Measure]:
    """All measures of a case.

    Args:
        case: the registration.
        mask: where to look: any mask in the world of the fixed image, non-zero voxels count; by default the fixed
            foreground. Labels and landmarks are always looked at as a whole.
    """
    region = case.region(mask)
    return [*jacobian_rows(case, region), *displacement_rows(case, region), *similarity_rows(case, region),
            *structure_rows(case), *landmark_rows(case)]


def jacobian_rows(case: Case, region: sitk.Image) -> list[Measure]:
    """Folding and change of volume."""
    found = quality.jacobian_statistics(case.jacobian, region)
    spread = found["percentiles"] or {}
    group = "Volume change"
    rows = [
        measure("folding_count", group, "Folding voxels", found["folding_count"], "voxels",
                note="where the Jacobian determinant J is not positive"),
        measure("folding_percent", group, "Folding", found["folding_percent"], "%", "folding"),
        measure("jacobian_min", group, "Smallest J", found["min"], "", "jacobian_min", "below 1 the moving image is "
                "smaller there"),
        measure("jacobian_max", group, "Largest J", found["max"], "", "jacobian_max", "above 1 the moving image is "
                "larger there"),
    ]
    rows += [measure(f"jacobian_p{p}", group, f"J, {p}th percentile" if p != "1" else "J, 1st percentile",
                     spread.get(p)) for p in ("1", "5", "50", "95", "99")]
    return [*rows, measure("sd_log", group, "SD of log J", found["sd_log"], "", "sd_log", "roughness of the warp; 0 "
                           "for a pure affine")]


def displacement_rows(case: Case, region: sitk.Image) -> list[Measure]:
    """How far points move, and by how much going there and back misses."""
    moved = quality.displacement_statistics(case.forward, case.fixed, region)
    group, rows = "Displacement", []
    for key, title, note in (("total", "Displacement", ""),
                             ("residual", "Displacement beyond affine", "the warp alone")):
        found = moved[key]
        rows += [measure(f"{key}_{p}", group, f"{title}, {word}", value, "mm", note=note)
                 for p, word, value in (("mean", "mean", found["mean"]),
                                        ("p95", "95th percentile", (found["percentiles"] or {}).get("95")),
                                        ("max", "largest", found["max"]))]
    if case.backward is not None:
        found = quality.inverse_consistency(case.forward, case.backward, case.fixed, region)
        note = "by how much going there and back misses"
        rows += [measure("consistency_mean", group, "Inverse consistency, mean", found["mean"], "mm", note=note),
                 measure("consistency_p95", group, "Inverse consistency, 95th percentile",
                         (found["percentiles"] or {}).get("95"), "mm", "consistency_p95", note),
                 measure("consistency_max", group, "Inverse consistency, largest", found["max"], "mm", note=note)]
    return rows


def similarity_rows(case: Case, region: sitk.Image) -> list[Measure]:
    """How alike the images are, before and after."""
    start = case.before or sitk.Transform(3, sitk.sitkIdentity)
    before = quality.similarity(
        transforms.apply(start, case.moving, case.fixed, fill=darkest(case.moving)), case.fixed, region)
    after = quality.similarity(case.moved, case.fixed, region)
    rows = []
    for key, title, note in (("nmi", "Mutual information (normalised)", "1 unrelated, 2 identical; for any contrast"),
                             ("ncc", "Correlation", "for like contrasts only")):
        rows += [measure(f"{key}_{word}", "Similarity", f"{title}, {word}", values[key], note=note)
                 for word, values in (("before", before), ("after", after))]
    return rows


def structure_rows(case: Case) -> list[Measure]:
    """Overlap and distance per structure, if both sides have labels."""
    if case.moved_labels is None or case.fixed_labels is None:
        return []
    found = agreement.label_agreement(case.moved_labels, case.fixed_labels)
    start = transforms.apply(case.before or sitk.Transform(3, sitk.sitkIdentity), _required(case.moving_labels),
                             case.fixed_labels, "nearest")
    earlier = agreement.label_agreement(start, case.fixed_labels, distances=False)
    rows = [measure("mean_dice_before", "Structures", "Mean Dice, before", earlier["mean_dice"]),
            measure("mean_dice", "Structures", "Mean Dice", found["mean_dice"], "", "dice")]
    for label, entry in found["per_label"].items():
        name = case.name(int(label))
        rows += [measure(f"dice_{label}", "Structures", f"{name}: Dice", entry["dice"], "", "dice"),
                 measure(f"mda_{label}", "Structures", f"{name}: mean distance to agreement",
                         entry["mean_distance_mm"], "mm", "mean_distance"),
                 measure(f"hd95_{label}", "Structures", f"{name}: 95 % Hausdorff distance", entry["hd95_mm"], "mm",
                         "hd95")]
    return rows


def _required(image: sitk.Image | None) -> sitk.Image:
    assert image is not None
    return image


def landmark_rows(case: Case) -> list[Measure]:
    """Target registration error of the pairs of landmarks."""
    if not case.landmarks:
        return []
    found = marks.errors(case.forward, case.landmarks)
    group = "Landmarks"
    rows = [measure("tre_mean", group, "Target registration error, mean", found.mean(), "mm", "tre_mean"),
            measure("tre_max", group, "Target registration error, largest", found.max(), "mm", "tre_max")]
    return rows + [measure(f"tre_{n + 1}", group, f"Landmark {case.landmarks.name(n)}", error, "mm", "tre_max")
                   for n, error in enumerate(found)]


def value_of(rows: list[Measure], key: str) -> float | None:
    """The value of a row, None if it is not there."""
    return next((row.value for row in rows if row.key == key), None)


def compare(tables: Mapping[str, list[Measure]]) -> list[list[str]]:
    """Several results beside each other: a header, then a row per measure with the value in every result.

    Args:
        tables: a table of measures by the name of a result.
    """
    names: dict[str, Measure] = {}
    for rows in tables.values():
        for row in rows:
            names.setdefault(row.key, row)
    lines = [["Measure", "Unit", *tables]]
    for key, row in names.items():
        values = [value_of(rows, key) for rows in tables.values()]
        lines.append([row.name, row.unit, *("" if v is None else f"{v:.4g}" for v in values)])
    return lines
