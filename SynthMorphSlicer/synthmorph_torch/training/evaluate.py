"""Score a model on labelled pairs: overlap per structure, folding, regularity, seconds."""
from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .. import agreement, images, quality
from ..errors import ImageError, UsageError
from ..geometry import matrix_to_sitk_affine
from ..registration import Model, Registration
from ..transforms import apply

Row = dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """A person: an image and its label map, read only when needed."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Structures:
    """How label numbers are compared: ``common`` maps each to a structure, of which only ``core`` count in the mean.

    Without a table every label is a structure of its own.
    """

    common: dict[int, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    core: frozenset[int] = frozenset()

    @classmethod
    def read(cls, table: Path, scheme: str) -> Structures:
        """Read a CSV with the columns scheme, label, common_id, common_name and core."""
        try:
            with open(table, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            raise UsageError(f"'{table}' cannot be read as a CSV file: check the path.") from None
        missing = {"scheme", "label", "common_id", "common_name", "core"} - set(rows[0] if rows else ())
        if missing:
            raise UsageError(f"'{table}' lacks the columns {', '.join(sorted(missing))}: give a table of labels.")
        rows = [row for row in rows if row["scheme"] == scheme]
        if not rows:
            raise UsageError(f"'{table}' has no labels of scheme '{scheme}': check the name of the scheme.")
        used = [row for row in rows if int(row["common_id"]) > 0]
        return cls({int(row["label"]): int(row["common_id"]) for row in used},
                   {int(row["common_id"]): row["common_name"] for row in used},
                   frozenset(int(row["common_id"]) for row in used if row["core"] == "1"))

    def merge(self, labels: sitk.Image) -> sitk.Image:
        """A label map with the numbers of the structures."""
        if not self.common:
            return labels
        array = sitk.GetArrayViewFromImage(labels)
        lookup = np.zeros(int(array.max()) + 1, np.uint16)
        for label, structure in self.common.items():
            if label < len(lookup):
                lookup[label] = structure
        merged = sitk.GetImageFromArray(lookup[np.maximum(array, 0)])
        merged.CopyInformation(labels)
        return merged


def find_people(folder: Path, image_suffix: str = "_t1.nii.gz", label_suffix: str = "_glm.nii.gz") -> list[Labelled]:
    """People in a folder whose image and label map share a name but for the suffix."""
    if not Path(folder).is_dir():
        raise ImageError(f"There is no folder '{folder}': give the folder that holds the images and label maps.")
    names = sorted(p.name.removesuffix(image_suffix) for p in Path(folder).glob(f"*{image_suffix}"))
    people = [Labelled(n, Path(folder) / f"{n}{image_suffix}", Path(folder) / f"{n}{label_suffix}") for n in names]
    people = [p for p in people if p.labels.exists()]
    if len(people) < 2:
        raise ImageError(f"'{folder}' holds fewer than two images *{image_suffix} with label maps *{label_suffix}: "
                         "check the folder and the suffixes.")
    return people


def turned(image: sitk.Image, degrees: float, shift_mm: float) -> sitk.Image:
    """The same image turned about its centre and shifted along every axis, by its header alone."""
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    turn = sitk.Euler3DTransform(centre, np.deg2rad(degrees), 0.0, 0.0, (shift_mm,) * 3)
    moved = sitk.Image(image)
    directions = np.reshape(turn.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
    moved.SetDirection(directions.ravel().tolist())
    moved.SetOrigin(turn.TransformPoint(image.GetOrigin()))
    return moved


def evaluate(model: Model, people: Sequence[Labelled], structures: Structures | None = None, *,
             options: dict[str, Any] | None = None, rotate: float = 0.0, shift: float = 0.0,
             report: Callable[[str], None] | None = None) -> list[Row]:
    """Register every ordered pair of people and compare the propagated labels with the fixed ones.

    Args:
        model: what to evaluate.
        people: at least two.
        structures: which labels are compared; by default every label by itself.
        options: further arguments of :meth:`Model.register`.
        rotate, shift: turn the moving image by so many degrees and shift it by so many millimetres first; its voxels
            are resampled, so that headers give nothing away.
        report: called with one line per pair.

    Returns:
        One row per pair: names, mean Dice, Dice per structure, folding voxels, SD of log J, seconds.
    """
    structures = structures or Structures()
    rows = []
    for moving, fixed in itertools.permutations(people, 2):
        row = _score(model, moving, fixed, structures, options or {}, rotate, shift)
        rows.append(row)
        if report:
            report(f"{row['moving']} -> {row['fixed']}: Dice {row['mean_dice']:.3f}, {row['folding']} folding voxels, "
                   f"SD log J {row['sd_log_jacobian']:.3f}, {row['seconds']:.1f} s")
    return rows


def _score(model: Model, moving: Labelled, fixed: Labelled, structures: Structures, options: dict[str, Any],
           rotate: float, shift: float) -> Row:
    image, labels = images.read_image(moving.image), images.read_labels(moving.labels)
    target, target_labels = images.read_image(fixed.image), images.read_labels(fixed.labels)
    if rotate or shift:
        image, labels = resampled_turn(image, rotate, shift, "linear"), resampled_turn(labels, rotate, shift, "nearest")
    begin = time.perf_counter()
    result: Registration = model.register(image, target, **options)
    seconds = time.perf_counter() - begin
    moved = structures.merge(result.warp_labels(labels))
    dice = agreement.dice(moved, structures.merge(target_labels))
    core = [value for label, value in dice.items() if not structures.core or label in structures.core]
    if not core:
        raise ImageError(f"The label maps of '{moving.name}' and '{fixed.name}' hold no structure to compare: check "
                         "the label table and its scheme.")
    statistics = quality.jacobian_statistics(result.jacobian(), images.foreground(target))
    return {"moving": moving.name, "fixed": fixed.name, "mean_dice": float(np.mean(core)),
            "dice": {structures.names.get(label, str(label)): value for label, value in dice.items()},
            "folding": statistics["folding_count"], "sd_log_jacobian": statistics["sd_log"], "seconds": seconds}


def resampled_turn(image: sitk.Image, degrees: float, shift_mm: float, interpolation: str) -> sitk.Image:
    """An image turned about its centre and shifted, resampled onto axes that do not show it.

    The grid grows so that nothing is cut off.
    """
    moved = turned(image, degrees, shift_mm)
    corners = [moved.TransformIndexToPhysicalPoint([int(c) for c in corner])
               for corner in itertools.product(*[(0, n - 1) for n in moved.GetSize()])]
    low, high = np.min(corners, 0), np.max(corners, 0)
    spacing = float(min(image.GetSpacing()))
    size = [int(n) for n in np.ceil((high - low) / spacing) + 1]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(low.tolist())
    grid.SetSpacing([spacing] * 3)
    return apply(matrix_to_sitk_affine(np.eye(4)), moved, grid, interpolation)


def to_markdown(rows: Iterable[Row]) -> str:
    """A table of the pairs with their mean in the last row, and one of the structures with their mean Dice."""
    rows = list(rows)
    lines = ["| moving | fixed | mean Dice | folding voxels | SD log J | seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['moving']} | {row['fixed']} | {row['mean_dice']:.3f} | {row['folding']} | "
                     f"{row['sd_log_jacobian']:.3f} | {row['seconds']:.1f} |")
    dice, folding, spread, seconds = (np.mean([row[key] for row in rows])
                                      for key in ("mean_dice", "folding", "sd_log_jacobian", "seconds"))
    lines += [f"| **mean** | | **{dice:.3f}** | {folding:.1f} | {spread:.3f} | {seconds:.1f} |", ""]
    lines += ["| structure | Dice |", "|---|---|"]
    names = dict.fromkeys(name for row in rows for name in row["dice"])
    lines += [f"| {name} | {np.mean([row['dice'][name] for row in rows if name in row['dice']]):.3f} |"
              for name in names]
    return "\n".join(lines) + "\n"
