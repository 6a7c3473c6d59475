"""Score one transform; the same code for every method."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from synthmorph_torch import agreement, images, quality, transforms
from synthmorph_torch.training.evaluate import Structures

from .cases import Case, whole_labels
from .variants import CUTS, scanned

SMALLEST_SHARE = 0.5  # of a structure that a cut field of view must still show for it to count


def read_chain(folder: Path) -> sitk.CompositeTransform:
    """The transform of a method, fixed to moving points in LPS millimetres, from the files it names."""
    chain = sitk.CompositeTransform(3)
    for name in reversed((folder / "transforms.txt").read_text().split()):  # of a composite, the last acts first
        chain.AddTransform(transforms.read_transform(folder / name))
    if chain.GetNumberOfTransforms() == 0:
        chain.AddTransform(sitk.TranslationTransform(3))
    return chain


def score(case: Case, folder: Path, data: Path) -> dict[str, Any]:
    """Overlap, folding and regularity of the transform in a method's output folder."""
    moving, fixed = (images.read_image(path) for path in (case.moving, case.fixed))
    chain = read_chain(folder)
    row: dict[str, Any] = {"rewarp_correlation": rewarp(chain, moving, fixed, folder / "moved.nii.gz")}
    jacobian = quality.jacobian_map(chain, fixed)
    head = quality.jacobian_statistics(jacobian, images.foreground(fixed))
    row |= {"voxels": head["voxels"], "folding": head["folding_count"], "folding_percent": head["folding_percent"],
            "smallest_jacobian": head["min"], "sd_log_jacobian": head["sd_log"],
            "folding_grid": quality.jacobian_statistics(jacobian)["folding_count"]}
    return row | overlap(case, chain, folder / "labels.nii.gz", data) if case.labelled else row


def rewarp(chain: sitk.Transform, moving: sitk.Image, fixed: sitk.Image, moved: Path) -> float | None:
    """Correlation of the moving image under a transform with the moved image that the method wrote itself.

    Anything but nearly one means that the transform was not understood.
    """
    if not moved.exists():
        return None
    return quality.similarity(transforms.apply(chain, moving, fixed), images.read_image(moved))["ncc"]


def overlap(case: Case, chain: sitk.Transform, carried: Path, data: Path) -> dict[str, Any]:
    """Dice of the core structures, labels carried by the nearest neighbour; the mean also as the method carries them.

    Methods that have not written ``carried`` recommend the nearest neighbour.
    """
    structures = Structures.read(data / "common_labels.csv", case.scheme)
    labels, truth = (images.read_labels(case.folder / f"{name}_labels.nii.gz") for name in ("moving", "fixed"))
    moved = structures.merge(transforms.apply(chain, labels, truth, "nearest"))
    truth = structures.merge(truth)
    core = sorted(structures.core)
    if case.variant in CUTS:
        core = shown(truth, structures.merge(whole_labels(case, data)), core)
    dice = agreement.dice(moved, truth, core)
    own = structures.merge(images.read_labels(carried)) if carried.exists() else moved
    row: dict[str, Any] = {"mean_dice": mean(dice), "mean_dice own labels": mean(agreement.dice(own, truth, core))}
    row |= {f"dice {structures.names[n]}": value for n, value in dice.items()}
    if case.variant == "plain":  # what the same registration scores on the voxels that a cut leaves
        for cut in CUTS:
            rest = scanned(truth, cut)
            row[f"mean_dice {cut}"] = mean(agreement.dice(scanned(moved, cut), rest, shown(rest, truth, core)))
    return row


def shown(rest: sitk.Image, whole: sitk.Image, core: list[int]) -> list[int]:
    """The structures of which a cut image still shows enough."""
    counts = [np.bincount(sitk.GetArrayViewFromImage(image).ravel(), minlength=64) for image in (rest, whole)]
    return [n for n in core if counts[0][n] >= max(1, SMALLEST_SHARE * counts[1][n])]


def mean(dice: dict[int, float]) -> float:
    return float(np.mean(list(dice.values())))
